"""One slide from file to result folder: resumed where it stopped, never half-written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.cells.files import atomic_write
from lymphinfer.compute import half_type, resolve_device
from lymphinfer.errors import ResultError
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.naming import SUMMARY, default_out, slide_stem
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
    """Load the bundle of the settings on their device."""
    device = resolve_device(settings.device)
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
        The results cannot be written.
    """
    path = Path(path)
    settings = settings or PredictSettings()
    folder = Path(folder) if folder is not None else default_out(path) / slide_stem(path)
    progress = progress or Silent()
    began = time.perf_counter()
    with settings.open(path) as slide:
        check_writable(folder)
        bundle = bundle or load(settings)
        plan = plan_slide(slide, folder, settings, bundle)
        if isinstance(plan, SlideResult):
            return plan
        progress.start(path, plan.tiles(), plan.tiles(plan.done))
        done = predict_shards(plan, plan.todo, bundle, slide=slide, on_tile=progress.advance)
    return finish_slide(
        plan,
        bundle.manifest,
        seconds=add_seconds(plan.seconds, done.seconds),
        total_seconds=time.perf_counter() - began,
    )


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
        check_writable(folder)
        return plan_slide(slide, folder, settings, bundle)


def check_writable(folder: Path) -> None:
    """Fail before the hours of work, not after them.

    Raises
    ------
    ResultError
        Files cannot be made in the folder, or not removed.
    """
    probe = folder / ".writable"
    with atomic_write(probe) as stream:
        stream.write(b"")
    try:
        probe.unlink()
    except OSError as error:
        raise ResultError(f"{folder}: files can be made there but not removed ({error})") from error
