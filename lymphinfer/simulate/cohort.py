"""A simulated cohort in ORION's layout, with its truth beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lymphinfer.errors import DataError, ResultError
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate import celltypes, panel19
from lymphinfer.simulate.cohort_slide import finite, simulate_slide
from lymphinfer.simulate.design import (
    IMBALANCES,
    MPP,
    SlidePlan,
    marker_shares,
    plan_cohort,
)
from lymphinfer.simulate.truth import best_auroc, read_truth

_README = """# Truth of this simulated cohort

Made by `lymphinfer simulate`; the cells, images and markers are invented. `cohort.json` holds every
parameter and the best possible AUROC; `<folder>.parquet` one row a cell:

- `CellID`, `x`, `y`: label and centre in the mask's frame, level-0 px (pixel centres at integers).
  The H&E lies `shift_px` (x, y) beside that frame.
- `type`, `looks`, `context`: true type; the type whose looks it has; where it stands.
- `CD45`, `CD3e`, `CD4`, `CD8a`: true markers. `posterior_...`: the best possible probability, by
  Bayes' rule from the latent features, the context and the slide's composition. No reader of the
  H&E can reach a higher AUROC on these cells than these probabilities do, but by chance.
- `feature_...`: the latent features from which the cell was drawn.
"""


@dataclass(frozen=True)
class CohortSummary:
    """What was made.

    Attributes
    ----------
    out : Path
        The cohort; folders stand in ``out/data``, the truth in ``out/truth``.
    folders : tuple of str
        Slides, by name.
    cells : int
        Cells of all slides.
    positives : dict of str to int
        Truly positive cells of each marker.
    best_auroc : dict of str to float
        Best possible AUROC of each marker over all cells.
    """

    out: Path
    folders: tuple[str, ...]
    cells: int
    positives: dict[str, int]
    best_auroc: dict[str, float]


def simulate_cohort(
    out: Path | str,
    slides: int = 6,
    size: int = 4096,
    seed: int = 0,
    *,
    imbalance: str | Mapping[str, float] = "paper",
    stain_spread: float = 1.0,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CohortSummary:
    """Make a cohort in ORION's layout: ``out/data/<folder>/`` and ``out/truth/``.

    Parameters
    ----------
    out : Path or str
        Where to; an existing cohort there is not overwritten.
    slides : int
        Number of slides, 1 to 41; from four on two of them are of one patient.
    size : int
        Width and height of every slide, px, at 0.325 µm/px.
    seed : int
        The same seed gives the same files.
    imbalance : str or mapping of str to float
        Positive to negative cells of each marker: a name of `IMBALANCES`, or ratios.
    stain_spread : float
        Scale of the stain's variation between slides.
    workers : int, optional
        Processes; a slide of 4096 px needs about 1.3 GB in each. Two by default.
    progress : callable, optional
        Called with a folder that is done, the number done, and the number of all.

    Returns
    -------
    CohortSummary

    Raises
    ------
    DataError
        An argument makes no cohort.
    ResultError
        The cohort is there already, or cannot be written.
    """
    out = Path(out)
    if isinstance(imbalance, str):
        if imbalance not in IMBALANCES:
            raise DataError(f"Imbalance {imbalance!r} is unknown; choose from {list(IMBALANCES)}.")
        imbalance = IMBALANCES[imbalance]
    shares = marker_shares(imbalance)
    plans = plan_cohort(slides)
    if size < 256:
        raise DataError(f"--size {size} is too small to hold tissue; take 256 px or more.")
    data, truth = out / "data", out / "truth"
    if data.exists() or truth.exists():
        raise ResultError(f"{out} holds a cohort already. Remove it or choose another folder.")
    try:
        data.mkdir(parents=True)
        truth.mkdir()
        records = _run(plans, data, truth, size, seed, shares, stain_spread, workers, progress)
        tables = [read_truth(truth / f"{plan.folder}.parquet") for plan in plans]
        best = best_auroc(tables)
        positives = {n: sum(r["positives"][n] for r in records) for n in TCELL_PANEL.names}
        document = {
            "seed": seed,
            "size_px": size,
            "mpp": MPP,
            "ratios": dict(imbalance),
            "best_auroc": {k: finite(v) for k, v in best.items()},
            "positives": positives,
            "cells": sum(r["cells"] for r in records),
            "model": _model(),
            "slides": records,
        }
        text = json.dumps(document, indent=1, allow_nan=False)
        (truth / "cohort.json").write_text(text + "\n", encoding="utf-8")
        (truth / "README.md").write_text(_README, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{out}: cannot be written ({error}). Choose another place.") from error
    return CohortSummary(
        out, tuple(p.folder for p in plans), sum(r["cells"] for r in records), positives, best
    )


def _run(
    plans: list[SlidePlan],
    data: Path,
    truth: Path,
    size: int,
    seed: int,
    shares: dict[str, float],
    stain_spread: float,
    workers: int | None,
    progress: Callable[[str, int, int], None] | None,
) -> list[dict[str, Any]]:
    """Make all slides, in this process or in several; records in the plans' order."""
    arguments: dict[str, Any] = {
        "size": size,
        "seed": seed,
        "shares": shares,
        "stain_spread": stain_spread,
    }
    count = min(workers or min(os.cpu_count() or 1, 2), len(plans))
    records: dict[str, dict[str, Any]] = {}

    def done(record: dict[str, Any]) -> None:
        records[record["folder"]] = record
        if progress is not None:
            progress(record["folder"], len(records), len(plans))

    if count == 1:
        for plan in plans:
            done(
                simulate_slide(
                    data / plan.folder, truth / f"{plan.folder}.parquet", plan, **arguments
                )
            )
    else:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            futures = [
                pool.submit(
                    simulate_slide,
                    data / plan.folder,
                    truth / f"{plan.folder}.parquet",
                    plan,
                    **arguments,
                )
                for plan in plans
            ]
            for future in as_completed(futures):
                done(future.result())
    return [records[plan.folder] for plan in plans]


def _model() -> dict[str, Any]:
    """State the parameters of the cells' looks."""
    return {
        "features": list(celltypes.FEATURES),
        "types": [asdict(t) for t in celltypes.TYPES],
        "lookalike": celltypes.LOOKALIKE,
        "ambiguous": celltypes.AMBIGUOUS,
        "t_cell_shift": celltypes.T_CELL_SHIFT,
        "cd4_shift": celltypes.CD4_SHIFT,
        "cd8_shift": celltypes.CD8_SHIFT,
        "cell_spread": panel19.CELL_SPREAD,
        "nonspecific": panel19.NONSPECIFIC,
        "neighbour_spill": panel19.NEIGHBOUR_SPILL,
        "spectral_bleed": panel19.SPECTRAL_BLEED,
    }
