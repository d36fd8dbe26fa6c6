"""The parent's end of a worker."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from lymphinfer.batch.places.worker import Died, Logged, Message, Ready, main
from lymphinfer.batch.platform import memory_bytes
from lymphinfer.batch.tasks import Answered, Event, Task

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

# Never fork: CUDA does not survive it, nor do the threads of torch and OpenSlide.
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerProcess:
    """A worker on one device, started when it gets its first task and replaced when it dies.

    Parameters
    ----------
    device : str
    threads : int or None
        See `lymphinfer.batch.places.worker.main`.
    setup : callable, optional
        See `lymphinfer.batch.places.worker.main`.

    Attributes
    ----------
    task : Task or None
        At work.
    """

    def __init__(
        self, device: str, threads: int | None = None, setup: Callable[[], None] | None = None
    ):
        self.device, self.threads, self.setup = device, threads, setup
        self.task: Task | None = None
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it has no task."""
        return self.task is None

    @property
    def memory(self) -> int:
        """Resident memory, bytes."""
        pid = None if self._process is None else self._process.pid
        return 0 if pid is None else memory_bytes(pid)

    def send(self, task: Task) -> None:
        """Give it a task; starts its process if there is none."""
        connection = self._connection if self._process is not None else None
        if connection is None:
            connection = self._start()
        self.task = task
        # A process that has just died says so by its sentinel.
        with suppress(OSError):
            connection.send(task)

    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` watches."""
        if self._process is None or self._connection is None:
            return []
        return [self._connection, self._process.sentinel]

    def messages(self) -> Iterator[Event | Died]:
        """What it has said since the last call; `Died` last, after which it can be used again."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            return
        ended = not process.is_alive()
        try:
            while connection.poll():
                message: Message = connection.recv()
                if isinstance(message, Logged):
                    logging.getLogger(message.record.name).handle(message.record)
                    continue
                if isinstance(message, Ready | Died):
                    continue
                if isinstance(message, Answered):
                    self.task = None
                yield message
        except (EOFError, OSError, pickle.UnpicklingError):
            ended = True
        if ended and self._process is process:
            process.join(10)
            code = process.exitcode
            self.kill()
            yield Died(code)

    def kill(self) -> None:
        """End its process at once. Safe to call twice."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        self.task = None
        if process is not None:
            with suppress(OSError):
                process.kill()
            process.join(10)
            with suppress(ValueError):
                process.close()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """End an idle worker politely, a busy one at once."""
        if self._process is not None and self._connection is not None and self.is_idle:
            with suppress(OSError):
                self._connection.send(None)
            self._process.join(5)
        self.kill()

    def _start(self) -> Connection[Any, Any]:
        ours, theirs = _CONTEXT.Pipe()
        level = logging.getLogger().getEffectiveLevel()
        process = _CONTEXT.Process(
            target=main,
            args=(theirs, self.device, self.threads, level, self.setup),
            name=f"lymphinfer {self.device}",
            daemon=True,
        )
        process.start()
        # With the child's end open here too, its death would never show as the end of the pipe.
        theirs.close()
        self._process, self._connection = process, ours
        return ours
