"""What a supervisor and its workers say to each other; plain values that can be pickled."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lymphinfer.errors import BundleError, LymphinferError
from lymphinfer.predict.plan import ShardsDone, SlidePlan
from lymphinfer.predict.settings import PredictSettings, SlideResult


@dataclass(frozen=True)
class SlideTask:
    """Predict a slide, all of it."""

    path: Path
    folder: Path
    settings: PredictSettings


@dataclass(frozen=True)
class PlanTask:
    """Plan a slide whose shards several workers will compute."""

    path: Path
    folder: Path
    settings: PredictSettings


@dataclass(frozen=True)
class ShardsTask:
    """Compute the shards of a plan that `SlidePlan.only` has cut down to them."""

    plan: SlidePlan
    settings: PredictSettings


@dataclass(frozen=True)
class FinishTask:
    """Write the views of a slide whose shards are there."""

    plan: SlidePlan
    settings: PredictSettings
    seconds: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0


Task = SlideTask | PlanTask | ShardsTask | FinishTask


class Cause(StrEnum):
    """What a failure costs: a slide, or the batch."""

    SLIDE = "slide"
    DISK = "disk"
    BUNDLE = "bundle"


@dataclass(frozen=True)
class Ready:
    """The worker is up."""


@dataclass(frozen=True)
class Began:
    """The networks are loaded and work on the task begins."""


@dataclass(frozen=True)
class Started:
    """The slide has something to compute: tiles in all, and how many an earlier run has done."""

    tiles: int
    done: int


@dataclass(frozen=True)
class Advanced:
    """A tile is done."""

    nuclei: int


@dataclass(frozen=True)
class Failed:
    """The task failed."""

    cause: Cause
    reason: str


@dataclass(frozen=True)
class Logged:
    """A record of the worker's log."""

    record: logging.LogRecord


@dataclass(frozen=True)
class Died:
    """The worker's process has ended; its exit code, negative for a signal."""

    code: int | None


Answer = SlideResult | SlidePlan | ShardsDone | Failed
Message = Ready | Began | Started | Advanced | Logged | Died | Answer


def failure(error: BaseException) -> Failed:
    """What an error means for the batch, in words for the summary."""
    if is_disk_full(error):
        return Failed(Cause.DISK, str(error))
    if isinstance(error, BundleError):
        return Failed(Cause.BUNDLE, str(error))
    if isinstance(error, LymphinferError):
        return Failed(Cause.SLIDE, str(error))
    if isinstance(error, MemoryError):
        return Failed(
            Cause.SLIDE, "not enough memory: fewer --workers, a smaller --tile, or a damaged file"
        )
    text = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return Failed(Cause.SLIDE, f"unexpected {words}. The file may be damaged; -v shows where")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that disk or quota is used up."""
    full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in full:
            return True
        cause = cause.__cause__
    return False
