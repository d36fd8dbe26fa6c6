"""The slides of a batch on their way from pending to done or failed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from lymphinfer.batch.claims import Claim, Claims, Refusal, waiting_for
from lymphinfer.batch.job import Job
from lymphinfer.batch.progress import BatchProgress
from lymphinfer.batch.summary import BatchResult, SlideOutcome, outcome
from lymphinfer.batch.tasks import Cause, Failed, is_disk_full
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.result import SlideResult

LOOK_AGAIN_S = 1.0


class Batch:
    """The jobs of a batch on their way from pending to done or failed.

    Parameters
    ----------
    jobs : sequence of Job
    claims : Claims
    progress : BatchProgress
    keep : bool
        Keep the result of every slide in memory.

    Attributes
    ----------
    raised : dict
        By result folder what was raised, where that was in this process.
    results : dict
        By result folder the results that are kept.
    refused : set of Path
        Result folders of slides that have failed before and are not tried again.
    stopped : str
        Why the batch ends before its last slide.
    computed : bool
        Whether any slide has got new results.
    """

    def __init__(
        self, jobs: Sequence[Job], claims: Claims, progress: BatchProgress, *, keep: bool = False
    ):
        self.keep = keep
        self.jobs, self.claims, self.progress = list(jobs), claims, progress
        self.pending = deque(self.jobs)
        self.elsewhere: deque[Job] = deque()
        self.errors: dict[Path, str] = {}
        self.raised: dict[Path, BaseException] = {}
        self.results: dict[Path, SlideResult] = {}
        self.refused: set[Path] = set()
        self.stopped = ""
        self.computed = False
        self._look_again = 0.0

    def next_claim(self) -> Claim | None:
        """Take the next slide that no other process has; None if there is none at present."""
        while self.pending and not self.stopped:
            claim = self._claim(self.pending.popleft())
            if claim is not None:
                return claim
        if not self.elsewhere or self.stopped or time.monotonic() < self._look_again:
            return None
        for _ in range(len(self.elsewhere)):
            claim = self._claim(self.elsewhere.popleft())
            if claim is not None:
                return claim
        self._look_again = time.monotonic() + LOOK_AGAIN_S
        if self.elsewhere:
            self.progress.waiting(len(self.elsewhere), waiting_for(self.elsewhere[0].folder))
        return None

    @property
    def is_empty(self) -> bool:
        """Whether no slide is left to take."""
        return bool(self.stopped) or not (self.pending or self.elsewhere)

    def done(self, claim: Claim, result: SlideResult, *, computed: bool, retried: int = 0) -> None:
        """A slide is done."""
        self.computed |= computed
        if self.keep:
            self.results[claim.job.folder] = result
        try:
            self.claims.done(
                claim, nuclei=result.n_nuclei, computed=computed, shards_retried=retried
            )
        except LymphinferError as error:
            self._unwritable(claim, error)
        self._tell(claim.job)

    def failed(self, claim: Claim, failed: Failed) -> None:
        """A slide, or with it the batch, has failed."""
        if failed.error is not None:
            self.raised[claim.job.folder] = failed.error
        bundle = failed.cause is Cause.BUNDLE and claim.job.bundle is None
        if failed.cause is Cause.DISK or bundle:
            self.stopped = self.stopped or failed.reason
            self.claims.requeue(claim)
            return
        try:
            self.claims.failed(claim, failed.reason)
        except LymphinferError as error:
            self._unwritable(claim, error)
        self._tell(claim.job)

    def result(self, root: Path, seconds: float) -> BatchResult:
        """What became of all of them."""
        outcomes = tuple(self._outcome(job) for job in self.jobs)
        return BatchResult(root, outcomes, seconds, self.stopped)

    def _claim(self, job: Job) -> Claim | None:
        try:
            claim = self.claims.claim(job)
        except LymphinferError as error:
            self.raised[job.folder] = error
            if is_disk_full(error):
                self.stopped = str(error)
            else:
                self.errors[job.folder] = str(error)
                self._tell(job)
            return None
        if isinstance(claim, Claim):
            return claim
        if claim is Refusal.BUSY:
            self.elsewhere.append(job)
        else:
            if claim is Refusal.FAILED_BEFORE:
                self.refused.add(job.folder)
            self._tell(job, again=claim is Refusal.FAILED_BEFORE)
        return None

    def _unwritable(self, claim: Claim, error: LymphinferError) -> None:
        self.raised[claim.job.folder] = error
        if is_disk_full(error):
            self.stopped = self.stopped or str(error)
        else:
            self.errors[claim.job.folder] = str(error)

    def _outcome(self, job: Job) -> SlideOutcome:
        return outcome(job, self.errors.get(job.folder, ""))

    def _tell(self, job: Job, *, again: bool = False) -> None:
        self.progress.ended(self._outcome(job), again=again)
