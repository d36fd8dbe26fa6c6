r"""The life of a slide as a state machine: events in, tasks out.

It knows no process, no file and no clock, and is the same wherever the tasks are done::

    claimed -> plan -> shards, side by side -> finish -> done
                 \            \                \
                  `------------`----------------`-----> failed: an answer, a time or a memory limit

A slide that an earlier run has finished is done with its plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lymphinfer.batch.tasks import (
    Advanced,
    Answer,
    Answered,
    Began,
    Cause,
    Event,
    Failed,
    FinishTask,
    PlanTask,
    ShardsTask,
    Taken,
    Task,
    Weighs,
)
from lymphinfer.predict.plan import ShardsDone, SlidePlan, add_seconds
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings


@dataclass(frozen=True)
class Limits:
    """What a slide may cost.

    Attributes
    ----------
    slide_s : float or None
        Seconds of work.
    stall_s : float
        Seconds without a sign of work from a worker that has one of its tasks.
    memory : int or None
        Bytes that a worker may have.
    """

    slide_s: float | None = None
    stall_s: float = math.inf
    memory: int | None = None


@dataclass
class Hand:
    """A task that was sent and is not answered, as far as it is."""

    task: Task
    heard_s: float | None = None
    where: str = ""
    tiles: int = 0
    nuclei: int = 0


@dataclass
class Life:
    """One slide from its claim to its end.

    Attributes
    ----------
    numbers : iterator of int
        Gives every task of a run another id.
    limits : Limits
    pieces : int
        Tasks in which its shards are cut, at most.
    end : SlideResult, Failed or None
        How it ended.
    must_kill : bool
        Whether what is still in hand does not end by itself.
    in_hand : dict
        Tasks that are sent and not answered, by id.
    began_s : float or None
        When the first worker began.
    computed : bool
        Whether there was anything to compute.
    tiles, tiles_done, nuclei, retried : int
        How far it is; `retried` counts shards that were begun again.
    where : str
        The worker last heard of.
    """

    numbers: Iterator[int]
    limits: Limits = field(default_factory=Limits)
    pieces: int = 1
    end: SlideResult | Failed | None = None
    must_kill: bool = False
    in_hand: dict[int, Hand] = field(default_factory=dict)
    plan: SlidePlan | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    began_s: float | None = None
    computed: bool = False
    tiles: int = 0
    tiles_done: int = 0
    nuclei: int = 0
    retried: int = 0
    where: str = ""

    def claimed(self, path: Path, folder: Path, settings: PredictSettings) -> list[Task]:
        """The slide is ours: it is planned."""
        return self._send(PlanTask(next(self.numbers), path, folder, settings))

    def hear(self, event: Event, now: float) -> list[Task]:
        """Take in what a place tells.

        Parameters
        ----------
        event : Event
            Of any task; of one that is not in hand it means nothing.
        now : float
            Seconds of a clock that only goes on.

        Returns
        -------
        list of Task
            What there is to do next.
        """
        hand = self.in_hand.get(event.task)
        if hand is None or self.end is not None:
            return []
        if isinstance(event, Answered):
            del self.in_hand[event.task]
            return self._answered(hand, event.answer, now)
        if isinstance(event, Weighs):
            self._weighs(event.bytes)
            return []
        hand.heard_s = now
        if isinstance(event, Taken):
            self._taken(hand, event.where)
        elif isinstance(event, Began) and self.began_s is None:
            # Loading the networks is no slide's time.
            self.began_s = now
        elif isinstance(event, Advanced):
            hand.tiles += 1
            hand.nuclei += event.nuclei
            self.tiles_done += 1
            self.nuclei += event.nuclei
        return []

    def check(self, now: float) -> None:
        """End a slide that is late or hangs."""
        if self.end is not None:
            return
        slide_s, stall_s = self.limits.slide_s, self.limits.stall_s
        heard = [hand.heard_s for hand in self.in_hand.values() if hand.heard_s is not None]
        if slide_s is not None and self.began_s is not None and now - self.began_s > slide_s:
            self._kill(f"took longer than --slide-timeout {slide_s:g} s")
        elif heard and now - min(heard) > stall_s:
            self._kill(f"hung: no tile was finished in {stall_s:g} s")

    def _send(self, *tasks: Task) -> list[Task]:
        self.in_hand.update({task.id: Hand(task) for task in tasks})
        return list(tasks)

    def _taken(self, hand: Hand, where: str) -> None:
        if hand.where:
            self.retried += isinstance(hand.task, ShardsTask)
            self.tiles_done -= hand.tiles
            self.nuclei -= hand.nuclei
            hand.tiles = hand.nuclei = 0
        self.where = hand.where = where

    def _answered(self, hand: Hand, answer: Answer, now: float) -> list[Task]:
        if isinstance(answer, SlideResult | Failed):
            self.end = answer
            return []
        if isinstance(answer, SlidePlan):
            self.plan, self.computed, self.seconds = answer, True, answer.seconds
            self.tiles, self.tiles_done = answer.tiles(), answer.tiles(answer.done)
            chunks = _chunks(answer.todo, self.pieces)
            sent = self._send(*(ShardsTask(next(self.numbers), answer.only(ids)) for ids in chunks))
            return sent or self._finish(now)
        return self._computed(hand, answer, now)

    def _computed(self, hand: Hand, done: ShardsDone, now: float) -> list[Task]:
        assert isinstance(hand.task, ShardsTask)
        self.seconds = add_seconds(self.seconds, done.seconds)
        # Whatever of its progress was lost or is still on the way.
        self.tiles_done += hand.task.plan.tiles() - hand.tiles
        self.nuclei += done.nuclei - hand.nuclei
        return [] if self.in_hand else self._finish(now)

    def _finish(self, now: float) -> list[Task]:
        assert self.plan is not None
        took = 0.0 if self.began_s is None else now - self.began_s
        return self._send(FinishTask(next(self.numbers), self.plan, self.seconds, took))

    def _weighs(self, found: int) -> None:
        limit = self.limits.memory
        if limit is not None and found > limit:
            self._kill(
                f"its worker used more than {limit / 1e9:.1f} GB of memory: a damaged file, or a "
                "larger --memory-limit is needed"
            )

    def _kill(self, reason: str) -> None:
        self.end, self.must_kill = Failed(Cause.SLIDE, reason), True


def _chunks(ids: Sequence[str], count: int) -> Iterator[list[str]]:
    """Neighbouring shards in at most `count` runs."""
    size = max(1, math.ceil(len(ids) / max(1, count)))
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])
