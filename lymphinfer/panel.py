"""The marker panel: which markers there are, which implies which, and how a nucleus is called.

This is the only module that spells a marker's name. Everything else takes a `Panel`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

OTHER = "Other"


@dataclass(frozen=True)
class Marker:
    """One marker of a panel.

    Attributes
    ----------
    name : str
        The field's name, for display and for file contents, such as ``"CD3e"``.
    parent : str or None
        The marker that every cell positive for this one also carries.
    color : tuple of int
        RGB 0-255, of the class whose deepest marker this is.
    """

    name: str
    parent: str | None
    color: tuple[int, int, int]

    @property
    def key(self) -> str:
        """Column stem in tables: lower case, ``"cd3e"``."""
        return self.name.lower()

    @property
    def measurement(self) -> str:
        """Measurement name in QuPath, ``"CD3e probability"``."""
        return f"{self.name} probability"


@dataclass(frozen=True)
class Panel:
    """An ordered set of markers, parents before children.

    Attributes
    ----------
    name : str
    markers : tuple of Marker
    other_color : tuple of int
        Of a nucleus that is positive for none.
    scored : tuple of str
        The markers of the immune score, where the panel has one.

    Raises
    ------
    ValueError
        If names repeat, or a parent is missing or listed after its child.

    Examples
    --------
    >>> from lymphinfer.panel import TCELL_PANEL
    >>> TCELL_PANEL.lineage("CD8a")
    ('CD45', 'CD3e', 'CD8a')
    >>> TCELL_PANEL.class_name("CD3e")
    'CD45: CD3e'
    >>> TCELL_PANEL.parent_indices
    (-1, 0, 1, 1)
    """

    name: str
    markers: tuple[Marker, ...]
    other_color: tuple[int, int, int] = field(default=(160, 160, 160))
    scored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for marker in self.markers:
            if marker.name in seen or marker.name == OTHER:
                raise ValueError(f"panel {self.name}: marker {marker.name!r} is listed twice")
            if marker.parent is not None and marker.parent not in seen:
                raise ValueError(
                    f"panel {self.name}: {marker.name}'s parent {marker.parent!r} "
                    "must be listed before it"
                )
            seen.add(marker.name)

    def __len__(self) -> int:
        return len(self.markers)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Marker names in panel order."""
        return tuple(m.name for m in self.markers)

    @cached_property
    def parent_indices(self) -> tuple[int, ...]:
        """For each marker the index of its parent, -1 for a root."""
        index = {name: i for i, name in enumerate(self.names)}
        return tuple(-1 if m.parent is None else index[m.parent] for m in self.markers)

    def index(self, name: str) -> int:
        """Index of a marker by name; `KeyError` when it is not in the panel."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(f"{name!r} is not in the panel {self.name} {self.names}") from None

    def lineage(self, name: str) -> tuple[str, ...]:
        """Markers from the root down to `name`, itself included."""
        chain: list[str] = []
        current: str | None = name
        while current is not None:
            chain.append(current)
            current = self.markers[self.index(current)].parent
        return tuple(reversed(chain))

    def class_name(self, call: str) -> str:
        """QuPath's name of the class of a call: ``"CD45: CD3e"``, or ``"Other"``."""
        return OTHER if call == OTHER else ": ".join(self.lineage(call))

    def color(self, call: str) -> tuple[int, int, int]:
        """RGB colour of a call's class."""
        return self.other_color if call == OTHER else self.markers[self.index(call)].color

    @property
    def calls(self) -> tuple[str, ...]:
        """Every possible call, ``"Other"`` first, then the markers in panel order."""
        return (OTHER, *self.names)

    def subset(self, names: Iterable[str]) -> Panel:
        """Panel of the named markers alone, in panel order."""
        wanted = set(names)
        return Panel(self.name, tuple(m for m in self.markers if m.name in wanted))


# Colours of Okabe and Ito's palette: apart for colour-blind eyes too, and on H&E's pink and purple.
TCELL_PANEL = Panel(
    name="t-cell",
    markers=(
        Marker("CD45", None, (240, 228, 66)),
        Marker("CD3e", "CD45", (0, 158, 115)),
        Marker("CD4", "CD3e", (86, 180, 233)),
        Marker("CD8a", "CD3e", (213, 94, 0)),
    ),
    scored=("CD3e", "CD8a"),
)

PANELS: dict[str, Panel] = {TCELL_PANEL.name: TCELL_PANEL}
