"""Measuring a bundle or a training run on a split."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.compute import resolve_device
from lymphinfer.errors import DataError
from lymphinfer.extras import require_extra
from lymphinfer.orion.cohort import Cohort, open_cohort
from lymphinfer.orion.manifest import batch_of
from lymphinfer.orion.patch_store import store_info
from lymphinfer.training import metrics
from lymphinfer.training.best_possible import best_possible_auroc
from lymphinfer.training.data import StoreSet
from lymphinfer.training.device import AUTOCAST, choose_precision
from lymphinfer.training.intervals import measure
from lymphinfer.training.results import Evaluation, write_evaluation
from lymphinfer.training.scorer import Predictions, Scorer, open_scorer

log = logging.getLogger(__name__)

Draw = Callable[[Cohort, Path, Scorer, Predictions], object]
"""Pictures of a cohort's slides in a folder, by what a bundle says of their cells."""


def find_stores(work: Path, split: str, patch_px: int) -> list[Path]:
    """Finished patch stores of a split and a patch size below a folder, by name.

    Stores of other splits and sizes may be unfinished, as those of a run that is under way are.

    Raises
    ------
    DataError
        None there, or one of them is unfinished: every slide is named whose store is.
    """
    found: dict[str, list[Path]] = {}
    unfinished = []
    for path in sorted(work.rglob("*.zarr")):
        info, complete = store_info(path)
        if (info.split, info.patch_px, complete) == (split, patch_px, False):
            unfinished.append(info.slide)
        if not complete:
            continue
        found.setdefault(f"{info.split} at {info.patch_px} px", []).append(path)
    if unfinished:
        raise DataError(
            f"{work}: the patches of {', '.join(unfinished)} are unfinished, so that {split} would "
            "be measured on a part of its slides. Give the `lymphinfer retrain` command again: it "
            "goes on where it stopped."
        )
    wanted = f"{split} at {patch_px} px"
    if wanted not in found:
        have = ", ".join(f"{len(v)} of {k}" for k, v in sorted(found.items())) or "none"
        raise DataError(
            f"{work}: no patch store of {wanted}; found: {have}. Give the folder that "
            "`lymphinfer retrain` works in (<out>.work)."
        )
    folders = {path.parent for path in found[wanted]}
    if len(folders) > 1:
        raise DataError(
            f"{work} holds patch stores of several runs; name one of "
            + ", ".join(str(f) for f in sorted(folders))
        )
    return found[wanted]


def measure_predictions(
    scorer: Scorer,
    predictions: Predictions,
    *,
    cohort: Cohort | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Metrics of every marker, with intervals by patient, AUROC by slide and by batch.

    With the cohort, and where that is a simulated one, also the best possible AUROC.
    """
    stores = predictions.stores
    rows = tuple(
        measure(
            name,
            stores.labels[:, i],
            predictions.raw[:, i],
            predictions.final[:, i],
            stores.patients,
            threshold=scorer.thresholds[i],
            replicates=replicates,
            seed=seed,
        )
        for i, name in enumerate(scorer.panel.names)
    )

    def auroc_by(groups: NDArray[np.str_]) -> dict[str, dict[str, float]]:
        return {
            group: {
                name: metrics.auroc(
                    stores.labels[groups == group, i], predictions.final[groups == group, i]
                )
                for i, name in enumerate(scorer.panel.names)
            }
            for group in dict.fromkeys(groups.tolist())
            if group
        }

    batches = {p: batch_of(p) for p in np.unique(stores.patients).tolist()}
    named = {p: "" if b is None else f"batch {b}" for p, b in batches.items()}
    by_batch = auroc_by(np.array([named[p] for p in stores.patients.tolist()]))
    best = best_possible_auroc(cohort, stores, scorer.panel) if cohort else {}
    return Evaluation(scorer.name, rows, auroc_by(stores.slides), best, by_batch)


def evaluate(
    source: str | Path,
    work: Path,
    out: Path,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    replicates: int = 1000,
    seed: int = 0,
    cohort: Path | None = None,
    draw: Draw | None = None,
    command: str = "lymphinfer evaluate",
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure a bundle or a training run on a split and write everything about it.

    Parameters
    ----------
    source : str or Path
        Bundle by name or folder, or a training run's folder.
    work : Path
        Folder with patch stores, as `lymphinfer retrain` leaves it.
    out : Path
        ``predictions.parquet``, ``metrics.json``, ``metrics.md``, ``roc.png``,
        ``precision_recall.png``, ``calibration.png`` and what `draw` draws.
    split : str
        ``train``, ``val`` or ``test``. On the evenly drawn train and val, average precision and
        calibration are not those of a slide.
    device, precision : str
    replicates, seed : int
        Of the bootstrap.
    cohort : Path, optional
        Of the slides behind the stores; wanted for `draw`, and for the best possible AUROC of a
        simulated cohort.
    draw : callable, optional
        Draws the slides into `out`, such as `lymphinfer.paper.figure4.draw_figures`.
    command : str
    advance : callable, optional
        Told the number of patches after each chunk.

    Returns
    -------
    Evaluation

    Raises
    ------
    DataError, BundleError
        Nothing to measure, or nothing to measure it on; the extra ``train`` is not installed.
    """
    require_extra("train", "measuring", DataError)
    if draw is not None and cohort is None:
        raise DataError("the figure shows the slides: give their cohort (--cohort)")
    opened = open_cohort(cohort) if cohort is not None else None
    if opened is not None and opened.layout.caution:
        log.warning("%s", opened.layout.caution)
    scorer = open_scorer(source)
    stores = StoreSet(find_stores(work, split, scorer.net.config.patch_px))
    where = resolve_device(device)
    predictions = scorer.predict(
        stores,
        device=where,
        autocast=AUTOCAST[choose_precision(precision, where)],
        advance=advance,
    )
    evaluation = measure_predictions(
        scorer, predictions, cohort=opened, replicates=replicates, seed=seed
    )
    write_evaluation(out, scorer, predictions, evaluation, command=command)
    if draw is not None and opened is not None:
        draw(opened, out, scorer, predictions)
    return evaluation
