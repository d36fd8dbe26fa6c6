"""What QuPath would refuse, found before it is written.

One bad feature fails a whole GeoJSON file in QuPath; in a ``.zip``, its part is dropped in silence.
"""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.cells.outlines import is_valid
from lymphinfer.cells.table import read_ids, read_rings
from lymphinfer.columns import values_of
from lymphinfer.errors import ResultError
from lymphinfer.panel import Panel

REMEDY = "delete the slide's parts folder and run lymphinfer predict again"


def validate_panel(panel: Panel) -> None:
    """Check that QuPath can hold the panel's names and colours as classes.

    Raises
    ------
    ResultError
        If a marker's name is empty or has a colon or line break, or a colour is not RGB 0-255.
    """
    for name in panel.names:
        if not name.strip() or any(sign in name for sign in ":\n\r"):
            raise ResultError(
                f"panel {panel.name!r}: QuPath takes no class named {name!r}: use a name that is "
                "not empty, without colon or line break"
            )
    for call in panel.calls:
        color = panel.color(call)
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise ResultError(
                f"panel {panel.name!r}: the colour {color} of {call} is not RGB, 0 to 255 each"
            )


def validate_table(table: pa.Table) -> None:
    """Check every nucleus of a table: present id, call and position; a ring that QuPath accepts.

    Raises
    ------
    ResultError
        Naming the first nucleus that fails.
    """
    if table.num_rows == 0:
        return
    for name in ("id", "x", "y", "polygon", "call"):
        column = table.column(name)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise ResultError(f"the nucleus in row {row} of the table has no {name}: {REMEDY}")
    centers = np.stack([values_of(table.column(name)) for name in ("x", "y")], axis=1)
    _refuse(table, ~np.isfinite(centers).all(axis=1), "has no finite position")
    lengths = np.diff(values_of(table.column("polygon").combine_chunks().offsets))
    _refuse(table, lengths % 2 != 0, "has an x without a y in its outline")
    _refuse(table, lengths < 6, "has fewer than 3 vertices")
    _refuse(table, ~is_valid(read_rings(table)), "has an outline that crosses itself or is flat")


class UniqueIds:
    """Ids of a file, gathered table by table (16 bytes a nucleus) and checked at the end."""

    def __init__(self) -> None:
        self._ids: list[NDArray[np.uint8]] = []

    def add(self, table: pa.Table) -> None:
        """Remember a table's ids."""
        self._ids.append(read_ids(table))

    def check(self) -> None:
        """Check that no id came twice.

        Raises
        ------
        ResultError
            Naming an id that did.
        """
        if not self._ids:
            return
        # Two UUIDs that differ hardly ever share their first half, which alone is sorted fast.
        halves = np.sort(np.concatenate([ids[:, :8] for ids in self._ids]).view("u8").ravel())
        if not (halves[1:] == halves[:-1]).any():
            return
        words = np.concatenate(self._ids).view("u8").reshape(-1, 2)
        words = words[np.lexsort((words[:, 1], words[:, 0]))]
        twice = np.flatnonzero((words[1:] == words[:-1]).all(axis=1))
        if len(twice):
            name = uuid.UUID(bytes=words[twice[0]].tobytes())
            raise ResultError(f"the nucleus {name} is there more than once: {REMEDY}")


def _refuse(table: pa.Table, bad: NDArray[Any], what: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        name = uuid.UUID(bytes=read_ids(table)[row].tobytes())
        x, y = table.column("x")[row].as_py(), table.column("y")[row].as_py()
        raise ResultError(f"the nucleus {name} at x {x}, y {y} {what}: {REMEDY}")
