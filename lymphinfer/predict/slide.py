"""One slide from file to result folder: resumed where it stopped, never half-written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from lymphinfer.batch.ownership import assign_folders, check_owner, new_state
from lymphinfer.batch.state import Status, enqueue, read_state, write_state
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import LONGEST_SUFFIX, SUMMARY, default_out, slide_stem
from lymphinfer.compute import half_type, resolve_device
from lymphinfer.errors import ResultError
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.plan import (
    SlidePlan,
    add_seconds,
    plan_slide,
    predict_shards,
)
from lymphinfer.predict.settings import PredictSettings, SlideResult
from lymphinfer.runtime import choose_runtime

__all__ = ["SUMMARY", "Progress", "default_out", "load", "open_plan", "predict_slide", "slide_stem"]


class Progress(Protocol):
    """Told how a slide advances."""

    def start(self, slide: Path, tiles: int, done: int) -> None:
        """Work begins: tiles in all, and how many an earlier run has done."""

    def advance(self, nuclei: int) -> None:
        """Another tile is done, with that many nuclei."""


class Silent:
    """A `Progress` that tells nobody."""

    def start(self, slide: Path, tiles: int, done: int) -> None:
        """See `Progress`."""

    def advance(self, nuclei: int) -> None:
        """See `Progress`."""


def load(settings: PredictSettings) -> Bundle:
    """Load the bundle of the settings on their device.

    Raises
    ------
    BundleError
        It cannot be used, or has no operating point of the settings' name.
    """
    device = resolve_device(settings.device)
    used_manifest(settings.bundle, settings.detector).calls_at(settings.operating_point)
    return load_bundle(
        settings.bundle,
        detector=settings.detector,
        device=device,
        autocast=half_type(device, settings.precision),
        runtime=choose_runtime(device, settings.runtime),
    )


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
    are not computed again; the files are byte for byte those of an undisturbed run.

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
    settings = settings or PredictSettings()
    if folder is None:
        (folder,) = assign_folders([path], [default_out(path) / slide_stem(path)])
    folder = Path(folder)
    progress = progress or Silent()
    began = time.perf_counter()
    with settings.open(path) as slide:
        if not settings.redo:
            check_owner(folder, path)
        check_writable(folder, slide_stem(path))
        bundle = bundle or load(settings)
        with _owned(folder, path) as owned:
            plan = plan_slide(slide, folder, settings, bundle)
            if isinstance(plan, SlideResult):
                owned.append(plan)
                return plan
            progress.start(path, plan.tiles(), plan.tiles(plan.done))
            done = predict_shards(plan, plan.todo, bundle, slide=slide, on_tile=progress.advance)
            result = finish_slide(
                plan,
                bundle.manifest,
                seconds=add_seconds(plan.seconds, done.seconds),
                total_seconds=time.perf_counter() - began,
            )
            owned.append(result)
    return result


@contextmanager
def _owned(folder: Path, path: Path) -> Iterator[list[SlideResult]]:
    """Write down whose the folder is while no batch does, and that the slide is done."""
    state = read_state(folder)
    results: list[SlideResult] = []
    if state is None:
        state = new_state(path, since=time.time())
        with suppress(OSError):
            enqueue(folder, state)
    yield results
    # A batch's own worker meets a slide that runs, or one that was done before.
    if results and state.status in (Status.QUEUED, Status.FAILED):
        (result,) = results
        changes: dict[str, Any] = {"since": time.time(), "seconds": round(result.seconds, 3)}
        done = new_state(path, status=Status.DONE, nuclei=result.n_nuclei, **changes)
        with suppress(ResultError):
            write_state(folder, done)


def open_plan(
    path: Path, folder: Path, settings: PredictSettings, bundle: Bundle
) -> SlidePlan | SlideResult:
    """Plan a slide that others will compute, see `plan_slide`.

    Raises
    ------
    SlideError, PixelSizeError
        The slide cannot be read.
    ResultError
        The results cannot be written.
    """
    with settings.open(path) as slide:
        check_writable(folder, slide_stem(path))
        return plan_slide(slide, folder, settings, bundle)


def check_writable(folder: Path, stem: str = "") -> None:
    """Fail before the hours of work, not after them.

    Parameters
    ----------
    folder : Path
    stem : str
        Start of the names of the files that will be written there.

    Raises
    ------
    ResultError
        Files cannot be made in the folder, not removed, or not have such long names.
    """
    probe = folder / f".{stem}{LONGEST_SUFFIX}.tmp"
    with atomic_write(probe) as stream:
        stream.write(b"")
    try:
        probe.unlink()
    except OSError as error:
        raise ResultError(f"{folder}: files can be made there but not removed ({error})") from error
