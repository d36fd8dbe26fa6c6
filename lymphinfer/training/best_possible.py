"""The best that any reader of the H&E could reach, where a simulated cohort's truth says it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import Cohort
from lymphinfer.panel import Panel
from lymphinfer.training import metrics
from lymphinfer.training.data import StoreSet


def posteriors(cohort: Cohort, stores: StoreSet, panel: Panel) -> NDArray[np.float64] | None:
    """Bayes-optimal probabilities of the stores' cells, from ``truth/<slide>.parquet``.

    Parameters
    ----------
    cohort : Cohort
    stores : StoreSet
    panel : Panel

    Returns
    -------
    ndarray of float64, (N, M), or None
        None where a slide has no truth.

    Raises
    ------
    DataError
        A truth table lacks columns or cells.
    """
    import pyarrow.parquet as pq

    truth = {slide.folder: slide.truth for slide in cohort.slides}
    columns = [f"posterior_{name}" for name in panel.names]
    result = np.empty((len(stores), len(panel)))
    for slide in dict.fromkeys(stores.slides.tolist()):
        path = truth.get(slide)
        if path is None:
            return None
        try:
            table = pq.read_table(path, columns=["CellID", *columns])
            known = table["CellID"].to_numpy()
            values = np.stack([table[c].to_numpy() for c in columns], axis=1)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: not a truth table with posteriors ({error})") from error
        order = np.argsort(known)
        here = stores.slides == slide
        place = np.minimum(np.searchsorted(known[order], stores.cell_id[here]), len(known) - 1)
        if not np.array_equal(known[order][place], stores.cell_id[here]):
            raise DataError(f"{path}: the truth table is of other cells than {slide}'s cell table")
        result[here] = values[order][place]
    return result


def best_possible_auroc(cohort: Cohort, stores: StoreSet, panel: Panel) -> dict[str, float]:
    """AUROC of the Bayes-optimal probability against the same labels; empty without truth."""
    scores = posteriors(cohort, stores, panel)
    if scores is None:
        return {}
    values = {
        name: metrics.auroc(stores.labels[:, i], scores[:, i]) for i, name in enumerate(panel.names)
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}
