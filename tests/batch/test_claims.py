"""Which process may work on which slide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lymphinfer.batch.claims import Claim, Claims, Refusal, waiting_for
from lymphinfer.batch.job import Job
from lymphinfer.batch.locks import LOCK
from lymphinfer.batch.state import Status, read_state
from lymphinfer.predict.settings import PredictSettings


@pytest.fixture
def job(tmp_path):
    (tmp_path / "a.svs").write_text("a slide")
    return Job(tmp_path / "a.svs", tmp_path / "out" / "a")


@pytest.fixture
def claims():
    made: list[Claims] = []

    def make(**changes) -> Claims:
        options = {"retry_failed": changes.pop("retry_failed", False)}
        made.append(Claims(PredictSettings(**changes), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_process_has_a_slide_at_a_time(job, claims):
    one, two = claims(), claims()
    one.enqueue([job])
    assert read_state(job.folder).status is Status.QUEUED
    claim = one.claim(job)
    assert isinstance(claim, Claim)
    assert two.claim(job) is Refusal.BUSY
    assert "process" in waiting_for(job.folder)
    state = read_state(job.folder)
    assert (state.status, state.attempts) == (Status.RUNNING, 1)
    one.done(claim, nuclei=7, computed=True)
    assert not (job.folder / LOCK).exists()
    assert read_state(job.folder).nuclei == 7
    # Done since the other began: nothing to look at. Done before: to be looked at, not counted.
    assert two.claim(job) is Refusal.DONE_MEANWHILE
    later = claims()
    again = later.claim(job)
    assert isinstance(again, Claim) and again.finished_before
    later.done(again, nuclei=7, computed=False)
    assert read_state(job.folder) == claim.state


def test_a_slide_done_meanwhile_under_another_request_is_not_taken_for_done(job, claims):
    one, two = claims(), claims(tile_px=512)
    claim = one.claim(job)
    one.done(claim, nuclei=7, computed=True)
    assert isinstance(two.claim(job), Claim)


def test_a_failure_stands_until_the_file_the_request_or_the_wish_changes(job, claims):
    one = claims()
    one.failed(one.claim(job), "a.svs: broken")
    state = read_state(job.folder)
    assert (state.status, state.reason) == (Status.FAILED, "a.svs: broken")
    assert claims().claim(job) is Refusal.FAILED_BEFORE
    for other in (claims(mpp=0.25), claims(retry_failed=True)):
        claim = other.claim(job)
        assert isinstance(claim, Claim) and claim.state.reason == ""
        other.failed(claim, "again")
    assert other.claim(job) is Refusal.FAILED_BEFORE
    job.slide.write_text("another slide")
    assert isinstance(claims().claim(job), Claim)


def test_a_slide_put_back_counts_no_attempt(job, claims):
    one = claims()
    one.requeue(one.claim(job))
    state = read_state(job.folder)
    assert (state.status, state.attempts) == (Status.QUEUED, 0)
    assert isinstance(claims().claim(job), Claim)


def test_what_a_killed_process_left_is_swept_by_the_next_owner(job, claims):
    parts = job.folder / "parts"
    parts.mkdir(parents=True)
    for path in (parts / ".shard.parquet.1-ab.tmp", job.folder / ".state.json.1-ab.tmp",
                 job.folder / f"{LOCK}.feed.guard"):  # fmt: skip
        path.touch()
    (parts / "shard.parquet").touch()
    claim = claims().claim(job)
    assert isinstance(claim, Claim)
    left = {p.relative_to(job.folder).as_posix() for p in job.folder.rglob("*") if p.is_file()}
    assert left == {"parts/shard.parquet", "state.json", LOCK}


def test_what_a_process_left_that_was_killed_behind_its_last_word_is_swept_too(job, claims):
    one = claims()
    one.failed(one.claim(job), "no slide")
    # Between giving back the lock and removing the guard of it.
    for name in (f"{LOCK}.feed.guard", f".{LOCK}.1-ab.tmp"):
        (job.folder / name).touch()
    assert claims().claim(job) is Refusal.FAILED_BEFORE
    assert [path.name for path in job.folder.iterdir()] == ["state.json"]


def test_redo_runs_what_is_done(job, claims):
    one = claims()
    one.done(one.claim(job), nuclei=1, computed=True)
    claim = claims(redo=True).claim(job)
    assert isinstance(claim, Claim) and claim.settings.redo
    assert read_state(job.folder).status is Status.RUNNING
    assert replace(claim.settings, redo=False) == one.settings
