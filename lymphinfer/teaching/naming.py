"""What a class that people give to nuclei says of the markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import AnnotationError
from lymphinfer.panel import LEUKOCYTE, OTHER, Panel

SUGGESTED = "Suggested"
"""Class of what `suggest` asks about: no label until it has another."""
_LEUKOCYTES = frozenset(
    ("cd45", "leukocyte", "leucocyte", "lymphocyte", "immune cell", "immune", "inflammatory",
     "inflammatory cell", "lymphoid", "til", "stil", "plasma cell")
)  # fmt: skip
_OTHERS = frozenset(
    ("other", "tumor", "tumour", "tumor cell", "tumour cell", "stroma", "stromal", "stromal cell",
     "epithelial", "epithelium", "epithelial cell", "neoplastic", "connective", "fibroblast",
     "endothelial", "muscle", "normal", "not immune", "non-immune")
)  # fmt: skip


@dataclass(frozen=True)
class ClassNames:
    """How class names become labels.

    Attributes
    ----------
    panel : Panel
    own : mapping of str to str
        By class name, lower case: a marker of the panel, or ``Other``.
    """

    panel: Panel
    own: Mapping[str, str] = field(default_factory=dict)

    def call(self, name: str | None) -> str | None:
        """Marker that a class says is there, ``Other``, or None for a class that says nothing."""
        if name is None or name.endswith("*") or name == SUGGESTED:
            return None
        plain = name.strip().casefold()
        if plain in self.own:
            return self.own[plain]
        known = {marker.casefold(): marker for marker in self.panel.names}
        parts = [part.strip().casefold() for part in name.split(":")]
        named = [known[part] for part in parts if part in known]
        if named:
            return max(named, key=lambda marker: len(self.panel.lineage(marker)))
        for word in dict.fromkeys((plain, plain.removesuffix("s"))):
            if word in _OTHERS:
                return OTHER
            if word in _LEUKOCYTES and LEUKOCYTE in self.panel.names:
                return LEUKOCYTE
        return None

    def labels(self, calls: Iterable[str]) -> NDArray[np.int8]:
        """Labels (N, len(panel)) of calls: 1, 0, and -1 where a call does not say.

        A marker stands for its whole lineage; of its children it says nothing. ``Other`` has none
        of the panel's markers.
        """
        rows = []
        for call in calls:
            row = np.full(len(self.panel), 0 if call == OTHER else -1, np.int8)
            if call != OTHER:
                row[[self.panel.index(marker) for marker in self.panel.lineage(call)]] = 1
            rows.append(row)
        return np.array(rows, np.int8).reshape(-1, len(self.panel))


def read_names(panel: Panel, texts: Iterable[str]) -> ClassNames:
    """Read what ``--as`` says: a class, ``=``, and a marker or ``Other``.

    Raises
    ------
    AnnotationError
        One is not written like this, or names no marker of the panel.

    Examples
    --------
    >>> from lymphinfer.panel import TCELL_PANEL
    >>> names = read_names(TCELL_PANEL, ["Blue dots=CD3e"])
    >>> names.call("Blue dots"), names.call("Lymphocytes"), names.call("CD45: CD3e: CD4")
    ('CD3e', 'CD45', 'CD4')
    """
    own = {}
    known = {name.casefold(): name for name in panel.calls}
    for text in texts:
        name, _, marker = text.rpartition("=")
        found = known.get(marker.strip().casefold())
        if not name.strip() or found is None:
            raise AnnotationError(
                f"--as {text}: not a class and a marker; write it like "
                f"'Small dark={panel.names[0]}' or 'Blood vessel=Other'; the markers are "
                f"{', '.join(panel.names)}"
            )
        own[name.strip().casefold()] = found
    return ClassNames(panel, own)


def listed(names: Iterable[str | None]) -> str:
    """Class names with their counts, for messages."""
    counts = Counter("no class" if name is None else name for name in names)
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
