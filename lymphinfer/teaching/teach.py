"""From slides and the nuclei that people have named on them to a bundle of one's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.annotations import find_roi
from lymphinfer.batch.inputs import find_jobs
from lymphinfer.bundles.evidence import Evidence
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.registry import DEFAULT_BUNDLE
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.cells.naming import slide_stem
from lymphinfer.engine import choose_engine
from lymphinfer.errors import AnnotationError, LymphinferError
from lymphinfer.markers.hierarchy import apply_hierarchy
from lymphinfer.slides import open_slide
from lymphinfer.teaching.learning import Taught, teach_marker, too_little
from lymphinfer.teaching.marked import read_marked
from lymphinfer.teaching.naming import listed, read_names
from lymphinfer.teaching.seen import Seen, see
from lymphinfer.teaching.teachable import Teachable, teachable
from lymphinfer.teaching.writing import write_taught

PLACE_UM = 250.0
"""Side of the blocks that stand on one side of a split where there are few slides."""
SLIDES = 5
"""From so many slides on, a split is by slide."""


@dataclass(frozen=True)
class TeachOptions:
    """What a user may choose.

    Attributes
    ----------
    base : str
        The bundle to begin from.
    names : tuple of str
        What classes mean, see `read_names`.
    mpp : float or None
        Level-0 pixel size of the slides, µm/px, over what their files say.
    crop_to_bounds : bool
        Annotations are in QuPath's frame; False for QuPath's ``--no-crop``.
    unchanged : bool
        Take detections too whose class is still the model's own call.
    device, precision, runtime : str
        As `predict` takes them.
    """

    base: str = DEFAULT_BUNDLE
    names: tuple[str, ...] = ()
    mpp: float | None = None
    crop_to_bounds: bool = True
    unchanged: bool = False
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"


@dataclass
class Learned:
    """Named nuclei of all slides, and what a bundle sees of them.

    Attributes
    ----------
    seen : list of Seen
        One a slide.
    labels : list of ndarray of int8, (N, M)
    slides : list of str
    blocks : list of ndarray of int64, (N, 2)
        Column and row of each nucleus' block of `PLACE_UM`.
    notes : list of str
    calls : list of str
        Of every nucleus.
    """

    seen: list[Seen] = field(default_factory=list)
    labels: list[NDArray[np.int8]] = field(default_factory=list)
    slides: list[str] = field(default_factory=list)
    blocks: list[NDArray[np.int64]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each nucleus: its slide, or its block where there are few slides."""
        rows = [
            np.column_stack([np.full(len(b), i), b if len(self.slides) < SLIDES else 0 * b])
            for i, b in enumerate(self.blocks)
        ]
        _, groups = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
        return groups.astype(np.int64).ravel()

    @property
    def grouped_by(self) -> str:
        """What a group is, for people."""
        return "slide" if len(self.slides) >= SLIDES else f"place of {PLACE_UM:g} µm"


@dataclass(frozen=True)
class TeachResult:
    """A bundle that was taught.

    Attributes
    ----------
    manifest : BundleManifest
    taught : tuple of Taught
    notes : tuple of str
        What was passed over, and why a marker was not taught.
    seconds : float
    """

    manifest: BundleManifest
    taught: tuple[Taught, ...]
    notes: tuple[str, ...]
    seconds: float


def teach(
    slides: Path,
    annotations: Path,
    out: Path,
    options: TeachOptions | None = None,
    *,
    command: str = "",
    on_slide: Callable[[str, int], None] = lambda name, nuclei: None,
) -> TeachResult:
    """Learn the last layer of a bundle's markers again from nuclei that people have named.

    Parameters
    ----------
    slides : Path
        A slide, a folder, a pattern or a list, as `predict` takes it.
    annotations : Path
        GeoJSON: the file of the one slide, or a folder with one a slide, called like it.
    out : Path
        Folder of the new bundle.
    options : TeachOptions, optional
    command : str
        What was typed, for the card.
    on_slide : callable
        Called with each slide's name and how many nuclei are named on it.

    Returns
    -------
    TeachResult

    Raises
    ------
    AnnotationError
        Too little is named, or a file cannot be used.
    BundleError
        The bundle cannot be taught.
    SlideError
        A slide cannot be read.
    """
    began = time.perf_counter()
    options = options or TeachOptions()
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise LymphinferError(f"--out {out}: is there already; name a new folder for the bundle")
    engine = choose_engine(options.device, options.precision, options.runtime)
    bundle = load_bundle(options.base, engine=engine, trainable=False)
    layer = teachable(bundle)
    found = look(slides, annotations, layer, options, on_slide)
    taught, refused = teach_markers(found, layer)
    if not taught:
        why = "; ".join(refused)
        raise AnnotationError(
            f"{annotations}: too few named nuclei to teach with ({why}): name more, of both kinds, "
            "such as lymphinfer suggest proposes"
        )
    notes = [*found.notes, *(f"not taught: {reason}" for reason in refused)]
    manifest = write_taught(
        out, layer, taught, counts=listed(found.calls), slides=len(found.slides),
        by=found.grouped_by, notes=notes, command=command,
    )  # fmt: skip
    return TeachResult(manifest, tuple(taught), tuple(notes), time.perf_counter() - began)


def look(
    slides: Path,
    annotations: Path,
    layer: Teachable,
    options: TeachOptions,
    on_slide: Callable[[str, int], None] = lambda name, nuclei: None,
) -> Learned:
    """Read the named nuclei of all slides, and what a bundle sees of them; see `teach`."""
    names = read_names(layer.bundle.manifest.panel, options.names)
    found = Learned()
    jobs = find_jobs(slides)
    if len(jobs) > 1 and not annotations.is_dir():
        raise AnnotationError(
            f"--annotations {annotations} is one file, but {slides} holds {len(jobs)} slides: give "
            "a folder with a file for each, called like the slide"
        )
    without = 0
    for job in jobs:
        try:
            path = find_roi(annotations, job.slide)
        except AnnotationError:
            if len(jobs) == 1:
                raise
            without += 1
            continue
        mpp = options.mpp if job.mpp is None else job.mpp
        with open_slide(job.slide, mpp, series=job.series) as slide:
            marked = read_marked(
                path, names, layer.bundle.manifest, dimensions=slide.dimensions, mpp=slide.mpp,
                offset=slide.bounds_offset if options.crop_to_bounds else (0, 0),
                unchanged=options.unchanged,
            )  # fmt: skip
            on_slide(job.slide.name, len(marked.marks))
            seen = see(slide, layer.bundle, layer, marked.marks)
            block = PLACE_UM / slide.mpp
        found.seen.append(seen)
        found.calls += [mark.call for mark in marked.marks]
        found.labels.append(names.labels(mark.call for mark in marked.marks))
        found.slides.append(slide_stem(job.slide))
        found.blocks.append(np.floor(seen.centers / block).astype(np.int64))
        found.notes += [f"{path.name}: {note}" for note in marked.notes]
    if not found.slides:
        raise AnnotationError(
            f"{annotations}: no annotations for any of the {len(jobs)} slides of {slides}; a file "
            f"such as {slide_stem(jobs[0].slide)}.geojson is looked for"
        )
    if without:
        found.notes.append(f"slides without annotations: {without:,}")
    alone = sum(seen.alone for seen in found.seen)
    if alone:
        found.notes.append(f"points at which no nucleus is detected, read as discs: {alone:,}")
    return found


def teach_markers(found: Learned, layer: Teachable) -> tuple[list[Taught], list[str]]:
    """Teach each marker of which enough is named.

    Returns
    -------
    taught : list of Taught
    refused : list of str
        Why the others were not, those of which anything is named.
    """
    manifest = layer.bundle.manifest
    panel, groups = manifest.panel, found.groups
    features = np.concatenate([seen.features for seen in found.seen])
    around = np.concatenate([seen.around for seen in found.seen])
    labels = np.concatenate(found.labels)
    logits, logits_around = layer.logits(features), layer.logits(around)
    now = probabilities(layer, logits)
    current = now.copy()
    calls = manifest.calls_at()
    taught, refused = [], []
    for i, marker in enumerate(panel.markers):
        spec, rows = manifest.markers[i], labels[:, i] >= 0
        if not (labels[:, i] == 1).any():
            continue
        if spec.evidence is Evidence.BASE_RATE or marker.name not in layer.learned:
            refused.append(f"{marker.name}: {manifest.name} has a base rate for it, no layer")
            continue
        parent = panel.parent_indices[i]
        if spec.is_conditional and parent >= 0:
            # Its output is P(marker | parent): of nuclei without the parent it says nothing.
            rows &= labels[:, parent] == 1
        reason = too_little(labels[rows, i], groups[rows])
        if reason:
            refused.append(f"{marker.name}: {reason}")
            continue
        column, at = layer.learned.index(marker.name), calls[i]
        below = spec.is_conditional and parent >= 0
        made = teach_marker(
            marker.name,
            features[rows],
            logits[rows, column],
            labels[rows, i],
            groups[rows],
            now=now[rows, i],
            threshold=0.5 if at is None else at.threshold,
            above=current[rows, parent] if below else None,
            around=None if below else (around, logits_around[:, column]),
        )
        taught.append(made)
        new = made.calibration(made.change(features, logits[:, column]))
        current[:, i] = new * current[:, parent] if below else new
    return taught, refused


def probabilities(layer: Teachable, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the bundle says of logits (N, learned) now, (N, M)."""
    manifest = layer.bundle.manifest
    return apply_hierarchy(
        layer.bundle.markers.head_outputs(logits),
        manifest.panel.parent_indices,
        manifest.hierarchy,
        conditional_heads=[m.is_conditional for m in manifest.markers],
    )


def summary_lines(taught: Sequence[Taught]) -> list[str]:
    """What was learned, a line a marker, for people."""
    return [
        f"{t.marker}: balanced accuracy {t.before.balanced_accuracy[0]:.3f} -> "
        f"{t.after.balanced_accuracy[0]:.3f} ({t.gain[0]:+.3f}, {t.gain[1]:+.3f} to "
        f"{t.gain[2]:+.3f}), AUROC {t.before.auroc[0]:.3f} -> {t.after.auroc[0]:.3f}, on "
        f"{t.positives + t.negatives:,} held-out nuclei"
        for t in taught
    ]
