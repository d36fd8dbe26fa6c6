"""The place for many slides on one machine: worker processes, any of which may fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.connection import wait

import psutil

from lymphinfer.batch.places.worker import Died
from lymphinfer.batch.places.worker_process import WorkerProcess
from lymphinfer.batch.platform import describe_exit, was_killed
from lymphinfer.batch.tasks import (
    Answered,
    Began,
    Cause,
    Event,
    Failed,
    Taken,
    Task,
    Weighs,
)
from lymphinfer.errors import LymphinferError

log = logging.getLogger(__name__)

CHUNKS_PER_WORKER = 4


class Processes:
    """A worker process for each device, replaced when it dies.

    Slides spread over the workers; where there are fewer, a slide's shards do.

    Parameters
    ----------
    devices : sequence of str
        A worker each; a device may be named twice.
    threads : int or None
        Of the networks on the CPU, each worker; torch's own choice by default.
    setup : callable, optional
        A function at the top of an importable module; each worker calls it once.
    """

    def __init__(
        self,
        devices: Sequence[str],
        threads: int | None = None,
        setup: Callable[[], None] | None = None,
    ):
        self.workers = [WorkerProcess(name, threads, setup) for name in devices]
        self._begun: set[int] = set()
        self._told: list[Event] = []
        self._failed_starts = 0

    @property
    def room(self) -> int:
        """See `Place`."""
        return sum(worker.is_idle for worker in self.workers)

    @property
    def memory(self) -> int:
        """See `Place`."""
        return int(0.9 * psutil.virtual_memory().total / len(self.workers))

    def pieces(self, slides: int) -> int:
        """See `Place`."""
        count = len(self.workers)
        return 1 if slides >= count else count * CHUNKS_PER_WORKER

    def submit(self, task: Task) -> None:
        """See `Place`."""
        self._give(next(worker for worker in self.workers if worker.is_idle), task)

    def answers(self, timeout_s: float) -> Iterator[Event]:
        """See `Place`."""
        told, self._told = self._told, []
        yield from told
        watched = [w for worker in self.workers for w in worker.waitables()]
        if watched:
            wait(watched, timeout_s)
        elif not told:
            time.sleep(timeout_s)
        for worker in self.workers:
            yield from self._hear(worker)
            if worker.task is not None:
                yield Weighs(worker.task.id, worker.memory)

    def cancel(self, tasks: Collection[int], *, kill: bool) -> None:
        """See `Place`."""
        for worker in self.workers:
            if kill and worker.task is not None and worker.task.id in tasks:
                worker.kill()

    def close(self) -> None:
        """See `Place`."""
        for worker in self.workers:
            worker.close()

    def _give(self, worker: WorkerProcess, task: Task) -> None:
        worker.send(task)
        self._told.append(Taken(task.id, worker.device))

    def _hear(self, worker: WorkerProcess) -> Iterator[Event]:
        task = worker.task
        for message in worker.messages():
            if not isinstance(message, Died):
                if isinstance(message, Began):
                    self._failed_starts = 0
                    self._begun.add(message.task)
                elif isinstance(message, Answered):
                    self._begun.discard(message.task)
                    task = None
                yield message
                continue
            how = describe_exit(message.code)
            log.warning("the worker on %s died: %s", worker.device, how)
            if task is None:
                continue
            if task.id not in self._begun and message.code is not None and message.code > 0:
                self._start_again(worker, task, how)
            else:
                self._begun.discard(task.id)
                yield Answered(task.id, _end(message.code, how))

    def _start_again(self, worker: WorkerProcess, task: Task, how: str) -> None:
        self._failed_starts += 1
        if self._failed_starts > 1:
            raise LymphinferError(
                f"worker processes cannot be started ({how}); what they said stands above. In a "
                'script, call predict_folder under `if __name__ == "__main__":`'
            )
        self._give(worker, task)


def _end(code: int | None, how: str) -> Failed:
    """What the end of a worker says of the slide that it had."""
    if was_killed(code):
        why = "most likely for lack of memory: fewer --workers or a smaller --tile"
        return Failed(Cause.SLIDE, f"its worker was killed ({how}), {why}")
    return Failed(Cause.SLIDE, f"the reader or a native library crashed: {how}")
