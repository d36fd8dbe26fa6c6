"""How good labels are, where a simulated cohort says what each cell is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import ID
from lymphinfer.orion.labels import NEGATIVE, POSITIVE, Labels
from lymphinfer.panel import Panel


@dataclass(frozen=True)
class LabelQuality:
    """Labels of one marker against the truth.

    Attributes
    ----------
    marker : str
    cells : int
    true_positive, labelled_positive, truly_positive : int
        Rightly labelled positive, all labelled positive, all positive in truth.
    true_negative, labelled_negative : int
        Rightly labelled negative, all labelled negative.
    """

    marker: str
    cells: int
    true_positive: int
    labelled_positive: int
    truly_positive: int
    true_negative: int
    labelled_negative: int

    @property
    def precision(self) -> float:
        """Share of positive labels that are right; NaN without any."""
        return _ratio(self.true_positive, self.labelled_positive)

    @property
    def recall(self) -> float:
        """Share of truly positive cells that are labelled positive; NaN without any."""
        return _ratio(self.true_positive, self.truly_positive)

    @property
    def negative_precision(self) -> float:
        """Share of negative labels that are right; NaN without any."""
        return _ratio(self.true_negative, self.labelled_negative)

    def __add__(self, other: LabelQuality) -> LabelQuality:
        """Pool two slides."""
        return LabelQuality(
            self.marker,
            self.cells + other.cells,
            self.true_positive + other.true_positive,
            self.labelled_positive + other.labelled_positive,
            self.truly_positive + other.truly_positive,
            self.true_negative + other.true_negative,
            self.labelled_negative + other.labelled_negative,
        )


def read_truth(path: Path, cell_id: NDArray[np.int64], panel: Panel) -> NDArray[np.bool_]:
    """Read which markers cells truly carry.

    Parameters
    ----------
    path : Path
        ``truth/<folder>.parquet``: a ``CellID`` and a column a marker.
    cell_id : ndarray of int64, (N,)
        Cells wanted.
    panel : Panel

    Returns
    -------
    ndarray of bool, (N, M)

    Raises
    ------
    DataError
        The file cannot be read, lacks columns or lacks cells.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=[ID, *panel.names])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: the truth table cannot be read ({error}).") from error
    missing = [name for name in (ID, *panel.names) if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: the truth table has no column {', '.join(missing)}.")
    known = table[ID].to_numpy()
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], cell_id), len(known) - 1)
    if not np.array_equal(known[order][place], cell_id):
        raise DataError(f"{path}: the truth table and the cell table are of different cells.")
    columns = [table[name].to_numpy()[order][place].astype(bool) for name in panel.names]
    return np.stack(columns, axis=1)


def label_quality(
    labels: Labels, truth: NDArray[np.bool_], panel: Panel
) -> tuple[LabelQuality, ...]:
    """Compare labels, int8 (N, M), with the truth, bool (N, M); one result a marker."""
    result = []
    for column, marker in enumerate(panel.names):
        own, true = labels[:, column], truth[:, column]
        positive, negative = own == POSITIVE, own == NEGATIVE
        counts = (positive & true, positive, true, negative & ~true, negative)
        result.append(LabelQuality(marker, len(own), *(int(c.sum()) for c in counts)))
    return tuple(result)


def pool_quality(slides: Iterable[tuple[LabelQuality, ...]]) -> tuple[LabelQuality, ...]:
    """Pool the slides of a cohort; empty if there are none."""
    total: tuple[LabelQuality, ...] = ()
    for own in slides:
        total = tuple(a + b for a, b in zip(total, own, strict=True)) if total else own
    return total


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
