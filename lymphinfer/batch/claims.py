"""Which process works on which slide, and what became of it: locks and states together."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from lymphinfer.batch.job import Job
from lymphinfer.batch.locks import EXPIRES_S, FolderLock, Heart
from lymphinfer.batch.ownership import check_owner, new_state
from lymphinfer.batch.platform import machine
from lymphinfer.batch.state import (
    Attempt,
    SlideState,
    Status,
    enqueue,
    read_state,
    slide_stamp,
    write_state,
)
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.cells.naming import LOCK, PARTS, slide_place, slide_words
from lymphinfer.errors import LymphinferError, ResultError
from lymphinfer.predict.settings import IDLE, PredictSettings

log = logging.getLogger(__name__)

# Another device may do what one has failed on, and so may force.
_IDLE = IDLE - {"device", "force"}


class Refusal(Enum):
    """Why a slide is not for this process to do now."""

    BUSY = auto()
    FAILED_BEFORE = auto()
    DONE_MEANWHILE = auto()


@dataclass
class Claim:
    """A slide that this process holds.

    Attributes
    ----------
    job : Job
    settings : PredictSettings
        Of this slide.
    lock : FolderLock
    state : SlideState
        As it stood when the slide was claimed, with this attempt counted.
    finished_before : bool
        Whether an earlier run says that it is done.
    """

    job: Job
    settings: PredictSettings
    lock: FolderLock
    state: SlideState
    finished_before: bool
    began: float


class Claims:
    """Takes slides for this process and writes down what becomes of them.

    Parameters
    ----------
    settings : PredictSettings
    retry_failed : bool
        Try again what an earlier run has failed on.
    expires_s : float
        See `FolderLock`.
    manifest : BundleManifest, optional
        Of the bundle in use, where it is not the settings' one.
    """

    def __init__(
        self,
        settings: PredictSettings,
        *,
        retry_failed: bool = False,
        expires_s: float = EXPIRES_S,
        manifest: BundleManifest | None = None,
    ):
        self.manifest = manifest
        self.settings, self.retry_failed, self.expires_s = settings, retry_failed, expires_s
        self.began = time.time()
        self.heart = Heart(min(10.0, expires_s / 3))
        self._requests: dict[PredictSettings, str] = {}

    def enqueue(self, jobs: list[Job]) -> None:
        """Write the state of every slide that has none yet."""
        for job in jobs:
            with suppress(OSError):
                enqueue(job.folder, new_state(job.slide, since=time.time()))

    def failed_before(self, job: Job, state: SlideState | None) -> bool:
        """Whether a slide failed under the same request and has not changed since."""
        if state is None or state.status is not Status.FAILED or not self._is_same(job, state):
            return False
        return not self.retry_failed or state.since > self.began

    def done_meanwhile(self, job: Job, state: SlideState | None) -> bool:
        """Whether another process has done a slide since this one began."""
        done = state is not None and state.status is Status.DONE and state.since > self.began
        return done and state is not None and self._is_same(job, state)

    def claim(self, job: Job) -> Claim | Refusal:
        """Take a slide, unless a living process has it or it has failed before.

        Raises
        ------
        ResultError
            The result folder cannot be written, or is another slide's.
        """
        check_owner(job.folder, job.slide)
        lock = FolderLock(job.folder, self.expires_s)
        refusal = self._settled(job, read_state(job.folder))
        if refusal is not None and not lock.path.exists() and not _left_behind(job.folder):
            return refusal
        if not lock.acquire():
            return Refusal.BUSY
        _sweep(job.folder)
        # Between the look and the lock another process may have done or failed it.
        state = read_state(job.folder) or new_state(job.slide)
        refusal = self._settled(job, state)
        if refusal is not None:
            lock.release()
            return refusal
        try:
            check_owner(job.folder, job.slide)
        except ResultError:
            lock.release()
            raise
        self.heart.add(lock)
        done = state.status is Status.DONE
        settings = job.settings(self.settings)
        state = replace(
            state,
            slide=slide_words(job.slide),
            path=slide_place(job.slide),
            attempts=state.attempts + 1,
            reason="",
            seconds=0.0,
            tiles=0,
            tiles_done=0,
            nuclei=0,
            shards_retried=0,
            device="",
            host=machine().split("/")[0],
            pid=os.getpid(),
            stamp=slide_stamp(job.slide),
            request=self._request(job),
        )
        state = state.begun(Attempt(time.time(), state.host, state.pid))
        claim = Claim(job, settings, lock, state, done, time.perf_counter())
        # A finished slide is looked at, not worked on: its state stays.
        if not done or settings.redo:
            try:
                self.running(claim)
            except ResultError:
                self.drop(claim)
                raise
        return claim

    def running(self, claim: Claim, **changes: object) -> None:
        """Write down that work goes on.

        Raises
        ------
        ResultError
            It cannot be written.
        """
        known = claim.state
        since = known.since if known.status is Status.RUNNING else time.time()
        state = replace(known, status=Status.RUNNING, since=since, **changes)  # type: ignore[arg-type]
        claim.state = state.ended(device=state.device)
        write_state(claim.job.folder, claim.state)

    def done(self, claim: Claim, *, nuclei: int, computed: bool, shards_retried: int = 0) -> None:
        """Write down that a slide is done, and let go of it.

        Raises
        ------
        ResultError
            It cannot be written.
        """
        if computed or not claim.finished_before:
            # A worker that died in the middle of a write, its shard done again by another.
            _sweep(claim.job.folder)
            self._end(claim, Status.DONE, nuclei=nuclei, shards_retried=shards_retried)
        else:
            self.drop(claim)

    def failed(self, claim: Claim, reason: str) -> None:
        """Write down why a slide failed, and let go of it.

        Raises
        ------
        ResultError
            It cannot be written.
        """
        # What a worker that was ended has left half-written.
        _sweep(claim.job.folder)
        self._end(claim, Status.FAILED, reason=reason)

    def requeue(self, claim: Claim) -> None:
        """Leave a slide for a later run."""
        if claim.state.status is not Status.RUNNING:
            self.drop(claim)
            return
        with suppress(ResultError):
            attempts = max(0, claim.state.attempts - 1)
            self._end(claim, Status.QUEUED, end="put back", attempts=attempts)

    def drop(self, claim: Claim) -> None:
        """Let go of a slide whose state stands."""
        self.heart.remove(claim.lock)
        claim.lock.release()

    def close(self) -> None:
        """Release what is still held."""
        self.heart.close()

    def _end(self, claim: Claim, status: Status, end: str = "", **changes: Any) -> None:
        seconds = round(time.perf_counter() - claim.began, 3)
        state = replace(claim.state, status=status, since=time.time(), seconds=seconds, **changes)
        claim.state = state.ended(seconds=seconds, end=end or status.value, reason=state.reason)
        try:
            write_state(claim.job.folder, claim.state)
        finally:
            self.drop(claim)

    def _settled(self, job: Job, state: SlideState | None) -> Refusal | None:
        if self.failed_before(job, state):
            return Refusal.FAILED_BEFORE
        return Refusal.DONE_MEANWHILE if self.done_meanwhile(job, state) else None

    def _is_same(self, job: Job, state: SlideState) -> bool:
        """Whether a state is that of the same file under the same request."""
        return state.stamp == slide_stamp(job.slide) and state.request == self._request(job)

    def _request(self, job: Job) -> str:
        """What a result depends on beside the slide: settings and bundle."""
        settings = job.settings(self.settings)
        if settings not in self._requests:
            values = {k: v for k, v in settings.to_dict().items() if k not in _IDLE}
            try:
                manifest = self.manifest or used_manifest(settings.bundle, settings.detector)
                values["bundle"] = manifest.sha256
            except LymphinferError:
                log.debug("bundle %s cannot be read", settings.bundle)
            text = json.dumps(values, sort_keys=True)
            self._requests[settings] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._requests[settings]


def _left_behind(folder: Path) -> list[Path]:
    """What a killed process left half-written, or a living one is about to rename or remove."""
    patterns = (".*.tmp", f"{LOCK}.*.guard")
    places = (folder, folder / PARTS)
    return [path for place in places for pattern in patterns for path in place.glob(pattern)]


def _sweep(folder: Path) -> None:
    """Remove what a killed process left.

    Only the holder of the lock may, while none of its workers writes.
    """
    for path in _left_behind(folder):
        with suppress(OSError):
            path.unlink()


def waiting_for(folder: Path) -> str:
    """Who holds a slide, for people."""
    owner = FolderLock(folder).holder()
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}"
