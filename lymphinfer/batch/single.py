"""One slide from file to result folder: a batch of one, done in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from lymphinfer.batch.claims import Claims
from lymphinfer.batch.job import Job, check_jobs
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.ownership import assign_folders
from lymphinfer.batch.places import Place
from lymphinfer.batch.places.here import Here
from lymphinfer.batch.progress import BatchProgress, SilentBatch
from lymphinfer.batch.queue import Batch
from lymphinfer.batch.run import run_batch
from lymphinfer.batch.state import Status
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.loading import Bundle
from lymphinfer.cells.naming import SUMMARY, default_out, slide_stem
from lymphinfer.engine import choose_engine
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides.remote import remote_address


class Progress(Protocol):
    """Told how a slide advances."""

    def start(self, slide: Path, tiles: int, done: int) -> None:
        """Work begins: tiles in all, and how many an earlier run has done."""

    def advance(self, nuclei: int) -> None:
        """Another tile is done, with that many nuclei."""


class _Told(SilentBatch):
    """A batch's progress as that of its one slide."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def began(self, job: Job, device: str, tiles: int, done: int) -> None:
        self.progress.start(job.slide, tiles, done)

    def advanced(self, job: Job, nuclei: int) -> None:
        self.progress.advance(nuclei)


def predict_slide(
    path: str | Path,
    folder: str | Path | None = None,
    *,
    settings: PredictSettings | None = None,
    bundle: Bundle | None = None,
    progress: Progress | None = None,
) -> SlideResult:
    """Detect and classify the nuclei of one slide.

    Shards that an earlier, interrupted run with the same slide, bundle and settings has finished
    are not computed again; the files are byte for byte those of an undisturbed run. While another
    process works on the slide, this one waits.

    Parameters
    ----------
    path : str or Path
        The slide.
    folder : str or Path, optional
        The slide's result folder; by default ``<stem>.lymphinfer/<stem>`` beside it.
    settings : PredictSettings, optional
    bundle : Bundle, optional
        An already loaded bundle, instead of the settings' one.
    progress : Progress, optional

    Returns
    -------
    SlideResult

    Raises
    ------
    SlideError, PixelSizeError
        The slide cannot be read.
    BundleError
        The bundle cannot be used.
    ResultError
        The results cannot be written, or the folder holds those of another slide.
    """
    path = Path(path)
    if folder is None:
        (folder,) = assign_folders([path], [default_out(path) / slide_stem(path)])
    return run_slide(
        Job(path, Path(folder)),
        settings,
        BatchOptions(retry_failed=True),
        None if progress is None else _Told(progress),
        bundle=bundle,
    )


def run_slide(
    job: Job,
    settings: PredictSettings | None = None,
    options: BatchOptions | None = None,
    progress: BatchProgress | None = None,
    *,
    bundle: Bundle | None = None,
    place: AbstractContextManager[Place] | None = None,
    on_begin: Callable[[int], None] | None = None,
) -> SlideResult:
    """Predict one slide as a batch of one, in this process or in another place.

    Parameters
    ----------
    job : Job
    settings : PredictSettings, optional
    options : BatchOptions, optional
    progress : BatchProgress, optional
    bundle : Bundle, optional
        An already loaded bundle, for this process alone.
    place : context manager of Place, optional
    on_begin : callable, optional
        See `run_jobs`.

    Returns
    -------
    SlideResult

    Raises
    ------
    LymphinferError
        It could not be done.
    """
    settings, options = settings or PredictSettings(), options or BatchOptions()
    check_jobs([job], settings)
    if remote_address(job.slide) is None and not os.path.lexists(job.slide):
        # A name that was mistyped leaves nothing behind.
        settings.open(job.slide).close()
    if bundle is None:
        used_manifest(settings.bundle, settings.detector).calls_at(settings.operating_point)
    if place is None:
        choose_engine(settings.device, settings.precision, settings.runtime)
        place = this_process(bundle)
    claims = Claims(
        settings,
        retry_failed=options.retry_failed,
        expires_s=options.lock_expires_s,
        manifest=None if bundle is None else bundle.manifest,
    )
    batch = Batch([job], claims, progress or SilentBatch(), keep=True)
    run_batch(batch, place, options, on_begin)
    return _result(batch, job)


@contextmanager
def this_process(bundle: Bundle | None = None) -> Iterator[Place]:
    """A thread of this process."""
    yield Here(bundle=bundle)


def _result(batch: Batch, job: Job) -> SlideResult:
    """The slide's result; raises what kept it from one."""
    if job.folder in batch.results and job.folder not in batch.raised:
        return batch.results[job.folder]
    raised = batch.raised.get(job.folder)
    if raised is not None:
        raise raised
    (outcome,) = batch.result(job.folder, 0.0).outcomes
    if outcome.status is Status.DONE and outcome.file is not None:
        summary = json.loads((job.folder / SUMMARY).read_text("utf-8"))
        shards = outcome.shards
        return SlideResult(job.slide, job.folder, outcome.file, summary, shards, shards, 0.0)
    reason = batch.stopped or outcome.reason or "it was not come to"
    again = " (in an earlier run; --retry-failed tries again)"
    raise LymphinferError(reason + (again if job.folder in batch.refused else ""))
