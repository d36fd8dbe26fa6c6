"""What is special to Windows, macOS and disks without hard links, as far as it can be had here."""

from __future__ import annotations

import ast
import errno
import multiprocessing
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
import torch

from lymphinfer import engine
from lymphinfer.batch.locks import FolderLock, read_owner
from lymphinfer.batch.places import worker_process
from lymphinfer.batch.platform import create_exclusive, describe_exit
from lymphinfer.cells import files
from lymphinfer.cells.naming import safe_name, slide_places, slide_stem
from lymphinfer.engine import Engine, choose_device, choose_engine
from lymphinfer.errors import ResultError

from .test_locks import _race, dead_pid, leave_behind

PACKAGE = Path(__file__).resolve().parents[2] / "lymphinfer"


@pytest.fixture
def no_links(monkeypatch):
    """A disk without hard links: exFAT, some network shares."""

    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


def test_without_hard_links_a_lock_is_taken_held_and_given_back(no_links, tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.acquire() and not second.acquire()
    assert read_owner(first.path) == first.owner
    first.release()
    assert list(tmp_path.iterdir()) == []
    assert second.acquire()


def test_without_hard_links_of_many_processes_one_makes_the_file(no_links, tmp_path):
    assert create_exclusive(tmp_path / "a", b"1") and not create_exclusive(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="a started process has hard links again")
def test_without_hard_links_one_of_many_takes_over_an_expired_lock(no_links, tmp_path):
    context = multiprocessing.get_context("fork")
    pid = dead_pid()
    for turn in range(4):
        folder = tmp_path / str(turn)
        leave_behind(folder, pid=pid)
        start, end, won = context.Barrier(4), context.Barrier(4), context.Value("i", 0)
        racers = [context.Process(target=_race, args=(folder, start, end, won)) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert won.value == 1
        assert not list(folder.glob("*.guard"))


@pytest.fixture
def read_by_others(monkeypatch):
    """Windows, where a file that another process reads can be neither replaced nor deleted."""
    monkeypatch.setattr(files, "_WAITS_S", (0.0, 0.0, 0.0))
    left = {"times": 0}
    real_replace, real_unlink = Path.replace, Path.unlink

    def refused(path: Path) -> None:
        if not path.name.endswith(".tmp") and left["times"] > 0:
            left["times"] -= 1
            raise PermissionError(errno.EACCES, "Access is denied")

    def replace(self, target):
        refused(Path(target))
        return real_replace(self, target)

    def unlink(self, missing_ok=False):
        refused(self)
        return real_unlink(self, missing_ok)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    return left


def test_a_file_that_another_process_reads_for_a_moment_is_replaced(read_by_others, tmp_path):
    path = tmp_path / "state.json"
    path.write_text("old")
    read_by_others["times"] = 2
    with files.atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    read_by_others["times"] = 9
    with pytest.raises(ResultError, match="no permission"), files.atomic_write(path) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


def test_a_lock_that_another_process_reads_for_a_moment_is_given_back(read_by_others, tmp_path):
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    read_by_others["times"] = 3
    lock.release()
    assert list(tmp_path.iterdir()) == []
    leave_behind(tmp_path, pid=dead_pid())
    read_by_others["times"] = 3
    assert FolderLock(tmp_path).acquire()


def test_workers_are_spawned_everywhere_as_windows_and_macos_must():
    assert worker_process._CONTEXT.get_start_method() == "spawn"
    assert describe_exit(-9) in ("signal 9 (SIGKILL)", "signal 9")
    # An access violation on Windows.
    assert describe_exit(0xC0000005) == "exit code 0xc0000005"


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        (PureWindowsPath(r"D:\Scans 2024\Größe 1.ome.tif"), "Größe 1"),
        (PureWindowsPath(r"\\server\share\a.b.svs"), "a.b"),
        (PurePosixPath("/Volumes/Scans/a.svs"), "a"),
    ],
)
def test_a_slide_is_named_alike_by_every_kind_of_path(path, stem):
    assert slide_stem(path) == stem


def test_names_end_as_windows_keeps_them():
    """Windows and network shares drop blanks and dots at the end: two folders would become one."""
    for name in ("a ", "a.", "a. ."):
        safe = safe_name(name)
        assert safe.startswith("a~") and safe == safe.rstrip(" .")
    assert len({safe_name(name) for name in ("a", "a ", "a.")}) == 3


def test_a_slide_on_another_drive_is_known_by_its_whole_path(monkeypatch, tmp_path):
    def relpath(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    places = slide_places(tmp_path / "a.svs", tmp_path / "out")
    assert places == {"path": str(tmp_path / "a.svs"), "relative_path": None}


def test_a_mac_computes_on_its_own_gpu_by_torch_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(engine, "may_have_gpu", lambda: True)
    assert choose_engine() == Engine("mps", "fp32", "torch")
    assert choose_device("cpu") == "cpu"


POSIX_MODULES = {"fcntl", "grp", "pwd", "resource", "termios"}
POSIX_NAMES = {"fork", "geteuid", "getuid", "killpg", "mkfifo", "sched_getaffinity", "setsid",
               "statvfs", "sysconf", "uname", "SIGKILL", "SIGHUP", "SIGUSR1"}  # fmt: skip


def test_nothing_is_used_that_windows_has_not():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & POSIX_MODULES
            elif isinstance(node, ast.ImportFrom):
                names = {str(node.module)} & POSIX_MODULES
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = {node.attr} & POSIX_NAMES if node.value.id in ("os", "signal") else set()
            found += [f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}" for name in names]
    assert not found


def test_text_is_read_and_written_in_utf8_whatever_the_system_speaks():
    """Windows' own encoding is another one: a name in a file would become other letters."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            given = len(node.args) + len(node.keywords)
            if (node.func.attr == "read_text" and given == 0) or (
                node.func.attr == "write_text" and given == 1
            ):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not found
