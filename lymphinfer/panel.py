"""The marker panel: which markers there are, which implies which, and how a nucleus is called.

This is the only module that spells a marker's name. Everything else takes a `Panel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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

    def described(self) -> list[dict[str, Any]]:
        """Markers as `panel_of` takes them, in plain values."""
        return [
            {"name": m.name, "parent": m.parent or "", "color": list(m.color)} for m in self.markers
        ]

    def subset(self, names: Iterable[str]) -> Panel:
        """Panel of the named markers alone, in panel order."""
        wanted = set(names)
        return Panel(self.name, tuple(m for m in self.markers if m.name in wanted))


# Colours of Okabe and Ito's palette: apart for colour-blind eyes too, and on H&E's pink and purple.
_LEUKOCYTE = Marker("CD45", None, (240, 228, 66))
LEUKOCYTE = _LEUKOCYTE.name
"""Marker of every leukocyte, where a panel has it."""
_T_CELL = Marker("CD3e", "CD45", (0, 158, 115))
_HELPER = Marker("CD4", "CD3e", (86, 180, 233))
_CYTOTOXIC = Marker("CD8a", "CD3e", (213, 94, 0))
_REGULATORY = Marker("FOXP3", "CD4", (0, 114, 178))
_B_CELL = Marker("CD20", "CD45", (204, 121, 167))
# No children of CD45's: a macrophage has little of it, and half of them lie below its gate.
_MACROPHAGE = Marker("CD68", None, (230, 159, 0))
_M2_LIKE = Marker("CD163", None, (138, 80, 30))

_SCORED = (_T_CELL.name, _CYTOTOXIC.name)

TCELL_PANEL = Panel("t-cell", (_LEUKOCYTE, _T_CELL, _HELPER, _CYTOTOXIC), scored=_SCORED)

PANELS: dict[str, Panel] = {
    panel.name: panel
    for panel in (
        TCELL_PANEL,
        Panel("treg", (_LEUKOCYTE, _T_CELL, _HELPER, _REGULATORY)),
        Panel("b-cell-macrophage", (_LEUKOCYTE, _B_CELL, _MACROPHAGE, _M2_LIKE)),
        Panel(
            "immune",
            (
                *(_LEUKOCYTE, _T_CELL, _HELPER, _REGULATORY, _CYTOTOXIC),
                *(_B_CELL, _MACROPHAGE, _M2_LIKE),
            ),
            scored=_SCORED,
        ),
    )
}


def panel_of(name: str, markers: Sequence[Mapping[str, Any]]) -> tuple[Panel | None, list[str]]:
    """A known panel by name, else one of the markers given.

    Parameters
    ----------
    name : str
    markers : sequence of mapping
        Of a panel of one's own: ``name``, ``parent`` (empty or missing: none) and ``color``.

    Returns
    -------
    panel : Panel or None
        None where there is none.
    problems : list of str
        Why there is none.
    """
    if name in PANELS:
        return PANELS[name], []
    if not markers:
        return None, [
            f"panel = {name!r}: a panel that is not known; known: {', '.join(PANELS)}; one of "
            "your own needs [[marker]] tables with color"
        ]
    colorless = [str(m["name"]) for m in markers if not m.get("color")]
    if colorless:
        return None, [
            f"[[marker]] {', '.join(colorless)}: color is missing, which a panel that is not one "
            f"of {', '.join(PANELS)} needs"
        ]
    try:
        own = [Marker(str(m["name"]), m.get("parent") or None, tuple(m["color"])) for m in markers]
        return Panel(name, tuple(own)), []
    except (ValueError, TypeError) as error:
        return None, [str(error)]


def panel_with(names: Sequence[str]) -> Panel:
    """The first known panel that has all of these markers, cut down to them; else one of no kin."""
    for panel in PANELS.values():
        if set(names) <= set(panel.names):
            return panel.subset(names)
    return Panel("own", tuple(Marker(name, None, (90, 90, 90)) for name in names))
