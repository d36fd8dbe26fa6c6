"""The supervisor: hands slides and shards to workers, watches them, replaces those that die."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import psutil

from lymphinfer.batch.claims import Claim
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.places.worker_process import WorkerProcess
from lymphinfer.batch.platform import describe_exit, was_killed
from lymphinfer.batch.tasks import (
    Advanced,
    Began,
    Cause,
    Died,
    Failed,
    FinishTask,
    Message,
    PlanTask,
    ShardsTask,
    SlideTask,
    Started,
    Task,
)
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.plan import ShardsDone, SlidePlan, add_seconds
from lymphinfer.predict.settings import SlideResult

if TYPE_CHECKING:
    from lymphinfer.batch.run import Batch

log = logging.getLogger(__name__)

POLL_S = 0.5
SAVE_STATE_S = 5.0
CHUNKS_PER_WORKER = 4


@dataclass
class Work:
    """A slide at work, by one worker or by several."""

    claim: Claim
    spread: bool
    began_s: float | None = None
    plan: SlidePlan | None = None
    chunks_left: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    computed: bool = False
    over: bool = False
    tiles: int = 0
    tiles_done: int = 0
    nuclei: int = 0
    saved_s: float = 0.0


class Supervisor:
    """Runs a batch on workers.

    Slides spread over the workers. Where fewer slides are left than there are workers, a slide's
    shards spread over them.

    Parameters
    ----------
    batch : Batch
    workers : sequence of WorkerProcess
    options : BatchOptions
    """

    def __init__(self, batch: Batch, workers: Sequence[WorkerProcess], options: BatchOptions):
        self.batch, self.workers, self.options = batch, list(workers), options
        self.tasks: deque[tuple[Work, Task]] = deque()
        self.at_work: dict[WorkerProcess, Work] = {}
        self.failed_starts = 0
        limit = options.memory_limit_gb
        share = 0.9 * psutil.virtual_memory().total / len(self.workers)
        self.memory_limit = int(limit * 1e9) if limit else int(share)

    def run(self) -> None:
        """Until every slide is done or has failed, or the batch has stopped.

        Raises
        ------
        LymphinferError
            Worker processes cannot be started.
        """
        while True:
            self._dispatch()
            if not self.at_work and not self.tasks and self.batch.is_empty:
                return
            if self.batch.stopped:
                return
            watched = [w for worker in self.workers for w in worker.waitables()]
            if watched:
                wait(watched, POLL_S)
            else:
                time.sleep(POLL_S)
            for worker in self.workers:
                for message in worker.messages():
                    self._hear(worker, message)
            self._check_limits()

    def close(self) -> None:
        """End every worker; what they had in hand is left for a later run."""
        works = {id(work): work for work in self.at_work.values()}
        works |= {id(work): work for work, _ in self.tasks}
        for worker in self.workers:
            worker.close()
        for work in works.values():
            if not work.over:
                self.batch.claims.requeue(work.claim)
        self.at_work.clear()
        self.tasks.clear()

    def _dispatch(self) -> None:
        for worker in self.workers:
            if not worker.is_idle:
                continue
            found = self._next_task()
            if found is None:
                return
            work, task = found
            self.at_work[worker] = work
            worker.send(task)

    def _next_task(self) -> tuple[Work, Task] | None:
        if self.tasks:
            return self.tasks.popleft()
        left = len(self.batch.pending)
        claim = self.batch.next_claim()
        if claim is None:
            return None
        work = Work(claim, spread=left + len(self._works()) < len(self.workers))
        kind = PlanTask if work.spread else SlideTask
        return work, kind(claim.job.slide, claim.job.folder, claim.settings)

    def _works(self) -> list[Work]:
        return list({id(work): work for work in self.at_work.values()}.values())

    def _hear(self, worker: WorkerProcess, message: Message) -> None:
        if isinstance(message, Died):
            self._died(worker, message)
            return
        work = self.at_work.get(worker)
        if work is None:
            return
        if isinstance(message, Began):
            self.failed_starts = 0
            if work.began_s is None:
                # Loading the networks is no slide's time.
                work.began_s, work.claim.began = time.monotonic(), time.perf_counter()
        elif isinstance(message, Started):
            self._started(work, worker, message.tiles, message.done)
        elif isinstance(message, Advanced):
            self._advanced(work, message.nuclei)
        elif isinstance(message, SlideResult | SlidePlan | ShardsDone | Failed):
            worker.task = None
            del self.at_work[worker]
            if not work.over:
                self._answered(work, worker, message)

    def _answered(
        self,
        work: Work,
        worker: WorkerProcess,
        answer: SlideResult | SlidePlan | ShardsDone | Failed,
    ) -> None:
        if isinstance(answer, SlideResult):
            work.over = True
            self.batch.done(work.claim, answer.n_nuclei, computed=work.computed)
        elif isinstance(answer, Failed):
            self._fail(work, answer)
        elif isinstance(answer, SlidePlan):
            work.plan, work.seconds = answer, answer.seconds
            self._started(work, worker, answer.tiles(), answer.tiles(answer.done))
            chunks = list(_chunks(answer.todo, len(self.workers) * CHUNKS_PER_WORKER))
            work.chunks_left = len(chunks)
            for ids in chunks:
                self.tasks.append((work, ShardsTask(answer.only(ids), work.claim.settings)))
            self._finish_if_whole(work)
        else:
            work.seconds = add_seconds(work.seconds, answer.seconds)
            work.chunks_left -= 1
            self._finish_if_whole(work)

    def _finish_if_whole(self, work: Work) -> None:
        if work.chunks_left or work.plan is None:
            return
        seconds = time.perf_counter() - work.claim.began
        task = FinishTask(work.plan, work.claim.settings, work.seconds, seconds)
        self.tasks.appendleft((work, task))

    def _started(self, work: Work, worker: WorkerProcess, tiles: int, done: int) -> None:
        work.computed = True
        work.tiles, work.tiles_done, work.nuclei = tiles, done, 0
        self.batch.progress.began(work.claim.job, worker.device, tiles, done)
        self._save(work, device=worker.device)

    def _advanced(self, work: Work, nuclei: int) -> None:
        work.tiles_done += 1
        work.nuclei += nuclei
        self.batch.progress.advanced(work.claim.job, nuclei)
        if time.monotonic() - work.saved_s > SAVE_STATE_S:
            self._save(work)

    def _save(self, work: Work, **changes: object) -> None:
        if work.over:
            return
        work.saved_s = time.monotonic()
        # A state that cannot be written now is written, or fails, at the slide's end.
        with suppress(LymphinferError):
            self.batch.claims.running(
                work.claim, tiles=work.tiles, tiles_done=work.tiles_done, nuclei=work.nuclei,
                **changes,
            )  # fmt: skip

    def _died(self, worker: WorkerProcess, died: Died) -> None:
        work = self.at_work.pop(worker, None)
        how = describe_exit(died.code)
        log.warning("the worker on %s died: %s", worker.device, how)
        if work is None or work.over:
            return
        if work.began_s is None and died.code is not None and died.code > 0:
            self._failed_start(work, how)
        elif was_killed(died.code):
            why = "most likely for lack of memory: fewer --workers or a smaller --tile"
            self._fail(work, Failed(Cause.SLIDE, f"its worker was killed ({how}), {why}"))
        else:
            self._fail(work, Failed(Cause.SLIDE, f"the reader or a native library crashed: {how}"))

    def _failed_start(self, work: Work, how: str) -> None:
        self.failed_starts += 1
        work.over = True
        self.batch.claims.requeue(work.claim)
        if self.failed_starts > 1:
            raise LymphinferError(
                f"worker processes cannot be started ({how}); what they said stands above. In a "
                'script, call predict_folder under `if __name__ == "__main__":`'
            )
        self.batch.pending.appendleft(work.claim.job)

    def _fail(self, work: Work, failed: Failed) -> None:
        work.over = True
        self.tasks = deque((w, task) for w, task in self.tasks if w is not work)
        self.batch.failed(work.claim, failed)

    def _check_limits(self) -> None:
        now, options = time.monotonic(), self.options
        for worker, work in list(self.at_work.items()):
            spent = 0.0 if work.began_s is None else now - work.began_s
            if options.slide_timeout is not None and spent > options.slide_timeout:
                reason = f"took longer than --slide-timeout {options.slide_timeout:g} s"
            elif now - worker.heard_s > options.stall_timeout:
                reason = f"hung: no tile was finished in {options.stall_timeout:g} s"
            elif worker.memory > self.memory_limit:
                reason = (
                    f"its worker used more than {self.memory_limit / 1e9:.1f} GB of memory: a "
                    "damaged file, or a larger --memory-limit is needed"
                )
            else:
                continue
            self.at_work.pop(worker)
            worker.kill()
            if not work.over:
                self._fail(work, Failed(Cause.SLIDE, reason))


def _chunks(ids: Sequence[str], count: int) -> Iterator[list[str]]:
    """Neighbouring shards in at most `count` runs."""
    size = max(1, math.ceil(len(ids) / count))
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])
