"""What is true of a simulated cohort, and the best that any reader of its H&E can do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import rankdata

from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate.celltypes import FEATURES, TYPE_NAMES
from lymphinfer.simulate.sites import CONTEXTS
from lymphinfer.simulate.tissue import Cells


def auroc(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Area under the ROC curve by ranks (Mann and Whitney), ties counting half.

    Parameters
    ----------
    truth : ndarray of bool, (cells,)
        Positive or not.
    score : ndarray of float64, (cells,)
        Higher is more positive.

    Returns
    -------
    float
        NaN where one class is empty.
    """
    positive = int(truth.sum())
    negative = len(truth) - positive
    if positive == 0 or negative == 0:
        return float("nan")
    rank_sum = float(rankdata(score)[truth].sum())
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative)


def truth_table(cells: Cells) -> pa.Table:
    """Tabulate the truth about a slide's cells, in CellID order.

    Parameters
    ----------
    cells : Cells
        Cells that have a label, in the order of their labels; centres in the mask's frame.

    Returns
    -------
    pyarrow.Table
        ``CellID``, ``x``, ``y`` (level-0 px of the mask's frame), ``type``, ``looks``, ``context``,
        a bool for each marker (``CD45``), its best possible probability (``posterior_CD45``), and
        the latent features (``feature_chromatin``).
    """
    columns: dict[str, pa.Array] = {
        "CellID": pa.array(np.arange(1, len(cells) + 1, dtype=np.int32)),
        "x": pa.array(cells.x),
        "y": pa.array(cells.y),
        "type": _names(TYPE_NAMES, cells.type),
        "looks": _names(TYPE_NAMES, cells.looks),
        "context": _names(CONTEXTS, cells.context),
    }
    for i, name in enumerate(TCELL_PANEL.names):
        columns[name] = pa.array(cells.markers[:, i])
    for i, name in enumerate(TCELL_PANEL.names):
        columns[f"posterior_{name}"] = pa.array(cells.posterior[:, i])
    for i, name in enumerate(FEATURES):
        columns[f"feature_{name}"] = pa.array(cells.features[:, i].astype(np.float32))
    return pa.table(columns)


def _names(names: tuple[str, ...], index: NDArray[np.intp]) -> pa.Array:
    return pa.array(np.array(names)[index], type=pa.string())


def best_auroc(tables: list[pa.Table]) -> dict[str, float]:
    """Best possible AUROC of each marker over the cells of some slides.

    Parameters
    ----------
    tables : list of pyarrow.Table
        As `truth_table` makes them.

    Returns
    -------
    dict of str to float
        By marker; NaN where no cell or every cell is positive.
    """
    joined = pa.concat_tables(tables)
    return {
        name: auroc(joined[name].to_numpy(), joined[f"posterior_{name}"].to_numpy())
        for name in TCELL_PANEL.names
    }


def read_truth(path: Path) -> pa.Table:
    """Read a truth table from its Parquet file."""
    return pq.read_table(path)


def write_truth(path: Path, table: pa.Table) -> None:
    """Write a truth table as Parquet."""
    pq.write_table(table, path, compression="zstd")
