"""Many slides on a cluster: shards as tasks of dask.distributed, results on shared storage."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lymphinfer.batch.claims import Claim, Claims
from lymphinfer.batch.job import Job
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.places.dask_cluster import connect
from lymphinfer.batch.progress import BatchProgress, SilentBatch
from lymphinfer.batch.run import Batch
from lymphinfer.batch.summary import BatchResult, write_batch
from lymphinfer.batch.tasks import Cause, Failed, failure
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.plan import ShardsDone, SlidePlan, add_seconds
from lymphinfer.predict.settings import PredictSettings, SlideResult
from lymphinfer.slides.remote import remote_address

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

# Tasks in flight for each worker, so that none waits for the next; more would only hold locks.
AHEAD = 3
CHECK_S = 1.0
SAVE_STATE_S = 5.0


@dataclass
class _Work:
    claim: Claim
    plan: SlidePlan | None = None
    left: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    futures: set[Any] = field(default_factory=set)
    retried: int = 0
    tiles_done: int = 0
    nuclei: int = 0
    saved_s: float = 0.0
    over: bool = False


class DaskEngine:
    """Runs a batch on the workers of a Dask scheduler.

    Parameters
    ----------
    batch : Batch
    client : distributed.Client
    options : BatchOptions
    """

    def __init__(self, batch: Batch, client: Client, options: BatchOptions):
        self.batch, self.client, self.options = batch, client, options
        self.answers: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.workers = 1
        self.resources: dict[str, float] | None = None
        self._checked_s = 0.0
        self.waiting: dict[Any, tuple[_Work, str]] = {}
        self.todo: deque[tuple[_Work, str, SlidePlan]] = deque()
        self.starts: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._run = f"{time.time_ns():x}"

    def run(self) -> None:
        """Until every slide is done or has failed.

        Raises
        ------
        LymphinferError
            The scheduler is lost, or has no workers.
        """
        from lymphinfer.batch.places.dask_tasks import STARTS

        self.client.subscribe_topic(STARTS, self._count_start)
        while not self.batch.stopped:
            if time.monotonic() - self._checked_s > CHECK_S:
                self._check()
            self._submit()
            if not self.waiting and not self.todo and self.batch.is_empty:
                return
            with suppress(queue.Empty):
                self._hear(self.answers.get(timeout=CHECK_S))

    def close(self) -> None:
        """Leave what is in hand for a later run."""
        works = {id(w): w for w, _ in self.waiting.values()} | {id(w): w for w, *_ in self.todo}
        for work in works.values():
            if not work.over:
                self.batch.claims.requeue(work.claim)

    def _count_start(self, event: tuple[float, str]) -> None:
        self.starts[event[1]] += 1

    def _submit(self) -> None:
        from lymphinfer.batch.places import dask_tasks

        room = AHEAD * self.workers - len(self.waiting)
        while room > 0:
            if self.todo:
                work, key, part = self.todo.popleft()
                if work.over:
                    continue
                self._send(work, key, dask_tasks.shards, key, part, work.claim.settings)
            else:
                claim = self.batch.next_claim()
                if claim is None:
                    return
                work = _Work(claim)
                job = claim.job
                self._send(
                    work, self._key("plan"), dask_tasks.plan, job.slide, job.folder, claim.settings
                )
            room -= 1

    def _send(self, work: _Work, key: str, function: Callable[..., Any], *arguments: Any) -> None:
        resources = None if key.startswith("finish") else self.resources
        future = self.client.submit(function, *arguments, key=key, pure=False, resources=resources)
        self.waiting[future.key] = (work, key)
        work.futures.add(future)
        future.add_done_callback(self.answers.put)

    def _key(self, kind: str) -> str:
        return f"{kind}-{self._run}-{next(self._numbers)}"

    def _hear(self, future: Future[Any]) -> None:
        known = self.waiting.pop(future.key, None)
        if known is None:
            return
        work, key = known
        work.futures.discard(future)
        if work.over:
            return
        try:
            answer = future.result()
        except (CancelledError, OSError) as error:
            self._check()
            answer = failure(error)
        except Exception as error:
            answer = _lost(error)
        if isinstance(answer, SlideResult):
            work.over = True
            self.batch.done(
                work.claim, answer.n_nuclei, computed=work.plan is not None, retried=work.retried
            )
        elif isinstance(answer, SlidePlan):
            self._planned(work, answer)
        elif isinstance(answer, ShardsDone):
            self._computed(work, key, answer)
        else:
            self._fail(work, answer)

    def _planned(self, work: _Work, plan: SlidePlan) -> None:
        work.plan, work.seconds = plan, plan.seconds
        work.tiles_done = plan.tiles(plan.done)
        self.batch.progress.began(work.claim.job, "dask", plan.tiles(), work.tiles_done)
        self._save(work)
        for shard in plan.todo:
            key = self._key(shard)
            part = plan.only([shard])
            work.left[key] = part.tiles()
            self.todo.append((work, key, part))
        self._finish_if_whole(work)

    def _computed(self, work: _Work, key: str, done: ShardsDone) -> None:
        work.seconds = add_seconds(work.seconds, done.seconds)
        tiles = work.left.pop(key)
        work.retried += max(0, self.starts.pop(key, 1) - 1)
        work.tiles_done += tiles
        work.nuclei += done.nuclei
        for tile in range(tiles):
            self.batch.progress.advanced(work.claim.job, 0 if tile else done.nuclei)
        if time.monotonic() - work.saved_s > SAVE_STATE_S:
            self._save(work)
        self._finish_if_whole(work)

    def _finish_if_whole(self, work: _Work) -> None:
        from lymphinfer.batch.places import dask_tasks

        if work.left or work.plan is None:
            return
        seconds = time.perf_counter() - work.claim.began
        self._send(
            work, self._key("finish"), dask_tasks.finish, work.plan, work.claim.settings,
            work.seconds, seconds,
        )  # fmt: skip

    def _save(self, work: _Work) -> None:
        work.saved_s = time.monotonic()
        try:
            self.batch.claims.running(
                work.claim, tiles=work.plan.tiles() if work.plan else 0, device="dask",
                tiles_done=work.tiles_done, nuclei=work.nuclei,
            )  # fmt: skip
        except LymphinferError as error:
            log.warning("%s", error)

    def _fail(self, work: _Work, failed: Failed) -> None:
        work.over = True
        self.client.cancel(list(work.futures))
        for future in work.futures:
            self.waiting.pop(future.key, None)
        self.batch.failed(work.claim, failed)

    def _check(self) -> None:
        self._checked_s = time.monotonic()
        workers: dict[str, Any] = {}
        # A lost scheduler has forgotten the tasks: there is no use in waiting for it to come back.
        with suppress(OSError, TimeoutError):
            if self.client.status == "running":
                workers = self.client.scheduler_info(n_workers=-1)["workers"]
        if self.client.status != "running":
            raise LymphinferError(
                "the Dask scheduler is lost; the shards that are done are kept: start a scheduler "
                "and workers again, then the same command goes on from there"
            )
        self.workers = max(1, len(workers))
        # Where any worker has GPUs, a task on one without would compute other bytes, and slowly.
        gpus = any(worker.get("resources", {}).get("GPU") for worker in workers.values())
        self.resources = {"GPU": 1} if gpus else None
        limit = self.options.slide_timeout
        for work in {id(w): w for w, _ in self.waiting.values()}.values():
            if limit is not None and time.perf_counter() - work.claim.began > limit:
                self._restart_workers(work)
                reason = f"took longer than --slide-timeout {limit:g} s"
                self._fail(work, Failed(Cause.SLIDE, reason))

    def _restart_workers(self, work: _Work) -> None:
        """A thread that hangs in a decoder ends with its process alone."""
        keys = {future.key for future in work.futures}
        hung = [a for a, at_work in self.client.processing().items() if keys & set(at_work)]
        if hung:
            self.client.restart_workers(hung, raise_for_error=False)


def run_on_dask(
    jobs: Sequence[Job],
    root: Path,
    settings: PredictSettings | None = None,
    options: BatchOptions | None = None,
    progress: BatchProgress | None = None,
    *,
    scheduler: str | None = None,
) -> BatchResult:
    """Predict jobs on a Dask cluster, with the bytes of the local engine.

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
    settings, options = settings or PredictSettings(), options or BatchOptions()
    settings = replace(settings, roi=_from_root(settings.roi), tissue=_from_root(settings.tissue))
    began = time.perf_counter()
    used_manifest(settings.bundle, settings.detector).calls_at(settings.operating_point)
    claims = Claims(settings, retry_failed=options.retry_failed, expires_s=options.lock_expires_s)
    batch = Batch([_absolute(job) for job in jobs], claims, progress or SilentBatch())
    try:
        with connect(scheduler, options) as client:
            engine = DaskEngine(batch, client, options)
            try:
                claims.enqueue(batch.jobs)
                engine.run()
            finally:
                engine.close()
    finally:
        claims.close()
    result = batch.result(root, time.perf_counter() - began)
    try:
        write_batch(result, settings)
    except LymphinferError as error:
        log.error("%s", error)
    return result


def _absolute(job: Job) -> Job:
    """Workers have other working folders."""
    slide = job.slide if remote_address(job.slide) is not None else job.slide.absolute()
    roi, tissue = _from_root(job.roi), _from_root(job.tissue)
    return replace(job, slide=slide, folder=job.folder.absolute(), roi=roi, tissue=tissue)


def _from_root(named: str | None) -> str | None:
    return None if named is None else str(Path(named).absolute())


def _lost(error: Exception) -> Failed:
    """A task whose workers died one after the other."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return Failed(
            Cause.SLIDE, "one of its shards ended several workers: the reader or a native library "
            "crashes on it, or it needs more memory than a worker has",
        )  # fmt: skip
    return failure(error)
