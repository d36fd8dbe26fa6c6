"""Doing a task in this process: the same code in every place."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from lymphinfer.batch.tasks import (
    Advanced,
    Answer,
    Began,
    Event,
    Failed,
    FinishTask,
    PlanTask,
    Task,
    failure,
)
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.loading import Bundle
from lymphinfer.cells.files import check_writable
from lymphinfer.cells.naming import LONGEST_SUFFIX, slide_stem
from lymphinfer.engine import choose_engine
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.plan import SlidePlan, load, plan_slide, predict_shards
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import Slide

log = logging.getLogger(__name__)

MAX_BUNDLES = 2

Tell = Callable[[Event], None]


class BundleCache:
    """Loaded bundles of this process, the least recently used one given up first."""

    def __init__(self, size: int = MAX_BUNDLES):
        self.size = size
        self._bundles: dict[tuple[object, ...], Bundle] = {}
        self._lock = threading.Lock()

    def get(self, settings: PredictSettings) -> Bundle:
        """Bundle of the settings on their device, loaded at most once."""
        # `auto` and what it comes to are one bundle.
        engine = choose_engine(settings.device, settings.precision, settings.runtime)
        key = (settings.bundle, settings.detector, engine)
        with self._lock:
            bundle = self._bundles.pop(key, None) or load(settings)
            while len(self._bundles) >= self.size:
                self._bundles.pop(next(iter(self._bundles)))
            self._bundles[key] = bundle
            return bundle


class Performer:
    """Does tasks, one at a time.

    A slide stays open from its plan to its shards where the same performer gets both.

    Parameters
    ----------
    device : str, optional
        Over that of a task's settings.
    bundle : Bundle, optional
        Over that of a task's settings.
    """

    def __init__(self, device: str | None = None, bundle: Bundle | None = None):
        self.device, self.bundle = device, bundle
        self._bundles = BundleCache()
        self._slide: Slide | None = None
        self._mark = ""

    def do(self, task: Task, tell: Tell, pipe_errors: tuple[type[Exception], ...] = ()) -> Answer:
        """Do a task; a failure is an answer, not an exception.

        Parameters
        ----------
        task : Task
        tell : callable
            Told what happens on the way.
        pipe_errors : tuple of exception types
            Of `tell`, passed through.
        """
        try:
            return self._do(task, tell)
        except pipe_errors:
            raise
        except Exception as error:
            log.info("%s failed", type(task).__name__, exc_info=True)
            return replace(failure(error), error=error)
        finally:
            if not isinstance(task, PlanTask):
                self.close()

    def close(self) -> None:
        """Let go of the slide that is open."""
        slide, self._slide = self._slide, None
        if slide is not None:
            with suppress(Exception):
                slide.close()

    def _do(self, task: Task, tell: Tell) -> Answer:
        settings = task.settings
        if self.device is not None:
            settings = replace(settings, device=self.device)
        if isinstance(task, FinishTask):
            tell(Began(task.id))
            manifest = (
                used_manifest(settings.bundle, settings.detector)
                if self.bundle is None
                else self.bundle.manifest
            )
            return finish_slide(
                task.plan, manifest, seconds=task.seconds, total_seconds=task.total_seconds
            )
        if isinstance(task, PlanTask):
            self.close()
            return self._plan(replace(task, settings=settings), tell)
        # As the plan resolved them, whatever this worker's device prefers.
        precision, runtime = short_precision(task.plan.precision), task.plan.runtime
        bundle = self._get(replace(settings, precision=precision, runtime=runtime))
        tell(Began(task.id))
        return predict_shards(
            task.plan,
            [shard.id for shard in task.plan.shards],
            bundle,
            slide=self._opened(task.plan),
            on_tile=lambda nuclei: tell(Advanced(task.id, nuclei)),
        )

    def _plan(self, task: PlanTask, tell: Tell) -> Answer:
        bundle = self._get(task.settings)
        tell(Began(task.id))
        began = time.perf_counter()
        slide = task.settings.open(task.path)
        try:
            check_writable(task.folder, f"{slide_stem(task.path)}{LONGEST_SUFFIX}")
            plan = plan_slide(slide, task.folder, task.settings, bundle)
        except BaseException:
            slide.close()
            raise
        if isinstance(plan, SlidePlan):
            self._slide, self._mark = slide, plan.mark
            log.info("planned %s in %.1f s", task.path, time.perf_counter() - began)
        else:
            slide.close()
        return plan

    def _get(self, settings: PredictSettings) -> Bundle:
        return self.bundle or self._bundles.get(settings)

    def _opened(self, plan: SlidePlan) -> Slide | None:
        slide = self._slide
        known = slide is not None and (slide.path, self._mark) == (plan.path, plan.mark)
        return slide if known else None


def short_precision(name: str) -> str:
    """A precision's name in a summary as the settings take it."""
    return {"bfloat16": "bf16", "float16": "fp16"}.get(name, name)


def without_error(answer: Answer) -> Answer:
    """An answer that can be pickled: an exception may not be."""
    return replace(answer, error=None) if isinstance(answer, Failed) else answer
