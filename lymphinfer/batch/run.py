"""Runs a batch: claims slides, sends their tasks to a place, writes down what comes of them."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.batch.claims import Claim, Claims
from lymphinfer.batch.inputs import find_jobs, results_root
from lymphinfer.batch.job import Job, check_jobs
from lymphinfer.batch.life import Life, Limits
from lymphinfer.batch.options import BatchOptions, device_names
from lymphinfer.batch.places import Place
from lymphinfer.batch.places.processes import Processes
from lymphinfer.batch.progress import BatchProgress, SilentBatch
from lymphinfer.batch.queue import Batch
from lymphinfer.batch.summary import BatchResult, remove_report, write_batch
from lymphinfer.batch.tasks import Event, Failed, FinishTask, Task
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.settings import PredictSettings

log = logging.getLogger(__name__)

POLL_S = 0.5
SAVE_STATE_S = 5.0


@dataclass
class Work:
    """A slide that this process holds."""

    claim: Claim
    life: Life
    saved_s: float = 0.0
    told: int = 0


class Run:
    """Leads the slides of a batch through their lives.

    Parameters
    ----------
    batch : Batch
    place : Place
    limits : Limits
    """

    def __init__(self, batch: Batch, place: Place, limits: Limits):
        self.batch, self.place, self.limits = batch, place, limits
        self.works: list[Work] = []
        self.tasks: deque[Task] = deque()
        self._owners: dict[int, Work] = {}
        self._numbers = itertools.count(1)

    def run(self) -> None:
        """Until every slide is done or has failed, or the batch has stopped.

        Raises
        ------
        LymphinferError
            The place is lost.
        """
        while not self.batch.stopped:
            self._send()
            if not self.works and self.batch.is_empty:
                return
            for event in list(self.place.answers(POLL_S)):
                self._hear(event)
            for work in list(self.works):
                work.life.check(time.monotonic())
                self._settle(work)

    def close(self) -> None:
        """End all work; what is in hand is left for a later run."""
        self.place.close()
        for work in self.works:
            self.batch.claims.requeue(work.claim)
        self.works.clear()
        self.tasks.clear()

    def _send(self) -> None:
        while self.place.room > 0:
            if not self.tasks and not self._claim():
                return
            self.place.submit(self.tasks.popleft())

    def _claim(self) -> bool:
        """Take another slide; False if there is none at present."""
        slides = len(self.batch.pending) + len(self.works)
        claim = self.batch.next_claim()
        if claim is None:
            return False
        life = Life(self._numbers, self.limits, self.place.pieces(slides))
        work = Work(claim, life)
        self.works.append(work)
        self._take(work, life.claimed(claim.job.slide, claim.job.folder, claim.settings))
        return True

    def _take(self, work: Work, tasks: Sequence[Task]) -> None:
        self._owners |= {task.id: work for task in tasks}
        for task in tasks:
            # What ends a slide and gives its lock back goes first.
            (self.tasks.appendleft if isinstance(task, FinishTask) else self.tasks.append)(task)

    def _hear(self, event: Event) -> None:
        work = self._owners.get(event.task)
        if work is None:
            return
        life, before = work.life, work.life.nuclei
        was_begun, was_planned = life.began_s is not None, life.plan is not None
        self._take(work, life.hear(event, time.monotonic()))
        if life.began_s is not None and not was_begun:
            work.claim.began = time.perf_counter()
        if life.plan is not None and not was_planned:
            work.told = life.tiles_done
            self.batch.progress.began(work.claim.job, life.where, life.tiles, life.tiles_done)
            self._save(work)
        self._tell(work, life.nuclei - before)
        self._settle(work)

    def _tell(self, work: Work, nuclei: int) -> None:
        """Say which tiles are done; none is taken back where a worker was lost."""
        if work.life.tiles_done <= work.told:
            return
        for tile in range(work.life.tiles_done - work.told):
            self.batch.progress.advanced(work.claim.job, 0 if tile else max(0, nuclei))
        work.told = work.life.tiles_done
        if time.monotonic() - work.saved_s > SAVE_STATE_S:
            self._save(work)

    def _save(self, work: Work) -> None:
        life = work.life
        if life.end is not None:
            return
        work.saved_s = time.monotonic()
        # A state that cannot be written now is written, or fails, at the slide's end.
        with suppress(LymphinferError):
            self.batch.claims.running(
                work.claim, tiles=life.tiles, tiles_done=life.tiles_done, nuclei=life.nuclei,
                device=life.where,
            )  # fmt: skip

    def _settle(self, work: Work) -> None:
        life, end = work.life, work.life.end
        if end is None or work not in self.works:
            return
        self.works.remove(work)
        self.tasks = deque(task for task in self.tasks if self._owners[task.id] is not work)
        self._owners = {task: owner for task, owner in self._owners.items() if owner is not work}
        self.place.cancel(list(life.in_hand), kill=life.must_kill)
        if isinstance(end, Failed):
            self.batch.failed(work.claim, end)
        else:
            self.batch.done(work.claim, end, computed=life.computed, retried=life.retried)


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
    *,
    place: AbstractContextManager[Place] | None = None,
    on_begin: Callable[[int], None] | None = None,
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
    place : context manager of Place, optional
        Where the work is done; worker processes by default.
    on_begin : callable, optional
        Told the number of slides when all is ready for the first.

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
    check_jobs(jobs, settings)
    used_manifest(settings.bundle, settings.detector).calls_at(settings.operating_point)
    place = place or worker_processes(settings, options)
    claims = Claims(settings, retry_failed=options.retry_failed, expires_s=options.lock_expires_s)
    batch = Batch(jobs, claims, progress or SilentBatch())
    run_batch(batch, place, options, on_begin)
    if batch.computed:
        remove_report(root)
    result = batch.result(root, time.perf_counter() - began)
    try:
        write_batch(result, settings)
    except LymphinferError as error:
        log.error("%s", error)
    return result


def run_batch(
    batch: Batch,
    place: AbstractContextManager[Place],
    options: BatchOptions,
    on_begin: Callable[[int], None] | None = None,
) -> None:
    """Lead a batch through a place and give everything back.

    Raises
    ------
    LymphinferError
        The place cannot be had, or is lost.
    """
    try:
        with place as opened:
            run = Run(batch, opened, limits_of(options, opened))
            try:
                if on_begin is not None:
                    on_begin(len(batch.jobs))
                batch.claims.enqueue(batch.jobs)
                run.run()
            finally:
                run.close()
    finally:
        batch.claims.close()


def run_on_dask(
    jobs: Sequence[Job],
    root: Path,
    settings: PredictSettings | None = None,
    options: BatchOptions | None = None,
    progress: BatchProgress | None = None,
    *,
    scheduler: str | None = None,
) -> BatchResult:
    """Predict jobs on a Dask cluster, with the bytes of worker processes.

    Parameters
    ----------
    jobs : sequence of Job
        Slides and result folders that every worker sees under the same paths.
    root : Path
        Root of the results, for the summary.
    settings : PredictSettings, optional
        The bundle is looked for on the workers.
    options : BatchOptions, optional
    progress : BatchProgress, optional
    scheduler : str, optional
        Address, ``tcp://host:8786``. Without it, processes on this machine.

    Returns
    -------
    BatchResult

    Raises
    ------
    LymphinferError
        dask.distributed is not installed, the scheduler cannot be reached, or is lost.
    """
    options = options or BatchOptions()
    place = dask_workers(options, scheduler)
    return run_jobs(jobs, root, settings, options, progress, place=place)


@contextmanager
def worker_processes(settings: PredictSettings, options: BatchOptions) -> Iterator[Place]:
    """A worker process for each device.

    Raises
    ------
    LymphinferError
        A device is not on this machine.
    """
    devices = device_names(options, settings.device)
    # On a GPU the CPU decodes: workers that share it share the cores too.
    threads = max(1, (os.cpu_count() or 1) // len(devices)) if len(devices) > 1 else None
    yield Processes(devices, threads, options.worker_setup)


@contextmanager
def dask_workers(options: BatchOptions, scheduler: str | None = None) -> Iterator[Place]:
    """The workers of a Dask scheduler, or of one that is started on this machine.

    Raises
    ------
    LymphinferError
        dask.distributed is not installed, or the scheduler cannot be reached.
    """
    from lymphinfer.batch.places.dask import Dask
    from lymphinfer.batch.places.dask_cluster import connect

    with connect(scheduler, options) as client:
        yield Dask(client)


def limits_of(options: BatchOptions, place: Place) -> Limits:
    """What a slide may cost."""
    limit = options.memory_limit_gb
    memory = place.memory if limit is None else int(limit * 1e9)
    return Limits(options.slide_timeout, options.stall_timeout, memory)
