"""Locks on result folders that several processes and machines share.

``flock`` and its kin do not reach across every network file system, and a lock file without an
owner outlives a killed process. A lock here is a file that appears at once with its owner's
machine, process and token in it, and that the owner touches while it lives. It has expired when its
process is gone from the machine that reads it, or, for another machine, when its last touch is
older than a limit by the file system's own clock.

Why none of the libraries: how a lock is taken, by a hard link whose count tells where NFS has lost
the reply, is flufl.lock's (`platform.create_exclusive`). Its locks themselves cannot serve (10.0).
Its ``lock()`` waits out the lifetime of a killed process of the same machine, though its ``state``
knows it to be stale, so that a command given again would stand still. It breaks an expired lock by
removing whatever file is there by then: of two processes that have both seen it expire, the second
removes the lock that the first has just taken, and both go on. It judges by each machine's own
clock, asks by sleeping up to two seconds, and needs hard links, which exFAT and some shares lack.
filelock (3.29) takes a lock by ``O_EXCL``, knows a process by its number, which is used again, and
breaks its `SoftFileLock` without a second look; its `SoftReadWriteLock` has heartbeats, but waits
out their limit for a killed process of the same machine too, by each machine's own clock.
portalocker's locks are ``flock``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lymphinfer.batch.platform import (
    create_exclusive,
    file_system_now,
    is_alive,
    machine,
    process_start,
)
from lymphinfer.cells.files import fix_for, patiently
from lymphinfer.cells.naming import LOCK
from lymphinfer.errors import ResultError

HEARTBEAT_S = 10.0
EXPIRES_S = 180.0


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes
    ----------
    machine : str
        `platform.machine` of the owner.
    pid : int
    started : float
        When the process began, seconds since the epoch: ids are used again.
    token : str
        Different for every lock ever taken.
    """

    machine: str
    pid: int
    started: float
    token: str

    @classmethod
    def new(cls) -> Owner:
        """Make an owner of this process, with a fresh token."""
        pid = os.getpid()
        return cls(machine(), pid, process_start(pid) or 0.0, secrets.token_hex(8))

    def encoded(self) -> bytes:
        """Content of the lock file."""
        return orjson.dumps(vars(self))

    @property
    def host(self) -> str:
        """Name of the machine, for people."""
        return self.machine.split("/")[0]


def read_owner(path: Path) -> Owner | None:
    """Owner in a lock file; None if the file is gone or holds no owner."""
    try:
        values: dict[str, Any] = orjson.loads(path.read_bytes())
        return Owner(**values)
    except (OSError, ValueError, TypeError):
        return None


class FolderLock:
    """The right to write into a result folder.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    expires_s : float
        Age of the last heartbeat from which another machine's lock counts as left behind.
    """

    def __init__(self, folder: Path, expires_s: float = EXPIRES_S):
        self.path = folder / LOCK
        self.expires_s = expires_s
        self.owner: Owner | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free or its owner is gone; never waits.

        Raises
        ------
        ResultError
            The folder cannot be written.
        """
        owner = Owner.new()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            taken = self._take(self.path, owner)
        except OSError as error:
            reason = error.strerror or error
            raise ResultError(
                f"cannot lock {self.path.parent} ({reason}): {fix_for(error)}"
            ) from error
        self.owner = owner if taken else None
        return taken

    def beat(self) -> None:
        """Say that the owner lives; a lock that another has taken over is left alone."""
        with suppress(OSError):
            if self.owner is not None and read_owner(self.path) == self.owner:
                os.utime(self.path)

    def release(self) -> None:
        """Give the lock back. Safe to call twice."""
        owner, self.owner = self.owner, None
        if owner is None:
            return
        with suppress(OSError):
            # Whoever may change a lock holds its guard, so that none removes another's.
            guard = self._guard(self.path, owner.token)
            if self._take(guard, Owner.new()):
                try:
                    if read_owner(self.path) == owner:
                        patiently(self.path.unlink)
                finally:
                    patiently(guard.unlink)

    def holder(self) -> Owner | None:
        """Who holds the lock at present."""
        return read_owner(self.path)

    def is_held(self) -> bool:
        """Whether a living owner holds the lock; writes nothing where that can be told without."""
        owner = read_owner(self.path)
        try:
            return self.path.exists() and not self._expired(self.path, owner)
        except OSError:
            return True

    def _take(self, path: Path, owner: Owner) -> bool:
        """Become the owner of a lock, or of a guard, which is a lock too."""
        return create_exclusive(path, owner.encoded()) or self._take_over(path, owner)

    def _take_over(self, path: Path, owner: Owner) -> bool:
        """Replace an expired lock: for each token one process alone has the guard to do so.

        The guard of a process that died in the few lines below is taken over likewise: it is
        replaced in one step by whoever has *its* guard, never removed and made again, since another
        may have made it anew in between.
        """
        found = read_owner(path)
        if not self._expired(path, found):
            return False
        guard = self._guard(path, "unreadable" if found is None else found.token)
        me = Owner.new()
        if not self._take(guard, me):
            return False
        try:
            # Between judging and guarding another may have taken it over and let go again.
            if read_owner(path) != found or not self._expired(path, found):
                return False
            fresh = path.with_name(f".{path.name}.{owner.token}.tmp")
            fresh.write_bytes(owner.encoded())
            patiently(lambda: fresh.replace(path))
            return True
        except FileNotFoundError:
            # Swept away by a new owner, who has taken the lock while this process stood still.
            return False
        finally:
            # A process that stood still for minutes may have lost it to another.
            if read_owner(guard) == me:
                patiently(lambda: guard.unlink(missing_ok=True))

    @staticmethod
    def _guard(path: Path, token: str) -> Path:
        """Guard of a lock, or of a guard, while this token is in it."""
        digest = hashlib.sha256(f"{path.name} {token}".encode()).hexdigest()[:16]
        return path.with_name(f"{LOCK}.{digest}.guard")

    def _expired(self, path: Path, owner: Owner | None) -> bool:
        if owner is not None and owner.machine == machine():
            return not is_alive(owner.pid, owner.started)
        try:
            return file_system_now(path.parent) - path.stat().st_mtime > self.expires_s
        except FileNotFoundError:
            return False


class Heart:
    """Touches the locks that this process holds, from a thread of its own."""

    def __init__(self, interval_s: float = HEARTBEAT_S):
        self._interval_s = interval_s
        self._locks: set[FolderLock] = set()
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, lock: FolderLock) -> None:
        """Keep a lock alive."""
        with self._mutex:
            self._locks.add(lock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()

    def remove(self, lock: FolderLock) -> None:
        """Let go of a lock."""
        with self._mutex:
            self._locks.discard(lock)

    def close(self) -> None:
        """Release every lock and end the thread."""
        self._stop.set()
        with self._mutex:
            locks, self._locks = self._locks, set()
        for lock in locks:
            lock.release()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            with self._mutex:
                locks = list(self._locks)
            for lock in locks:
                lock.beat()
