"""The place for one slide: a thread of this process, without the seconds that a new one takes."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

import psutil

from lymphinfer.batch.places.perform import Performer
from lymphinfer.batch.platform import memory_bytes
from lymphinfer.batch.tasks import Answered, Event, Taken, Task, Weighs
from lymphinfer.bundles.loading import Bundle

WEIGH_S = 0.5
CLOSE_S = 10.0


class _Cancelled(BaseException):
    """Ends the work on a task that nobody waits for any more."""


class _Hand(threading.Thread):
    """Does tasks until it gets None; once `left`, nothing that it tells is heard."""

    def __init__(self, performer: Performer, events: queue.SimpleQueue[Event]):
        super().__init__(name="lymphinfer here", daemon=True)
        self.performer, self.events = performer, events
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.left = False

    def run(self) -> None:
        while (task := self.tasks.get()) is not None:
            try:
                answer = self.performer.do(task, self._tell)
            except _Cancelled:
                break
            if not self.left:
                self.events.put(Answered(task.id, answer))
        self.performer.close()

    def _tell(self, event: Event) -> None:
        if self.left:
            raise _Cancelled
        self.events.put(event)


class Here:
    """Does one task at a time in a thread of this process.

    A task that is cancelled ends with its next tile. One that hangs cannot be ended without this
    process: it is left behind, see `is_stuck`.

    Parameters
    ----------
    device : str, optional
        Over that of the tasks' settings.
    bundle : Bundle, optional
        Already loaded, over that of the tasks' settings.
    """

    def __init__(self, device: str | None = None, bundle: Bundle | None = None):
        self.device, self.bundle = device, bundle
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._hand: _Hand | None = None
        self._task: int | None = None
        self._weighed_s = 0.0

    @property
    def room(self) -> int:
        """See `Place`."""
        return int(self._task is None)

    @property
    def memory(self) -> int:
        """See `Place`."""
        return int(0.9 * psutil.virtual_memory().total)

    def pieces(self, slides: int) -> int:
        """See `Place`."""
        return 1

    def submit(self, task: Task) -> None:
        """See `Place`."""
        if self._hand is None:
            self._hand = _Hand(Performer(self.device, self.bundle), self._events)
            self._hand.start()
        self._task = task.id
        self._events.put(Taken(task.id, self.device or task.settings.device))
        self._hand.tasks.put(task)

    def answers(self, timeout_s: float) -> Iterator[Event]:
        """See `Place`."""
        with suppress(queue.Empty):
            event = self._events.get(timeout=timeout_s)
            while True:
                if isinstance(event, Answered) and event.task == self._task:
                    self._task = None
                yield event
                event = self._events.get_nowait()
        if self._task is not None and time.monotonic() - self._weighed_s > WEIGH_S:
            self._weighed_s = time.monotonic()
            yield Weighs(self._task, memory_bytes(os.getpid()))

    def cancel(self, tasks: Collection[int], *, kill: bool) -> None:
        """See `Place`."""
        if self._task in tasks:
            self._leave(0.0)

    def close(self) -> None:
        """See `Place`."""
        self._leave(CLOSE_S)

    def _leave(self, wait_s: float) -> None:
        hand, self._hand, self._task = self._hand, None, None
        if hand is None:
            return
        hand.left = True
        hand.tasks.put(None)
        hand.join(wait_s)
        # One that has ended is let go of, and with it its networks.
        _left_behind[:] = [each for each in (*_left_behind, hand) if each.is_alive()]


_left_behind: list[_Hand] = []


def is_stuck() -> bool:
    """Whether a task that was given up still runs: then this process would not end by itself."""
    return any(hand.is_alive() for hand in _left_behind)
