"""A worker: a process of its own that loads a bundle once and does the tasks that it is sent.

A reader that crashes, hangs or eats all memory takes this process with it and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from lymphinfer.batch.places.perform import Performer, without_error
from lymphinfer.batch.platform import ignore_interrupts, stdout_to_stderr
from lymphinfer.batch.tasks import Answered, Event, Task
from lymphinfer.threads import set_threads


@dataclass(frozen=True)
class Ready:
    """The worker is up."""


@dataclass(frozen=True)
class Logged:
    """A record of the worker's log."""

    record: logging.LogRecord


@dataclass(frozen=True)
class Died:
    """The worker's process has ended; its exit code, negative for a signal."""

    code: int | None


Message = Ready | Logged | Died | Event

_GONE = (BrokenPipeError, ConnectionResetError)


class Sender:
    """The worker's end of the pipe, for all of its threads."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> None:
        """Send; raises an OSError where the parent is gone."""
        with self._lock:
            self.connection.send(message)


class _PipeHandler(logging.Handler):
    def __init__(self, send: Sender):
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.msg += "\n" + logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        try:
            self.send(Logged(record))
        # What cannot be pickled, or a parent that is gone.
        except Exception:
            self.handleError(record)


def main(
    connection: Connection,
    device: str,
    threads: int | None,
    log_level: int,
    setup: Callable[[], None] | None,
) -> None:
    """Serve tasks until the parent is gone.

    Parameters
    ----------
    connection : Connection
        Tasks in, messages out.
    device : str
        As `choose_device` takes it.
    threads : int or None
        Of the networks on the CPU and of the decoding of nuclei; all cores by default.
    log_level : int
    setup : callable, optional
        Called once before any task, such as to register a reader.
    """
    ignore_interrupts()
    stdout_to_stderr()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    send = Sender(connection)
    root = logging.getLogger()
    root.handlers, root.level = [_PipeHandler(send)], log_level
    if threads:
        set_threads(threads)
        # StarDist brings an OpenMP of its own, which reads it when it is loaded.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if setup is not None:
        setup()
    performer = Performer(device)
    try:
        send(Ready())
        while True:
            task: Task | None = connection.recv()
            if task is None:
                return
            answer = performer.do(task, send, _GONE)
            send(Answered(task.id, without_error(answer)))
    except (EOFError, *_GONE):
        return


def _end_with_parent() -> None:
    """End this process, busy or not, when the parent is gone."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
