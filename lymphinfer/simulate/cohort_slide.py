"""One slide of a simulated cohort: five files in ORION's layout, and the truth."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate import panel19
from lymphinfer.simulate.cell_table import measure_cells, write_table
from lymphinfer.simulate.design import MPP, SlidePlan, draw_conditions
from lymphinfer.simulate.fluorescence import render_fluorescence
from lymphinfer.simulate.nuclei import LabelImage
from lymphinfer.simulate.ome import write_ome_tiff
from lymphinfer.simulate.tissue import Cells, render_tissue
from lymphinfer.simulate.truth import best_auroc, truth_table, write_truth

DILATION_PX = 5.0
"""Nuclei are dilated by this much in the mask, as ORION's."""

_MARGIN = 2


def _crop(image: LabelImage, size: int) -> LabelImage:
    window = (slice(_MARGIN, _MARGIN + size),) * 2
    return LabelImage(
        np.ascontiguousarray(image.labels[window]), np.ascontiguousarray(image.distance[window])
    )


def relabel(image: LabelImage, cells: Cells) -> tuple[LabelImage, Cells]:
    """Give cells that have pixels the labels 1..n from top to bottom; leave out the others."""
    present = np.bincount(image.labels.ravel(), minlength=len(cells) + 1)[1:] > 0
    kept = np.flatnonzero(present)
    kept = kept[np.argsort(cells.y[kept], kind="stable")]
    number = np.zeros(len(cells) + 1, np.int32)
    number[kept + 1] = np.arange(1, len(kept) + 1, dtype=np.int32)
    return LabelImage(number[image.labels], image.distance), cells.take(kept)


def simulate_slide(
    folder: Path,
    truth: Path,
    plan: SlidePlan,
    *,
    size: int,
    seed: int,
    shares: dict[str, float],
    stain_spread: float = 1.0,
) -> dict[str, Any]:
    """Make one slide's five files and its truth table.

    Parameters
    ----------
    folder : Path
        Where the five files go; made if missing.
    truth : Path
        The truth table's Parquet file.
    plan : SlidePlan
        Which slide.
    size : int
        Width and height, px.
    seed : int
        The cohort's seed.
    shares : dict of str to float
        Mean share of positive cells of each marker.
    stain_spread : float
        Scale of the stain's variation.

    Returns
    -------
    dict
        The slide's parameters and numbers, for ``cohort.json``.

    Raises
    ------
    ResultError
        A file cannot be written.
    """
    conditions = draw_conditions(plan, seed, shares, stain_spread)
    rng = np.random.default_rng(conditions.image_seed)
    canvas = size + 2 * _MARGIN
    tissue = render_tissue(
        (canvas, canvas),
        mpp=MPP,
        seed=conditions.tissue_seed,
        settings=conditions.tissue,
        stain=conditions.stain,
        label_reach_px=DILATION_PX,
    )
    assert tissue.labels is not None
    dx, dy = conditions.shift_px
    he = tissue.rgb[_MARGIN - dy :, _MARGIN - dx :][:size, :size]
    eosin = np.ascontiguousarray(
        tissue.densities[_MARGIN : _MARGIN + size, _MARGIN : _MARGIN + size, 1]
    )
    image, cells = relabel(_crop(tissue.labels, size), tissue.cells)
    layout, stain = tissue.layout, tissue.stain
    del tissue
    cells = _moved(cells, -_MARGIN)

    folder.mkdir(parents=True, exist_ok=True)
    _write_he(folder / plan.files["he"], he, planar=plan.batch == 1)
    write_ome_tiff(
        folder / plan.files["mask"],
        image.labels,
        "YX",
        MPP,
        compression="zlib",
        level=6,
        nearest=True,
    )
    expression = panel19.draw_expression(rng, cells.type, cells.y, cells.x, MPP)
    counts = render_fluorescence(
        rng,
        image,
        eosin,
        layout,
        expression,
        conditions.acquisition,
        MPP,
        origin=(_MARGIN, _MARGIN),
    )
    del eosin, layout, expression
    write_ome_tiff(
        folder / plan.files["if"],
        counts,
        "CYX",
        MPP,
        compression="zlib",
        level=1,
        channels=panel19.CHANNEL_NAMES,
    )
    table = measure_cells(image.labels, counts)
    write_table(folder / plan.files["cells"], table)
    write_markers(folder / plan.files["markers"], header=plan.batch % 2 == 0)
    rows = truth_table(cells)
    write_truth(truth, rows)
    return {
        "folder": plan.folder,
        "patient": plan.patient,
        "batch": plan.batch + 1,
        "shift_px": [dx, dy],
        "cells": len(cells),
        "positives": {
            name: int(cells.markers[:, i].sum()) for i, name in enumerate(TCELL_PANEL.names)
        },
        "best_auroc": {k: finite(v) for k, v in best_auroc([rows]).items()},
        "marker_share": conditions.tissue.marker_share,
        "layout": asdict(conditions.tissue.layout),
        "stain": asdict(stain),
        "offset": conditions.acquisition.offset,
        "autofluorescence": conditions.acquisition.autofluorescence,
        "gain": dict(zip(panel19.CHANNEL_NAMES, conditions.acquisition.gain.tolist(), strict=True)),
    }


def finite(value: float) -> float | None:
    """Give None for NaN and infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def _moved(cells: Cells, by: float) -> Cells:
    fields = {name: getattr(cells, name) for name in cells.__dataclass_fields__}
    return Cells(**(fields | {"y": cells.y + by, "x": cells.x + by}))


def _write_he(path: Path, rgb: NDArray[np.uint8], *, planar: bool) -> None:
    """Write the H&E. Some of ORION's are planar; so is one batch here."""
    image = np.ascontiguousarray(np.moveaxis(rgb, -1, 0) if planar else rgb)
    write_ome_tiff(path, image, "SYX" if planar else "YXS", MPP, compression="jpeg", level=90)


def write_markers(path: Path, *, header: bool) -> None:
    """ORION's `markers.csv` comes with and without a header."""
    lines = (["Marker"] if header else []) + list(panel19.CHANNEL_NAMES)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
