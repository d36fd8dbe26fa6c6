"""The life of a slide, without a process, a file or a clock."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from lymphinfer.batch.life import Life, Limits
from lymphinfer.batch.tasks import (
    Advanced,
    Answered,
    Began,
    Cause,
    Failed,
    FinishTask,
    PlanTask,
    ShardsTask,
    Taken,
    Weighs,
)
from lymphinfer.predict.plan import ShardsDone, SlidePlan
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import Shard, TileGrid

SLIDE, FOLDER, SETTINGS = Path("a.svs"), Path("out/a"), PredictSettings(tile_px=256)


def plan(done: tuple[str, ...] = ()) -> SlidePlan:
    """Of a slide of six shards with four tiles each."""
    grid = TileGrid((1536, 1024), 0.325, 0.325, tile_px=256, halo_px=32)
    boxes = [(x, y, x + 256, y + 256) for y in range(0, 1024, 256) for x in range(0, 1536, 256)]
    shards = tuple(
        Shard(f"shard-{i:04d}", tuple(grid.tile(box) for box in boxes[4 * i : 4 * i + 4]))
        for i in range(6)
    )
    return SlidePlan(
        SLIDE, FOLDER, SETTINGS, {}, "mark", "none", "fp32", "torch", "cpu", "0" * 64, grid, shards,
        frozenset(shard.id for shard in shards if shard.id in done), 1.0, {"tissue": 1.0},
    )  # fmt: skip


def result(nuclei: int = 60) -> SlideResult:
    return SlideResult(SLIDE, FOLDER, FOLDER / "a.zip", {"nuclei": nuclei}, 0, 6, 1.0)


class Told:
    """A life, and what was told to it with a second between."""

    def __init__(self, **options):
        limits = Limits(**{k: options.pop(k) for k in list(options) if k in Limits.__annotations__})
        self.life = Life(itertools.count(1), limits, **options)
        self.now = 100.0
        (self.first,) = self.life.claimed(SLIDE, FOLDER, SETTINGS)

    def __call__(self, *events, after: float = 1.0):
        tasks = []
        for event in events:
            self.now += after
            tasks += self.life.hear(event, self.now)
        return tasks

    def begin(self, task):
        return self(Taken(task.id, "cpu"), Began(task.id))

    def planned(self, found: SlidePlan | None = None):
        self.begin(self.first)
        return self(Answered(self.first.id, found or plan()))


def test_a_slide_is_planned_computed_and_finished():
    told = Told()
    assert told.first == PlanTask(1, SLIDE, FOLDER, SETTINGS)
    (shards,) = told.planned()
    assert isinstance(shards, ShardsTask) and shards.plan.todo == plan().todo
    assert told.begin(shards) == []
    (finish,) = told(Answered(shards.id, ShardsDone(60, {"read": 2.0})))
    assert isinstance(finish, FinishTask)
    # The plan began at 102 and the shards were done at 106.
    assert (finish.seconds, finish.total_seconds) == ({"tissue": 1.0, "read": 2.0}, 4.0)
    assert told(Answered(finish.id, result())) == []
    assert told.life.end == result() and not told.life.in_hand and told.life.computed


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 100])
def test_its_shards_are_cut_into_pieces_and_each_is_computed_once(pieces):
    told = Told(pieces=pieces)
    tasks = told.planned()
    assert len(tasks) <= pieces
    assert [shard for task in tasks for shard in task.plan.todo] == plan().todo
    # Whichever comes last, the slide is finished once, and after all of them.
    for task in tasks[1:]:
        assert told(Answered(task.id, ShardsDone(1, {}))) == []
    (finish,) = told(Answered(tasks[0].id, ShardsDone(1, {})))
    assert isinstance(finish, FinishTask) and {s.id for s in finish.plan.shards} == set(plan().todo)


def test_what_an_earlier_run_has_done_is_not_sent():
    first, *others = plan().todo
    told = Told()
    (shards,) = told.planned(plan(done=(first,)))
    assert shards.plan.todo == others
    assert (told.life.tiles, told.life.tiles_done) == (24, 4)
    (finish,) = Told().planned(plan(done=tuple(plan().todo)))
    assert isinstance(finish, FinishTask)


def test_a_finished_slide_is_done_with_its_plan():
    told = Told()
    assert told.planned(result()) == []
    assert told.life.end == result() and not told.life.computed


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_failure_ends_it_at_every_stage(stage):
    told = Told(pieces=2)
    failed = Failed(Cause.SLIDE, "broken")
    tasks = [told.first]
    if stage:
        tasks = told.planned()
    if stage == 2:
        tasks = told(*(Answered(task.id, ShardsDone(1, {})) for task in tasks))
    assert told(Answered(tasks[0].id, failed)) == []
    assert told.life.end == failed and not told.life.must_kill
    # What is left in hand is for the place to cancel, and what it still says means nothing.
    assert list(told.life.in_hand) == [task.id for task in tasks[1:]]
    for task in tasks[1:]:
        assert told(Answered(task.id, ShardsDone(1, {}))) == []
    assert told.life.end == failed


def test_its_time_begins_with_the_work_and_not_with_the_networks():
    told = Told(slide_s=10)
    told(Taken(told.first.id, "cpu"))
    told.life.check(told.now + 1000)
    assert told.life.end is None
    told(Began(told.first.id))
    (shards,) = told(Answered(told.first.id, plan()))
    told(Advanced(shards.id, 1))
    told.life.check(102 + 10)
    assert told.life.end is None
    told.life.check(102 + 10.5)
    assert told.life.end == Failed(Cause.SLIDE, "took longer than --slide-timeout 10 s")
    assert told.life.must_kill and list(told.life.in_hand) == [shards.id]


def test_it_hangs_when_a_worker_says_nothing_and_not_while_it_waits_for_one():
    told = Told(stall_s=30, pieces=2)
    one, two = told.planned()
    told.life.check(told.now + 1000)
    assert told.life.end is None
    told(Taken(one.id, "cpu:0"), Taken(two.id, "cpu:1"))
    began = told.now
    # One that goes on does not speak for the other.
    for _ in range(3):
        told(Advanced(one.id, 1), after=10)
    told.life.check(began + 29)
    assert told.life.end is None
    told.life.check(began + 31)
    assert told.life.end == Failed(Cause.SLIDE, "hung: no tile was finished in 30 s")
    assert told.life.must_kill


def test_a_worker_that_takes_too_much_memory_ends_it():
    told = Told(memory=2_000_000_000)
    told(Weighs(told.first.id, 2_000_000_000))
    assert told.life.end is None
    told(Weighs(told.first.id, 2_000_000_001))
    assert "more than 2.0 GB" in told.life.end.reason and told.life.must_kill


def test_progress_that_is_lost_or_told_twice_counts_once():
    told = Told(pieces=6)
    tasks = told.planned()
    task = tasks[0]
    told(Taken(task.id, "one"), Advanced(task.id, 5), Advanced(task.id, 6))
    assert (told.life.tiles_done, told.life.nuclei, told.life.retried) == (2, 11, 0)
    # The worker is lost, and another begins anew.
    told(Taken(task.id, "two"), Advanced(task.id, 5))
    assert (told.life.tiles_done, told.life.nuclei, told.life.retried) == (1, 5, 1)
    told(Answered(task.id, ShardsDone(20, {})))
    assert (told.life.tiles_done, told.life.nuclei) == (4, 20)
    told(Advanced(task.id, 7), Answered(task.id, ShardsDone(20, {})))
    assert (told.life.tiles_done, told.life.nuclei) == (4, 20)


def test_any_order_of_what_happens_ends_it_once():
    """Every order in which three pieces can advance and end gives one finish and one sum."""
    for order in itertools.permutations(range(3)):
        for early in range(3):
            told = Told(pieces=3)
            tasks = told.planned()
            told(*(Taken(task.id, "cpu") for task in tasks))
            told(Advanced(tasks[early].id, 3))
            sent = told(*(Answered(tasks[n].id, ShardsDone(10, {"read": 1.0})) for n in order))
            (finish,) = sent
            assert (told.life.tiles_done, told.life.nuclei) == (24, 30)
            assert finish.seconds["read"] == 3.0


def test_a_plan_that_is_cut_down_keeps_its_settings():
    told = Told(pieces=6)
    for task in told.planned(replace(plan(), settings=replace(SETTINGS, redo=True))):
        assert task.settings.redo
