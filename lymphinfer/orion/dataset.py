"""From a gated cohort to the patch stores that training reads: label, sample, cut."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lymphinfer.errors import DataError, LymphinferError, ResultError
from lymphinfer.orion.cohort import ORION_MPP, Cohort, OrionSlide
from lymphinfer.orion.gates import Gates
from lymphinfer.orion.labels import load_labelled
from lymphinfer.orion.patch_store import VERSION, PatchStore, StoreCells, StoreInfo
from lymphinfer.orion.patches import cut_store
from lymphinfer.orion.sampling import CELLS_PER_PATIENT, Sample, check_positives, sample_patient
from lymphinfer.orion.splits import Splits
from lymphinfer.panel import Panel
from lymphinfer.slides.identity import file_identity


@dataclass(frozen=True)
class PatchSettings:
    """What decides the patches besides cohort, gates and splits.

    Attributes
    ----------
    patch_px : int
        Side of a patch, px.
    mpp : float
        Pixel size of the patches, µm/px.
    cells_per_patient : int
    seed : int
        Of the sampling.
    """

    patch_px: int = 112
    mpp: float = ORION_MPP
    cells_per_patient: int = CELLS_PER_PATIENT
    seed: int = 0


def store_path(out: Path, slide: OrionSlide) -> Path:
    """Place of a slide's patch store: ``out/<folder>.zarr``."""
    return out / f"{slide.folder}.zarr"


def prepare_patches(
    cohort: Cohort,
    gates: Gates,
    splits: Splits,
    out: Path,
    panel: Panel,
    settings: PatchSettings | None = None,
    *,
    threads: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, tuple[PatchStore, ...]]:
    """Make the patch store of every slide of the splits' patients.

    Finished stores of the same inputs are kept, an unfinished one is gone on with, one of other
    inputs (files, gates, split, settings) is made afresh.

    Parameters
    ----------
    cohort : Cohort
    gates : Gates
        For all slides of the splits' patients.
    splits : Splits
    out : Path
        Folder of the stores.
    panel : Panel
    settings : PatchSettings, optional
        The paper's where None.
    threads : int
        Tiles that are read at the same time.
    progress : callable, optional
        Called with a slide's name, its patches done, and its patches in all.

    Returns
    -------
    dict of str to tuple of PatchStore
        By split: ``"train"``, ``"val"``, ``"test"``.

    Raises
    ------
    DataError
        Gates are missing or wrong, cell tables unusable (all of them are named), or a marker has
        no positive cell to learn from.
    SlideError
        An image cannot be read.
    ResultError
        The stores cannot be written, or the disk has no room for them.
    """
    settings = settings or PatchSettings()
    own = [slide for slide in cohort.slides if splits.of(slide.patient) is not None]
    problems = gates.problems([slide.folder for slide in own], panel.names)
    if problems:
        raise DataError("\n".join(f"gates: {problem}." for problem in problems))
    infos = {s.folder: _info(s, cohort, gates, splits, panel, settings) for s in own}
    plans, samples = _plan(cohort, gates, splits, out, panel, settings, infos)
    check_positives(samples, panel)
    _check_room(out, sum(len(cells) for cells in plans.values()), settings.patch_px)
    stores: dict[str, list[PatchStore]] = {"train": [], "val": [], "test": []}
    for slide in own:
        path, info = store_path(out, slide), infos[slide.folder]
        if slide.folder in plans:
            report = None
            if progress is not None:
                report = _Named(progress, slide.folder)
            with slide.open_he() as image:
                cells = plans[slide.folder]
                cut_store(image, path, info, cells, threads=threads, progress=report)
        stores[info.split].append(PatchStore(path))
    return {split: tuple(found) for split, found in stores.items()}


@dataclass(frozen=True)
class _Named:
    """A slide's progress as the cohort's."""

    report: Callable[[str, int, int], None]
    name: str

    def __call__(self, done: int, total: int) -> None:
        self.report(self.name, done, total)


def _plan(
    cohort: Cohort,
    gates: Gates,
    splits: Splits,
    out: Path,
    panel: Panel,
    settings: PatchSettings,
    infos: dict[str, StoreInfo],
) -> tuple[dict[str, StoreCells], list[Sample]]:
    """Cells of the stores that are to be made, by slide, and every patient's sample."""
    plans: dict[str, StoreCells] = {}
    samples, problems = [], []
    for patient in splits.patients:
        slides = cohort.of_patient(patient)
        split = splits.of(patient) or ""
        finished = [_finished(store_path(out, s), infos[s.folder].fingerprint) for s in slides]
        done = [store for store in finished if store is not None]
        if len(done) == len(slides):
            samples.append(_sample_of(patient, split, done, settings))
            continue
        labelled = []
        for slide in slides:
            try:
                with slide.open_he() as image:
                    size = image.dimensions
                own = gates.slides[slide.folder]
                form = slide.table_format
                labelled.append(load_labelled(slide.cells, own, panel, size, form))
            except LymphinferError as error:
                problems.append(str(error))
        if len(labelled) < len(slides):
            continue
        sample = sample_patient(
            patient,
            split,
            [labels.labels for _, labels in labelled],
            panel,
            n=settings.cells_per_patient,
            seed=settings.seed,
        )
        samples.append(sample)
        for slide, (cells, labels), rows in zip(slides, labelled, sample.rows, strict=True):
            chosen = StoreCells(cells.cell_id, cells.x, cells.y, labels.labels).take(rows)
            plans[slide.folder] = chosen
    if problems:
        raise DataError("\n".join(problems))
    return plans, samples


def _info(
    slide: OrionSlide,
    cohort: Cohort,
    gates: Gates,
    splits: Splits,
    panel: Panel,
    settings: PatchSettings,
) -> StoreInfo:
    """Say what a slide's store is to be; its fingerprint covers all slides of the patient."""
    slides = cohort.of_patient(slide.patient)
    split = splits.of(slide.patient) or ""
    gates_sha256 = Gates({s.folder: gates.slides[s.folder] for s in slides}).sha256()
    inputs = {
        "version": VERSION,
        "slide": slide.folder,
        "he": file_identity(slide.he),
        "cells": [file_identity(s.cells) for s in slides],
        "gates": gates_sha256,
        "split": split,
        "panel": [panel.names, panel.parent_indices],
        "settings": asdict(settings),
    }
    fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return StoreInfo(
        slide.folder,
        slide.patient,
        split,
        settings.patch_px,
        settings.mpp,
        gates_sha256,
        panel.names,
        fingerprint,
    )


def _finished(path: Path, fingerprint: str) -> PatchStore | None:
    try:
        store = PatchStore(path)
    except DataError:
        return None
    return store if store.info.fingerprint == fingerprint else None


def _sample_of(
    patient: str, split: str, stores: list[PatchStore], settings: PatchSettings
) -> Sample:
    labels = np.concatenate([store.labels for store in stores])
    positives = tuple(int(n) for n in (labels == 1).sum(axis=0))
    rows = tuple(np.arange(len(store)) for store in stores)
    return Sample(patient, split, rows, settings.cells_per_patient, positives, ())


def _check_room(out: Path, patches: int, patch_px: int) -> None:
    """Raise ResultError if the patches, which hardly compress, will not fit on the disk."""
    needed = patches * patch_px**2 * 3
    folder = out
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResultError(
            f"{out}: {patches:,} patches of {patch_px} px need about {needed / 2**30:.1f} GiB, "
            f"but {free / 2**30:.1f} GiB are free. Choose another folder, smaller patches or fewer "
            "cells a patient."
        )
