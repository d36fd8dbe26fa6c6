"""Several processes on one batch, and processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lymphinfer.batch.state import Status, find_states
from tests.predict.conftest import disc_image, write_svs

from .made_batch import GOOD, result_bytes, write_bad_slides, write_slides

KILLS = int(os.environ.get("LYMPHINFER_KILLS", "3"))

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")


@pytest.fixture(scope="module")
def batch(disc_bundle, tmp_path_factory):
    """The command but for its --out, and an undisturbed tree."""
    root = tmp_path_factory.mktemp("many")
    slides = write_bad_slides(write_slides(root / "in", GOOD))
    command = [sys.executable, "-m", "lymphinfer", "predict", str(slides), "--bundle",
               str(disc_bundle), "--tile", "256", "--precision", "fp32", "--device", "cpu",
               "--workers", "1"]  # fmt: skip
    assert start(command, root / "calm").wait() == 1
    return command, root, result_bytes(root / "calm")


def start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "--out", str(out)], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def kill_on_the_way(command: list[str], out: Path, rng: random.Random, files: int) -> int:
    """Start and kill again and again, each time when a few more files are there; kills in all."""
    killed = 0
    for _ in range(KILLS):
        before = set(out.rglob("*"))
        wanted = rng.randint(1, max(1, files // KILLS))
        process = start(command, out)
        while len(set(out.rglob("*")) - before) < wanted and process.poll() is None:
            time.sleep(rng.uniform(0.01, 0.05))
        killed += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return killed


def terminated(command: list[str], out: Path) -> int:
    """Exit code of a run that is told to end once its first part is there."""
    process = start(command, out)
    while not list(out.glob("**/*.parquet")) and process.poll() is None:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    return process.wait()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_bytes(batch):
    command, root, calm = batch
    out = root / "killed"
    assert kill_on_the_way(command, out, random.Random(5), len(calm))
    assert start(command, out).wait() == 1
    assert result_bytes(out) == calm
    states = [state.status for _, state in find_states(out)]
    assert (states.count(Status.DONE), states.count(Status.FAILED)) == (GOOD + 1, 5)


@pytest.mark.slow
def test_two_processes_share_a_folder_and_do_no_slide_twice(batch):
    command, root, calm = batch
    out = root / "shared"
    pair = [start(command, out), start(command, out)]
    assert [process.wait() for process in pair] == [1, 1]
    assert result_bytes(out) == calm
    states = [state for _, state in find_states(out)]
    assert {state.attempts for state in states} == {1}
    assert {state.pid for state in states} == {process.pid for process in pair}
    summary = json.loads((out / "batch.json").read_text())
    assert (summary["done"], summary["failed"]) == (GOOD + 1, 5)


@pytest.mark.slow
def test_a_terminated_batch_gives_its_slides_back(batch):
    command, root, _ = batch
    out = root / "ended"
    assert terminated(command, out) == 128 + signal.SIGTERM
    assert not list(out.glob("**/.lock"))
    states = {state.status for _, state in find_states(out)}
    assert Status.QUEUED in states and Status.RUNNING not in states
    assert not [s for _, s in find_states(out) if "signal" in s.reason]


@pytest.fixture(scope="module")
def one(batch, disc_bundle):
    """The command for one slide of many shards, and an undisturbed tree."""
    command, root, _ = batch
    slide = write_svs(root / "one.svs", disc_image(2100, 1100)[0])
    command = [str(slide) if part == str(root / "in") else part for part in command]
    assert start(command, root / "one").wait() == 0
    return command, root, result_bytes(root / "one")


@pytest.mark.slow
def test_one_slide_killed_again_and_again_ends_in_the_same_bytes(one):
    command, root, calm = one
    out = root / "one killed"
    assert kill_on_the_way(command, out, random.Random(7), len(calm))
    assert start(command, out).wait() == 0
    assert result_bytes(out) == calm
    ((_, state),) = find_states(out)
    assert state.status is Status.DONE
    ends = [attempt.end for attempt in state.history]
    assert ends[-1] == "done" and set(ends[:-1]) <= {"interrupted"}
    assert len(ends) == state.attempts


@pytest.mark.slow
def test_two_processes_on_one_slide_compute_it_once(one):
    command, root, calm = one
    out = root / "one shared"
    pair = [start(command, out), start(command, out)]
    assert [process.wait() for process in pair] == [0, 0]
    assert result_bytes(out) == calm
    ((_, state),) = find_states(out)
    assert (state.status, state.attempts) == (Status.DONE, 1)


@pytest.mark.slow
def test_one_slide_that_is_terminated_is_given_back(one):
    command, root, _ = one
    out = root / "one ended"
    assert terminated(command, out) in (0, 128 + signal.SIGTERM)
    assert not list(out.glob("**/.lock"))
    ((_, state),) = find_states(out)
    assert state.status in (Status.QUEUED, Status.DONE)
