"""Locks: one owner at a time, and none that outlives its owner."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lymphinfer.batch import locks
from lymphinfer.batch.locks import FolderLock, Heart, Owner, read_owner
from lymphinfer.errors import ResultError


def leave_behind(folder: Path, **changes: object) -> Owner:
    """A lock file of another owner."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = replace(Owner.new(), **changes)
    (folder / locks.LOCK).write_bytes(owner.encoded())
    return owner


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_held_lock_is_refused_and_a_released_one_is_free(tmp_path):
    first, second = FolderLock(tmp_path / "a"), FolderLock(tmp_path / "a")
    assert first.acquire() and not second.acquire()
    assert second.is_held()
    first.release()
    first.release()
    assert not second.is_held()
    assert second.acquire()
    second.release()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_lock_expires_with_its_process(tmp_path):
    leave_behind(tmp_path, pid=dead_pid())
    assert FolderLock(tmp_path).acquire()


def test_a_lock_expires_when_its_process_id_belongs_to_another(tmp_path):
    leave_behind(tmp_path, pid=os.getppid(), started=1.0)
    assert FolderLock(tmp_path).acquire()


def test_a_living_process_keeps_its_lock_without_a_heartbeat(tmp_path):
    leave_behind(tmp_path)
    os.utime(tmp_path / locks.LOCK, (1, 1))
    assert not FolderLock(tmp_path, expires_s=1).acquire()


def test_another_machine_keeps_its_lock_while_its_heart_beats(tmp_path):
    leave_behind(tmp_path, machine="elsewhere/1")
    lock = FolderLock(tmp_path, expires_s=30)
    assert not lock.acquire()
    long_ago = time.time() - 31
    os.utime(tmp_path / locks.LOCK, (long_ago, long_ago))
    assert lock.acquire()
    assert read_owner(tmp_path / locks.LOCK) == lock.owner


def test_an_unreadable_lock_expires_by_its_age(tmp_path):
    (tmp_path / locks.LOCK).write_bytes(b"not json")
    lock = FolderLock(tmp_path, expires_s=30)
    assert not lock.acquire()
    os.utime(tmp_path / locks.LOCK, (1, 1))
    assert lock.acquire()


def test_the_heart_touches_its_own_locks_only(tmp_path):
    lock, lost = FolderLock(tmp_path / "a"), FolderLock(tmp_path / "b")
    heart = Heart(0.02)
    for each in (lock, lost):
        assert each.acquire()
        os.utime(each.path, (1, 1))
    leave_behind(tmp_path / "b", token="another's")
    os.utime(lost.path, (1, 1))
    for each in (lock, lost):
        heart.add(each)
    end = time.monotonic() + 300
    while lock.path.stat().st_mtime == 1 and time.monotonic() < end:
        time.sleep(0.01)
    heart.close()
    assert not lock.path.exists()
    assert lost.path.stat().st_mtime == 1


def _race(folder: Path, start, end, won) -> None:
    lock = FolderLock(folder)
    start.wait()
    for _ in range(20):
        if lock.acquire():
            with won.get_lock():
                won.value += 1
            break
    end.wait()


@pytest.mark.parametrize("guarded", [False, True])
def test_of_many_processes_one_takes_over_an_expired_lock(tmp_path, guarded):
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    pid = dead_pid()
    for turn in range(8):
        folder = tmp_path / str(turn)
        left = leave_behind(folder, pid=pid)
        if guarded:
            leave_guard(folder, left)
        start, end, won = context.Barrier(4), context.Barrier(4), context.Value("i", 0)
        racers = [context.Process(target=_race, args=(folder, start, end, won)) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert won.value == 1
        assert not list(folder.glob("*.guard"))


def test_a_link_whose_reply_was_lost_is_a_lock_that_was_taken(tmp_path, monkeypatch):
    real = os.link

    def link(*paths):
        real(*paths)
        # As NFS has it, where the client asks again for what the server has done.
        raise FileExistsError

    monkeypatch.setattr(os, "link", link)
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    assert read_owner(lock.path) == lock.owner
    monkeypatch.setattr(os, "link", real)
    assert not FolderLock(tmp_path).acquire()


def test_who_holds_a_folder_may_sweep_away_another_s_try(tmp_path, monkeypatch):
    real = os.link

    def link(source, target):
        Path(source).unlink()
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert not FolderLock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


def leave_guard(folder: Path, owner: Owner) -> Path:
    """A guard of a process that died while it took over a lock."""
    guard = FolderLock._guard(folder / locks.LOCK, owner.token)
    guard.write_bytes(replace(Owner.new(), pid=dead_pid()).encoded())
    return guard


def test_the_guard_of_a_dead_process_is_taken_over_in_one_step(tmp_path):
    owner = leave_behind(tmp_path, pid=dead_pid())
    leave_guard(tmp_path, owner)
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_guard_that_another_has_made_anew_is_left_alone(tmp_path, monkeypatch):
    owner = leave_behind(tmp_path, pid=dead_pid())
    guard = leave_guard(tmp_path, owner)
    living = Owner.new()
    real = FolderLock._expired

    def expired(self, path, found):
        judged = real(self, path, found)
        if path == guard:
            # Between this look and what follows from it another process has taken it over.
            guard.write_bytes(living.encoded())
        return judged

    monkeypatch.setattr(FolderLock, "_expired", expired)
    assert not FolderLock(tmp_path).acquire()
    assert read_owner(guard) == living and read_owner(tmp_path / locks.LOCK) == owner


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="cannot lock"):
        FolderLock(tmp_path / "file" / "a").acquire()
