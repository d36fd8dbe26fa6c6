"""The nuclei of a slide as columns, for questions about their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.table import read_calls, read_ids
from lymphinfer.export.results import Result
from lymphinfer.panel import OTHER, Panel

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Nuclei:
    """All nuclei of a slide: some 50 bytes each.

    Attributes
    ----------
    panel : Panel
    ids : ndarray of uint8, shape (N, 16)
    x, y : ndarray of float64, shape (N,)
        Centroids, level-0 px.
    probabilities : ndarray of float32, shape (N, len(panel))
        NaN for a missing one.
    calls : ndarray of int8, shape (N,)
        Index into ``panel.calls``.
    """

    panel: Panel
    ids: NDArray[np.uint8]
    x: F64
    y: F64
    probabilities: NDArray[np.float32]
    calls: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.x)

    def positive(self, marker: str) -> NDArray[np.bool_]:
        """Which nuclei are called with the marker in their lineage."""
        panel = self.panel
        carries = [call != OTHER and marker in panel.lineage(call) for call in panel.calls]
        return np.array(carries)[self.calls]


def read_nuclei(result: Result) -> Nuclei:
    """Read what regions need of a slide's nuclei, in the order of its tables.

    Raises
    ------
    ResultError
        The parts cannot be read.
    """
    panel = result.panel
    keys = [f"p_{marker.key}" for marker in panel.markers]
    columns: list[list[NDArray[Any]]] = [[] for _ in range(5)]
    for table in result.tables(("id", "x", "y", *keys, "call")):
        probabilities = [table.column(key).to_numpy().astype(np.float32) for key in keys]
        row = (
            read_ids(table).copy(),
            table.column("x").to_numpy(),
            table.column("y").to_numpy(),
            np.stack(probabilities, axis=1),
            read_calls(table, panel).astype(np.int8),
        )
        for column, values in zip(columns, row, strict=True):
            column.append(values)
    empty = (
        np.empty((0, 16), np.uint8), np.empty(0), np.empty(0),
        np.empty((0, len(panel)), np.float32), np.empty(0, np.int8),
    )  # fmt: skip
    found = [np.concatenate([none, *got]) for none, got in zip(empty, columns, strict=True)]
    return Nuclei(panel, *found)
