"""Where tasks are done: in this process, in worker processes, on a Dask cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from lymphinfer.batch.tasks import Event, Task


class Place(Protocol):
    """Takes tasks and tells what becomes of them; knows nothing of slides, locks or states."""

    @property
    def room(self) -> int:
        """How many more tasks it can take at present."""

    @property
    def memory(self) -> int | None:
        """Bytes that a worker may have where nobody says otherwise."""

    def pieces(self, slides: int) -> int:
        """In how many tasks a slide's shards are cut, at most, with so many slides to be done."""

    def submit(self, task: Task) -> None:
        """Take a task; only while there is room."""

    def answers(self, timeout_s: float) -> Iterator[Event]:
        """What has happened since the last call; waits so long for the first of it.

        Raises
        ------
        LymphinferError
            The place is lost.
        """

    def cancel(self, tasks: Collection[int], *, kill: bool) -> None:
        """Forget tasks by their ids; what is at work ends at once with `kill`, else by itself."""

    def close(self) -> None:
        """End everything."""
