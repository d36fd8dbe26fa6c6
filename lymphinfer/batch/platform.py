"""What differs between Linux, macOS and Windows: processes, exit codes, exclusive files."""

from __future__ import annotations

import os
import platform
import secrets
import signal
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

# The clock behind a process's start time may be set while both run.
_START_TOLERANCE_S = 5.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@cache
def machine() -> str:
    """Name of the machine, within which a process id means one process.

    On Linux it also holds the boot and the PID namespace: two containers of one host may share
    its name, yet neither sees the other's processes.
    """
    parts = [platform.node() or "unknown"]
    with suppress(OSError):
        parts.append(_BOOT_ID.read_text("utf-8").strip())
    with suppress(OSError):
        parts.append(str(_PID_NAMESPACE.readlink()))
    return "/".join(parts)


def process_start(pid: int) -> float | None:
    """When a process of this machine began, seconds since the epoch; None if there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return time.time()


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that began at `started` under this id still runs on this machine."""
    found = process_start(pid)
    return found is not None and abs(found - started) < _START_TOLERANCE_S


def memory_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def create_exclusive(path: Path, content: bytes) -> bool:
    """Create a file with its content, unless one is there.

    The file appears with all of its content at once. A hard link does so on every file system that
    has them, NFS included, where ``O_EXCL`` was long unsafe.

    Returns
    -------
    bool
        False if the file was there before.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except (OSError, NotImplementedError) as error:
            # Over NFS the reply to a link that was made can be lost; what was asked for again says
            # that the file is there. The number of links tells, as flufl.lock has it.
            try:
                if temporary.stat().st_nlink > 1:
                    return True
            except FileNotFoundError:
                # Swept away, as a dead process's, by who holds the folder.
                return path.exists() and path.read_bytes() == content
            if isinstance(error, FileExistsError):
                return False
            # exFAT and some network shares have no hard links.
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
        return True
    finally:
        with suppress(OSError):
            temporary.unlink()


def file_system_now(folder: Path) -> float:
    """The file system's own time, by which its modification times can be judged.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    probe = folder / f".clock.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        with suppress(OSError):
            probe.unlink()


def describe_exit(code: int | None) -> str:
    """Say how a process ended, from `multiprocessing.Process.exitcode`."""
    if code is None:
        return "no exit code"
    if code >= 0:
        # Windows reports an access violation as 0xC0000005.
        return f"exit code {code:#x}" if code > 0xFFFF else f"exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"signal {-code}{name}"


def was_killed(code: int | None) -> bool:
    """Whether a process was ended from outside, as the kernel does where memory runs out."""
    return code is not None and code == -getattr(signal, "SIGKILL", 9)


def ignore_interrupts() -> None:
    """Leave Ctrl-C and a scheduler's end of the job, which reach every process, to the parent."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def exit_on_sigterm() -> None:
    """End by an exception when a job scheduler ends the job, so that locks are given back."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def stdout_to_stderr() -> None:
    """Send what this process's native libraries print to stderr: stdout is the parent's."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(2, 1)
