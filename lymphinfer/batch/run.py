"""Many slides on one machine: worker processes that may fail, and one that does not."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from lymphinfer.batch.claims import Claim, Claims, Refusal, waiting_for
from lymphinfer.batch.inputs import find_jobs, results_root
from lymphinfer.batch.job import Job
from lymphinfer.batch.options import BatchOptions, device_names
from lymphinfer.batch.places.worker_process import WorkerProcess
from lymphinfer.batch.progress import BatchProgress, SilentBatch
from lymphinfer.batch.summary import BatchResult, SlideOutcome, outcome, write_batch
from lymphinfer.batch.supervisor import Supervisor
from lymphinfer.batch.tasks import Cause, Failed, is_disk_full
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.settings import PredictSettings

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0


class Batch:
    """The jobs of a batch on their way from pending to done or failed.

    Parameters
    ----------
    jobs : sequence of Job
    claims : Claims
    progress : BatchProgress
    """

    def __init__(self, jobs: Sequence[Job], claims: Claims, progress: BatchProgress):
        self.jobs, self.claims, self.progress = list(jobs), claims, progress
        self.pending = deque(self.jobs)
        self.elsewhere: deque[Job] = deque()
        self.errors: dict[Path, str] = {}
        self.stopped = ""
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

    def done(self, claim: Claim, nuclei: int, *, computed: bool, retried: int = 0) -> None:
        """A slide is done."""
        try:
            self.claims.done(claim, nuclei=nuclei, computed=computed, shards_retried=retried)
        except LymphinferError as error:
            self._unwritable(claim, error)
        self._tell(claim.job)

    def failed(self, claim: Claim, failed: Failed) -> None:
        """A slide, or with it the batch, has failed."""
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
            self._tell(job, again=claim is Refusal.FAILED_BEFORE)
        return None

    def _unwritable(self, claim: Claim, error: LymphinferError) -> None:
        if is_disk_full(error):
            self.stopped = self.stopped or str(error)
        else:
            self.errors[claim.job.folder] = str(error)

    def _outcome(self, job: Job) -> SlideOutcome:
        return outcome(job, self.errors.get(job.folder, ""))

    def _tell(self, job: Job, *, again: bool = False) -> None:
        self.progress.ended(self._outcome(job), again=again)


def predict_folder(
    source: str | Path,
    out: str | Path | None = None,
    *,
    settings: PredictSettings | None = None,
    options: BatchOptions | None = None,
    progress: BatchProgress | None = None,
) -> BatchResult:
    """Predict every slide of a folder, a pattern or a list, in worker processes.

    A slide that fails, hangs or crashes its reader is a row in the result, not the end of the run.
    Several processes, on several machines, may be started on the same source and results: they
    share the slides. In a script, call it under ``if __name__ == "__main__":``, since each worker
    imports the script once more.

    Parameters
    ----------
    source : str or Path
        As `find_jobs` takes it.
    out : str or Path, optional
        Root of the results; by default ``<stem>.lymphinfer`` beside the source.
    settings : PredictSettings, optional
    options : BatchOptions, optional
    progress : BatchProgress, optional

    Returns
    -------
    BatchResult

    Raises
    ------
    LymphinferError
        Nothing could be begun: no slides, no such bundle or device.
    """
    source = Path(source)
    root = results_root(source, None if out is None else Path(out))
    return run_jobs(find_jobs(source, root), root, settings, options, progress)


def run_jobs(
    jobs: Sequence[Job],
    root: Path,
    settings: PredictSettings | None = None,
    options: BatchOptions | None = None,
    progress: BatchProgress | None = None,
) -> BatchResult:
    """Predict jobs, see `predict_folder`.

    Parameters
    ----------
    jobs : sequence of Job
    root : Path
        Root of the results, for the summary.
    settings : PredictSettings, optional
    options : BatchOptions, optional
    progress : BatchProgress, optional

    Returns
    -------
    BatchResult

    Raises
    ------
    LymphinferError
        Nothing could be begun.
    """
    settings, options = settings or PredictSettings(), options or BatchOptions()
    began = time.perf_counter()
    used_manifest(settings.bundle, settings.detector).calls_at(settings.operating_point)
    devices = device_names(options, settings.device)
    cpus = devices.count("cpu")
    threads = max(1, (os.cpu_count() or 1) // cpus) if cpus > 1 else None
    claims = Claims(settings, retry_failed=options.retry_failed, expires_s=options.lock_expires_s)
    batch = Batch(jobs, claims, progress or SilentBatch())
    workers = [WorkerProcess(name, threads, options.worker_setup) for name in devices]
    supervisor = Supervisor(batch, workers, options)
    try:
        claims.enqueue(batch.jobs)
        supervisor.run()
    finally:
        supervisor.close()
        claims.close()
    result = batch.result(root, time.perf_counter() - began)
    try:
        write_batch(result, settings)
    except LymphinferError as error:
        log.error("%s", error)
    return result
