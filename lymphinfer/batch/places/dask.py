"""The place on a cluster: shards as tasks of dask.distributed, results on shared storage."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lymphinfer.batch.tasks import (
    Advanced,
    Answer,
    Answered,
    Began,
    Cause,
    Event,
    Failed,
    FinishTask,
    Taken,
    Task,
    Weighs,
    failure,
)
from lymphinfer.errors import LymphinferError

if TYPE_CHECKING:
    from distributed import Client, Future

# Tasks in flight for each worker, so that none waits for the next; more would only hold locks.
AHEAD = 3
CHECK_S = 1.0
EVERY_SHARD = 1 << 30

_runs = itertools.count()


class Dask:
    """Workers of a Dask scheduler; each shard is a task, computed again where a worker is lost.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client):
        self.client = client
        self._run = f"lymphinfer-{time.time_ns():x}-{next(_runs)}"
        self._events: queue.SimpleQueue[Event | Future[Any]] = queue.SimpleQueue()
        self._futures: dict[int, Future[Any]] = {}
        self._where: dict[int, str] = {}
        self._workers = 1
        self._resources: dict[str, float] | None = None
        self._checked_s = 0.0
        client.subscribe_topic(self._run, self._tell)

    @property
    def room(self) -> int:
        """See `Place`."""
        return AHEAD * self._workers - len(self._futures)

    @property
    def memory(self) -> None:
        """See `Place`: Dask's nannies have a limit of their own."""

    def pieces(self, slides: int) -> int:
        """See `Place`."""
        return EVERY_SHARD

    def submit(self, task: Task) -> None:
        """See `Place`."""
        from lymphinfer.batch.places import dask_tasks

        if not self._checked_s:
            self._check()
        # Workers have other working folders.
        future = self.client.submit(
            dask_tasks.do, self._run, task.anchored(), key=f"{self._run}-{task.id}", pure=False,
            resources=None if isinstance(task, FinishTask) else self._resources,
        )  # fmt: skip
        self._futures[task.id] = future
        future.add_done_callback(self._events.put)

    def answers(self, timeout_s: float) -> Iterator[Event]:
        """See `Place`."""
        if time.monotonic() - self._checked_s > CHECK_S:
            yield from self._check()
        with suppress(queue.Empty):
            told = self._events.get(timeout=timeout_s)
            while True:
                if isinstance(told, Taken | Began | Advanced):
                    yield told
                else:
                    yield from self._ended(told)  # type: ignore[arg-type]
                told = self._events.get_nowait()

    def cancel(self, tasks: Collection[int], *, kill: bool) -> None:
        """See `Place`."""
        futures = [self._futures.pop(task) for task in tasks if task in self._futures]
        keys = {future.key for future in futures}
        at_work = self.client.processing() if kill and futures else {}
        self.client.cancel(futures)
        # A thread that hangs in a decoder ends with its process alone.
        hung = {place for task, place in self._where.items() if task in tasks}
        hung &= {place for place, found in at_work.items() if keys & set(found)}
        if hung:
            self.client.restart_workers(list(hung), raise_for_error=False)

    def close(self) -> None:
        """See `Place`."""
        futures, self._futures = list(self._futures.values()), {}
        # A client that has lost its scheduler would wait for it.
        if self.client.status == "running":
            with suppress(OSError, TimeoutError, CancelledError):
                self.client.unsubscribe_topic(self._run)
                self.client.cancel(futures)

    def _tell(self, message: tuple[float, tuple[Any, ...]]) -> None:
        kind, task, value = message[1]
        if kind == "taken":
            self._where[task] = value
            self._events.put(Taken(task, value))
        else:
            self._events.put(Began(task) if kind == "began" else Advanced(task, value))

    def _ended(self, future: Future[Any]) -> Iterator[Event]:
        task = int(str(future.key).rpartition("-")[2])
        if self._futures.pop(task, None) is None:
            return
        self._where.pop(task, None)
        answer: Answer
        try:
            answer = future.result()
        except (CancelledError, OSError) as error:
            yield from self._check()
            answer = failure(error)
        except Exception as error:
            answer = _lost(error)
        yield Answered(task, answer)

    def _check(self) -> list[Event]:
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
        self._workers = max(1, len(workers))
        # Where any worker has GPUs, a task on one without would compute other bytes, and slowly.
        gpus = any(worker.get("resources", {}).get("GPU") for worker in workers.values())
        self._resources = {"GPU": 1} if gpus else None
        memory = {name: worker.get("metrics", {}).get("memory") for name, worker in workers.items()}
        return [
            Weighs(task, int(memory[where]))
            for task, where in self._where.items()
            if memory.get(where)
        ]


def _lost(error: Exception) -> Failed:
    """A task whose workers died one after the other."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return Failed(
            Cause.SLIDE, "one of its shards ended several workers: the reader or a native library "
            "crashes on it, or it needs more memory than a worker has",
        )  # fmt: skip
    return failure(error)
