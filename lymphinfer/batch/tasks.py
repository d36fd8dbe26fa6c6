"""What is sent to a place, and what it tells of it; plain values that can be pickled."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from lymphinfer.batch.lists import AREAS
from lymphinfer.errors import NO_MEMORY, BundleError, LymphinferError, is_memory_short
from lymphinfer.predict.plan import ShardsDone, SlidePlan
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides.remote import remote_address


@dataclass(frozen=True)
class PlanTask:
    """Plan a slide; `id` is the task's own number in its run."""

    id: int
    path: Path
    folder: Path
    settings: PredictSettings

    def anchored(self) -> PlanTask:
        """The task for a process with another working folder, every path from the root."""
        here = {name: _from_root(getattr(self.settings, name)) for name in AREAS}
        here |= {name: _folder_from_root(getattr(self.settings, name))
                 for name in ("bundle", "detector")}  # fmt: skip
        path = self.path if remote_address(self.path) is not None else self.path.absolute()
        settings = replace(self.settings, **here)  # type: ignore[arg-type]
        return replace(self, path=path, folder=self.folder.absolute(), settings=settings)


@dataclass(frozen=True)
class ShardsTask:
    """Compute the shards of a plan that `SlidePlan.only` has cut down to them."""

    id: int
    plan: SlidePlan

    @property
    def settings(self) -> PredictSettings:
        """Those of the plan."""
        return self.plan.settings

    def anchored(self) -> ShardsTask:
        """As it is: a plan's paths are those of the task that made it."""
        return self


@dataclass(frozen=True)
class FinishTask:
    """Write the views of a slide whose shards are there."""

    id: int
    plan: SlidePlan
    seconds: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0

    @property
    def settings(self) -> PredictSettings:
        """Those of the plan."""
        return self.plan.settings

    def anchored(self) -> FinishTask:
        """As it is: a plan's paths are those of the task that made it."""
        return self


Task = PlanTask | ShardsTask | FinishTask


class Cause(StrEnum):
    """What a failure costs: a slide, or the batch."""

    SLIDE = "slide"
    DISK = "disk"
    BUNDLE = "bundle"


@dataclass(frozen=True)
class Failed:
    """The task failed; `error` is what was raised, where that was in this process."""

    cause: Cause
    reason: str
    error: BaseException | None = field(default=None, compare=False)


Answer = SlideResult | SlidePlan | ShardsDone | Failed


@dataclass(frozen=True)
class Taken:
    """A worker has the task: from now on it may hang. Told again, the worker before was lost."""

    task: int
    where: str


@dataclass(frozen=True)
class Began:
    """The networks are loaded and work on the task begins: from now on the slide's time runs."""

    task: int


@dataclass(frozen=True)
class Advanced:
    """A tile is done, with that many nuclei."""

    task: int
    nuclei: int


@dataclass(frozen=True)
class Weighs:
    """Bytes of memory that the task's worker has."""

    task: int
    bytes: int


@dataclass(frozen=True)
class Answered:
    """The task is over."""

    task: int
    answer: Answer


Event = Taken | Began | Advanced | Weighs | Answered


def failure(error: BaseException) -> Failed:
    """What an error means for the batch, in words for the summary."""
    if is_disk_full(error):
        return Failed(Cause.DISK, str(error))
    if isinstance(error, BundleError):
        return Failed(Cause.BUNDLE, str(error))
    if isinstance(error, LymphinferError):
        return Failed(Cause.SLIDE, str(error))
    if is_memory_short(error):
        return Failed(Cause.SLIDE, f"{NO_MEMORY}; or the file is damaged")
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


def _from_root(named: str | None) -> str | None:
    return None if named is None else str(Path(named).absolute())


def _folder_from_root(named: str | None) -> str | None:
    """A folder from the root; a bundle's name is none."""
    return _from_root(named) if named is not None and Path(named).is_dir() else named
