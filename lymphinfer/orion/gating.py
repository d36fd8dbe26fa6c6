"""Gating a cohort: propose gates, apply them, draw them, slide by slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError, LymphinferError
from lymphinfer.orion.autofluorescence import AfMethod
from lymphinfer.orion.celltable import ID, CellTable, X, Y, load_cells
from lymphinfer.orion.cohort import Cohort, OrionSlide
from lymphinfer.orion.figure import draw_gates, save_figure
from lymphinfer.orion.gates import Gates, SlideGates
from lymphinfer.orion.labels import SlideLabels, load_labelled, needed_channels
from lymphinfer.orion.propose import Proposal, proposal_channels, propose_slide
from lymphinfer.orion.truth import LabelQuality, label_quality, read_truth
from lymphinfer.panel import Panel

Progress = Callable[[str, int, int], None]
PROPOSED_BY = "lymphinfer gate propose"


@dataclass(frozen=True)
class GatedSlide:
    """A slide's labels.

    Attributes
    ----------
    folder : str
    cells : int
    labels : SlideLabels
    quality : tuple of LabelQuality, or None
        Against the truth, one a marker; None where it is unknown.
    """

    folder: str
    cells: int
    labels: SlideLabels
    quality: tuple[LabelQuality, ...] | None


def propose_cohort(
    cohort: Cohort,
    panel: Panel,
    *,
    existing: Gates | None = None,
    redo: bool = False,
    af: AfMethod = AfMethod.ESTIMATE,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Gates, dict[str, tuple[Proposal, ...]]]:
    """Propose gates for every slide; see `lymphinfer.orion.propose`.

    Parameters
    ----------
    cohort : Cohort
    panel : Panel
    existing : Gates, optional
        Gates so far. Those that a person has set stand, and so do slides outside the cohort.
    redo : bool
        Propose anew what a person has set, too.
    af, confidence, seed
        See `propose_slide`.
    progress : callable, optional
        Called with a slide's name, the slides done and the slides in all.

    Returns
    -------
    gates : Gates
        Existing and proposed.
    proposals : dict of str to tuple of Proposal
        By slide.

    Raises
    ------
    DataError
        Naming every cell table that cannot be used.
    """
    slides: dict[str, SlideGates] = dict(existing.slides) if existing is not None else {}
    proposals: dict[str, tuple[Proposal, ...]] = {}

    def propose(slide: OrionSlide) -> None:
        before = slides.get(slide.folder)
        own = before.markers if before is not None and not redo else {}
        keep = {m: g for m, g in own.items() if not g.set_by.startswith(PROPOSED_BY)}
        cells = load_cells(slide.cells, proposal_channels(panel), None, slide.table_format)
        gates, proposals[slide.folder] = propose_slide(
            cells,
            panel,
            af=af,
            confidence=confidence,
            seed=seed,
            keep=keep,
            image=slide.layout.file.image,
        )
        blank_max = before.blank_max if before is not None and keep else gates.blank_max
        slides[slide.folder] = SlideGates(gates.markers, blank_max)

    _each(cohort, propose, progress)
    return Gates(dict(sorted(slides.items()))), proposals


def apply_gates(
    cohort: Cohort,
    gates: Gates,
    panel: Panel,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[GatedSlide, ...]:
    """Label every cell of a cohort and, where the truth is known, compare.

    Parameters
    ----------
    cohort : Cohort
    gates : Gates
        For every slide of the cohort.
    panel : Panel
    out : Path, optional
        Folder for ``<slide>.parquet``: CellID, centroid in level-0 px, and an int8 column a marker
        (1 positive, 0 negative, -1 unknown).
    progress : callable, optional
        Called with a slide's name, the slides done and the slides in all.

    Returns
    -------
    tuple of GatedSlide

    Raises
    ------
    DataError
        Naming every missing gate, or every cell table that cannot be used.
    """
    _check_gates(cohort, gates, panel)
    gated = []

    def apply(slide: OrionSlide) -> None:
        cells, labels = load_labelled(
            slide.cells, gates.slides[slide.folder], panel, None, slide.table_format
        )
        quality = None
        if slide.truth is not None:
            truth = read_truth(slide.truth, cells.cell_id, panel)
            quality = label_quality(labels.labels, truth, panel)
        if out is not None:
            _write_labels(out / f"{slide.folder}.parquet", cells, labels, panel)
        gated.append(GatedSlide(slide.folder, len(cells), labels, quality))

    _each(cohort, apply, progress)
    return tuple(gated)


def show_gates(
    cohort: Cohort, gates: Gates, panel: Panel, out: Path, progress: Progress | None = None
) -> list[Path]:
    """Draw every slide's gates to ``out/<slide>.png``; see `draw_gates`.

    Raises
    ------
    DataError
        Missing gates, unusable cell tables, or no matplotlib.
    """
    _check_gates(cohort, gates, panel)
    paths = []

    def show(slide: OrionSlide) -> None:
        own = gates.slides[slide.folder]
        cells = load_cells(slide.cells, needed_channels(own, panel), None, slide.table_format)
        paths.append(out / f"{slide.folder}.png")
        save_figure(draw_gates(cells, own, panel, slide.folder), paths[-1])

    _each(cohort, show, progress)
    return paths


def _check_gates(cohort: Cohort, gates: Gates, panel: Panel) -> None:
    problems = gates.problems(cohort.folders, panel.names)
    if problems:
        raise DataError("\n".join(f"gates: {problem}." for problem in problems))


def _each(cohort: Cohort, act: Callable[[OrionSlide], None], progress: Progress | None) -> None:
    """Do something to every slide; what fails is reported together in the end."""
    problems = []
    for done, slide in enumerate(cohort.slides):
        if progress is not None:
            progress(slide.folder, done, len(cohort.slides))
        try:
            act(slide)
        except LymphinferError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))
    if progress is not None and cohort.slides:
        progress(cohort.slides[-1].folder, len(cohort.slides), len(cohort.slides))


def _write_labels(path: Path, cells: CellTable, labels: SlideLabels, panel: Panel) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, NDArray[Any]] = {ID: cells.cell_id, X: cells.x, Y: cells.y}
    columns |= {name: labels.labels[:, i] for i, name in enumerate(panel.names)}
    with atomic_write(path) as file:
        parquet.write_table(pa.table(columns), file, compression="zstd")
