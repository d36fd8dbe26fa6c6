"""What a Dask worker runs: the functions of the local engine, with one bundle a process."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import torch
from distributed import get_worker

from lymphinfer.batch.places.dask_cluster import THREADS
from lymphinfer.batch.places.worker import BundleCache
from lymphinfer.batch.tasks import Failed, failure
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.loading import Bundle
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.plan import ShardsDone, SlidePlan, predict_shards
from lymphinfer.predict.settings import PredictSettings, SlideResult
from lymphinfer.predict.slide import open_plan

STARTS = "lymphinfer-starts"
"""Topic of the scheduler's log on which every task says that it begins."""

_bundles = BundleCache()
# A network belongs to one thread at a time, however many threads a worker has.
_device = threading.Lock()


def plan(path: Path, folder: Path, settings: PredictSettings) -> SlidePlan | SlideResult | Failed:
    """Plan a slide, see `plan_slide`; a failure is an answer, not an exception."""
    try:
        with _device:
            return open_plan(path, folder, settings, _bundle(settings))
    except Exception as error:
        return failure(error)


def shards(key: str, part: SlidePlan, settings: PredictSettings) -> ShardsDone | Failed:
    """Compute the shards of a plan that `SlidePlan.only` has cut down to them.

    Parameters
    ----------
    key : str
        Name of the task, told at its start: a second start under it is a retry.
    part : SlidePlan
    settings : PredictSettings

    Returns
    -------
    ShardsDone or Failed
    """
    get_worker().log_event(STARTS, key)
    try:
        with _device:
            # As the plan resolved it, whatever this worker's device prefers.
            settings = replace(settings, precision=_short(part.precision), runtime=part.runtime)
            ids = [shard.id for shard in part.shards]
            return predict_shards(part, ids, _bundle(settings))
    except Exception as error:
        return failure(error)


def finish(
    whole: SlidePlan, settings: PredictSettings, seconds: dict[str, float], total_seconds: float
) -> SlideResult | Failed:
    """Write the views of a slide, see `finish_slide`."""
    try:
        manifest = used_manifest(settings.bundle, settings.detector)
        return finish_slide(whole, manifest, seconds=seconds, total_seconds=total_seconds)
    except Exception as error:
        return failure(error)


def _bundle(settings: PredictSettings) -> Bundle:
    # Dask starts its workers with OMP_NUM_THREADS=1.
    threads = int(os.environ.get(THREADS) or get_worker().state.nthreads)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return _bundles.get(settings)


def _short(precision: str) -> str:
    return {"bfloat16": "bf16", "float16": "fp16"}.get(precision, precision)
