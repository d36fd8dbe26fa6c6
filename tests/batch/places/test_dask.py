"""The Dask engine: the bytes of the local one, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.run import predict_folder
from lymphinfer.batch.state import Status, find_states
from lymphinfer.errors import LymphinferError
from tests.predict.conftest import disc_image, write_svs

from ..made_batch import result_bytes, settings

pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")]


WORKER = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
SLOW_DISK = """
import os, time
os.fsync = lambda descriptor, real=os.fsync: (time.sleep(0.2), real(descriptor))
"""


@pytest.fixture(scope="module")
def batch(disc_bundle, tmp_path_factory):
    """Two slides of six shards and a file that is none; settings, local result tree."""
    root = tmp_path_factory.mktemp("dask")
    (root / "in").mkdir()
    for seed, name in enumerate(("a", "b")):
        image, _ = disc_image(1100, 2100, seed=seed)
        write_svs(root / "in" / f"{name}.svs", image)
    (root / "in" / "text.svs").write_text("not a slide")
    chosen = settings(disc_bundle)
    local = predict_folder(root / "in", root / "local", settings=chosen)
    assert (len(local.done), len(local.failed)) == (2, 1)
    return root, chosen, result_bytes(root / "local")


@contextmanager
def cluster(folder: Path, workers: int = 3) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers without nannies on the loopback; yields address and processes.

    A worker takes its time over each write, to be met in the middle of one.
    """
    file = folder / "scheduler.json"
    slow = folder / "slow_disk.py"
    slow.write_text(SLOW_DISK)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}

    def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(file),
             "--no-dashboard", *arguments],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd=folder,
        )  # fmt: skip

    processes = [start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")]
    try:
        end = time.monotonic() + 600
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.1)
        processes += [start("dask_worker", *WORKER, "--preload", str(slow)) for _ in range(workers)]
        import json

        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(root: Path, out: str, chosen, address: str):
    from lymphinfer.batch.run import run_on_dask

    jobs = find_jobs(root / "in", root / out)
    return run_on_dask(jobs, root / out, chosen, scheduler=address)


def when_files_are_there(out: Path, count: int, act, pattern: str = "*.parquet") -> None:
    """Act from a thread once so many parts, or other files, are written."""
    import threading

    def wait() -> None:
        end = time.monotonic() + 600
        while len(list(out.glob(f"**/{pattern}"))) < count and time.monotonic() < end:
            time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_three_workers_one_of_them_killed_give_the_bytes_of_the_local_engine(batch, tmp_path):
    root, chosen, local = batch
    with cluster(tmp_path) as (address, (_, _, _, victim)):
        calm = run(root, "calm", chosen, address)
        assert result_bytes(root / "calm") == local
        assert [o.slide.name for o in calm.failed] == ["text.svs"]
        assert sum(o.shards_retried for o in calm.outcomes) == 0
        half_written = f".*.parquet.{victim.pid}-*.tmp"
        kill = partial(os.kill, victim.pid, signal.SIGKILL)
        when_files_are_there(root / "hurt", 1, kill, half_written)
        hurt = run(root, "hurt", chosen, address)
        assert victim.wait() == -signal.SIGKILL
    assert result_bytes(root / "hurt") == local
    assert 1 <= sum(o.shards_retried for o in hurt.outcomes) <= 6
    assert [state.shards_retried for _, state in find_states(root / "hurt")] == [
        o.shards_retried for o in hurt.outcomes
    ]


def test_without_its_scheduler_it_ends_clearly_and_goes_on_with_a_new_one(batch, tmp_path):
    root, chosen, local = batch
    (tmp_path / "one").mkdir()
    with cluster(tmp_path / "one", workers=1) as (address, (scheduler, _)):
        when_files_are_there(root / "lost", 4, lambda: os.kill(scheduler.pid, signal.SIGKILL))
        with pytest.raises(LymphinferError, match=r"scheduler is lost.*same command"):
            run(root, "lost", chosen, address)
    kept = {p: p.stat().st_mtime_ns for p in (root / "lost").glob("**/*.parquet")}
    assert len(kept) >= 4
    assert Status.RUNNING not in {state.status for _, state in find_states(root / "lost")}
    assert not list((root / "lost").glob("**/.lock"))
    (tmp_path / "two").mkdir()
    with cluster(tmp_path / "two", workers=1) as (address, _):
        run(root, "lost", chosen, address)
    assert result_bytes(root / "lost") == local
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_scheduler_that_is_not_there_is_named(batch, monkeypatch):
    from lymphinfer.batch.places import dask_cluster

    root, chosen, _ = batch
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 1)
    with pytest.raises(LymphinferError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run(root, "nowhere", chosen, "tcp://127.0.0.1:9")
