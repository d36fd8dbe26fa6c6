from __future__ import annotations

import os
import time

import pytest
from typer.testing import CliRunner

from lymphinfer.batch.locks import FolderLock
from lymphinfer.batch.state import SlideState, Status, write_state
from lymphinfer.cli.app import app
from lymphinfer.errors import ResultError


def status(*arguments: object):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["status", *map(str, arguments)])


def test_counts_running_slides_and_reasons_are_shown(tmp_path):
    write_state(tmp_path / "a", SlideState("a.svs", Status.DONE))
    write_state(tmp_path / "b", SlideState("b.svs"))
    write_state(tmp_path / "c", SlideState("c.svs", Status.FAILED, reason="c.svs: is empty"))
    running = SlideState(
        "d.svs", Status.RUNNING, since=time.time() - 3700, tiles=90, tiles_done=30, nuclei=12345,
        attempts=2, host="node7", pid=os.getpid(), device="cuda:1",
    )  # fmt: skip
    write_state(tmp_path / "x" / "d", running)
    lock = FolderLock(tmp_path / "x" / "d")
    assert lock.acquire()
    write_state(tmp_path / "e", running)
    done = status(tmp_path)
    assert done.exit_code == 0
    for words in ("5 slides: 1 queued, 2 running, 1 done, 1 failed", "x/d", "30 / 90", "12,345",
                  "1:01:40", "node7 cuda:1", "interrupted", "is empty"):  # fmt: skip
        assert words in done.stdout
    lock.release()


def test_watching_ends_when_nothing_is_left(tmp_path):
    write_state(tmp_path / "a", SlideState("a.svs", Status.DONE))
    assert status(tmp_path, "--watch").exit_code == 0


def test_a_folder_without_a_batch_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        result = status(folder)
        assert isinstance(result.exception, ResultError)
        assert str(folder) in str(result.exception)


@pytest.mark.parametrize("option", ["-h"])
def test_help_says_what_to_give(option):
    assert "--out" in status(option).stdout
