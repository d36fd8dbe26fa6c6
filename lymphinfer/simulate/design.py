"""Which slides a simulated cohort has, and what patient, batch and slide each brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lymphinfer.errors import DataError
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate.fluorescence import Acquisition, sample_acquisition
from lymphinfer.simulate.layout import LayoutSettings
from lymphinfer.simulate.stain import Stain, sample_stain
from lymphinfer.simulate.tissue import PAPER_RATIOS, TissueSettings

IMBALANCES: dict[str, dict[str, float]] = {
    "paper": PAPER_RATIOS,
    "rich": {"CD45": 0.50, "CD3e": 0.20, "CD4": 0.08, "CD8a": 0.06},
}
"""Positive to negative cells by name: the paper's, and one for small cohorts, where the paper's
would leave a handful of CD4 and CD8a cells."""

BATCHES: tuple[tuple[int, ...], ...] = (
    (*range(1, 8), 9, 10),
    tuple(range(11, 21)),
    (8, *range(21, 31)),
    tuple(range(31, 41)),
)
"""Patients by imaging batch, as ORION's."""

MPP = 0.325


@dataclass(frozen=True)
class SlidePlan:
    """One slide of a cohort.

    Attributes
    ----------
    folder : str
        ``"CRC01"``, or ``"CRC33_01"`` for the first of patient 33's two.
    patient : int
        1 to 40.
    batch : int
        Index in `BATCHES`.
    files : dict of str to str
        File name by kind: ``"if"``, ``"he"``, ``"mask"``, ``"cells"``, ``"markers"``.
    """

    folder: str
    patient: int
    batch: int
    files: dict[str, str]


@dataclass(frozen=True)
class SlideConditions:
    """What one slide is drawn from.

    Attributes
    ----------
    tissue : TissueSettings
        The tissue and its share of marker-positive cells.
    stain : Stain
        H&E stain.
    acquisition : Acquisition
        Immunofluorescence.
    shift_px : tuple of int
        (x, y) by which the H&E lies off the mask and the IF.
    tissue_seed : numpy.random.SeedSequence
        Seed of tissue and cells.
    image_seed : numpy.random.SeedSequence
        Seed of the immunofluorescence.
    """

    tissue: TissueSettings
    stain: Stain
    acquisition: Acquisition
    shift_px: tuple[int, int]
    tissue_seed: np.random.SeedSequence
    image_seed: np.random.SeedSequence


def _folders() -> list[tuple[str, int]]:
    return [
        (folder, patient)
        for patient in range(1, 41)
        for folder in (
            (f"CRC{patient}_01", f"CRC{patient}_02") if patient == 33 else (f"CRC{patient:02d}",)
        )
    ]


def _batch(patient: int) -> int:
    return next(i for i, patients in enumerate(BATCHES) if patient in patients)


def _files(folder: str, patient: int, batch: int) -> dict[str, str]:
    """File names with ORION's irregularities: patterns match them, numbers do not build them."""
    serial = 28 + patient
    slide = {"CRC33_01": f"S{serial}_01", "CRC33_02": f"S{serial}_02"}.get(folder, f"S{serial}")
    full = "" if batch == 0 or patient == 33 else "_Full"
    date = ("20220106", "20220128", "20220224", "20220302")[batch]
    clock = f"{(patient * 7919) % 240000:06d}_{(patient * 104729) % 1000000:06d}"
    series = "klnq"[batch]
    twin = "-2" if folder == "CRC33_01" else ""
    extra = "P37-S83_" if patient == 40 else ""
    he = f"18459_LSP{10353 + 11 * patient}" if batch == 0 else f"19510_{extra}C{patient}"
    return {
        "if": f"P37_{slide}{full}_A24_C59{series}X_E15_{date}_{clock}-zlib.ome.tiff",
        "he": f"{he}_US_SCAN_OR_001__{90000 + 131 * patient:06d}{twin}-registered.ome.tif",
        "mask": f"P37_{slide}-{folder}-mask.ome.tif",
        "cells": f"P37_{slide}-{folder}.csv",
        "markers": "markers.csv",
    }


def plan_cohort(slides: int) -> list[SlidePlan]:
    """Choose a cohort's slides: all batches, and from four slides on both of patient 33.

    A larger cohort holds all slides of a smaller one (from four slides on), unchanged.

    Parameters
    ----------
    slides : int
        1 to 41.

    Returns
    -------
    list of SlidePlan
        In order of folder names.

    Raises
    ------
    DataError
        If there cannot be that many.
    """
    everything = _folders()
    if not 1 <= slides <= len(everything):
        raise DataError(f"--slides {slides}: ORION's layout has 1 to {len(everything)} slides.")
    patient_of = dict(everything)
    first = ["CRC01", "CRC11", "CRC21"] if slides < 4 else ["CRC33_01", "CRC33_02", "CRC01"]
    rest = ["CRC11", "CRC21", "CRC02", "CRC12", "CRC22", "CRC34", "CRC40"]
    order = list(dict.fromkeys([*first, *rest, *patient_of]))
    plans = []
    for folder in sorted(order[:slides]):
        patient = patient_of[folder]
        batch = _batch(patient)
        plans.append(SlidePlan(folder, patient, batch, _files(folder, patient, batch)))
    return plans


def marker_shares(ratios: Mapping[str, float]) -> dict[str, float]:
    """Share of all cells from positive-to-negative ratios.

    Parameters
    ----------
    ratios : mapping of str to float
        Positive to negative cells of every marker of the panel.

    Returns
    -------
    dict of str to float

    Raises
    ------
    DataError
        If a marker is missing or unknown, a ratio is not positive, or children exceed a parent.
    """
    names = TCELL_PANEL.names
    problems = [f"{name} is not in the panel {names}" for name in ratios if name not in names]
    problems += [f"{name} has no ratio" for name in names if name not in ratios]
    problems += [f"{n} has ratio {r}; it must be above 0" for n, r in ratios.items() if not r > 0]
    if not problems:
        shares = {name: ratios[name] / (1 + ratios[name]) for name in names}
        for marker in TCELL_PANEL.markers:
            children = [m.name for m in TCELL_PANEL.markers if m.parent == marker.name]
            total = sum(shares[c] for c in children)
            if total > shares[marker.name]:
                problems.append(
                    f"{' + '.join(children)} make {total:.3f} of all cells, "
                    f"more than their parent {marker.name}'s {shares[marker.name]:.3f}"
                )
        if not problems:
            return shares
    raise DataError("Marker ratios: " + "; ".join(problems) + ".")


def _varied(rng: np.random.Generator, shares: dict[str, float]) -> dict[str, float]:
    """Draw a patient's own shares: each marker's odds within its parent vary, about 15 %."""
    own: dict[str, float] = {}
    for marker in TCELL_PANEL.markers:
        above, mine = 1.0, 1.0
        if marker.parent is not None:
            above, mine = shares[marker.parent], own[marker.parent]
        within = min(shares[marker.name] / above, 0.999)
        odds = within / (1 - within) * np.exp(0.15 * rng.standard_normal())
        own[marker.name] = float(mine * odds / (1 + odds))
    for marker in TCELL_PANEL.markers:
        children = [m.name for m in TCELL_PANEL.markers if m.parent == marker.name]
        total = sum(own[c] for c in children)
        if total > own[marker.name]:
            for child in children:
                own[child] *= own[marker.name] / total
    return own


def draw_conditions(
    plan: SlidePlan, seed: int, shares: dict[str, float], stain_spread: float
) -> SlideConditions:
    """Draw what a slide is like; it depends on the seed and the slide, not on the cohort's size.

    Parameters
    ----------
    plan : SlidePlan
        The slide.
    seed : int
        The cohort's seed.
    shares : dict of str to float
        Mean share of positive cells of each marker.
    stain_spread : float
        Scale of the stain's variation.

    Returns
    -------
    SlideConditions
    """
    serial = [folder for folder, _ in _folders()].index(plan.folder)

    def source(kind: int, index: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(seed, spawn_key=(kind, index))

    patient = np.random.default_rng(source(0, plan.patient))
    batch = np.random.default_rng(source(1, plan.batch))
    slide = np.random.default_rng(source(2, serial))
    own = _varied(patient, shares)
    layout = LayoutSettings(
        gland_spacing_um=float(patient.uniform(150, 195)),
        tumour_share=float(patient.uniform(0.3, 0.75)),
        aggregate_share=0.11 * own["CD45"],
        tissue_share=float(slide.uniform(0.93, 0.99)),
    )
    stain = _batch_stain(batch, slide, stain_spread)
    shifts = [(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3) if max(abs(dx), abs(dy)) >= 1]
    dx, dy = shifts[int(slide.integers(len(shifts)))]
    return SlideConditions(
        tissue=TissueSettings(layout=layout, marker_share=own, stain_spread=stain_spread),
        stain=stain,
        acquisition=sample_acquisition(batch, slide, bright_blank=plan.patient in (10, 21)),
        shift_px=(dx, dy),
        tissue_seed=source(3, serial),
        image_seed=source(4, serial),
    )


def _batch_stain(batch: np.random.Generator, slide: np.random.Generator, spread: float) -> Stain:
    """Halfway between the batch's stain and the slide's own."""
    a, b = sample_stain(batch, spread), sample_stain(slide, spread)

    def between(x: tuple[float, float, float], y: tuple[float, float, float]) -> list[float]:
        return [(a + b) / 2 for a, b in zip(x, y, strict=True)]

    h, e, white = (
        between(a.haematoxylin, b.haematoxylin),
        between(a.eosin, b.eosin),
        between(a.white, b.white),
    )
    return Stain(
        haematoxylin=(h[0], h[1], h[2]),
        eosin=(e[0], e[1], e[2]),
        haematoxylin_gain=float(np.sqrt(a.haematoxylin_gain * b.haematoxylin_gain)),
        eosin_gain=float(np.sqrt(a.eosin_gain * b.eosin_gain)),
        white=(white[0], white[1], white[2]),
        blur_um=b.blur_um,
        noise=b.noise,
    )
