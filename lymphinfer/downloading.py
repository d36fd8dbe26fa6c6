"""Fetching a file from anywhere: resumed, tried again, whole or not there, and right.

What the network does and what the disk does are told apart: a full disk is no network fault.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lymphinfer.cells.files import cannot_write
from lymphinfer.errors import LymphinferError, ResultError

TRIES = 5
"""In a row that bring nothing; as long as bytes come, it goes on."""
TIMEOUT_S = 30.0
BLOCK_BYTES = 1 << 20

OnBytes = Callable[[str, int, int], None]
"""Told the file's name, the bytes that are there, and all of them (0 where unknown)."""


def silent(name: str, done: int, total: int) -> None:
    """Tell nobody, as an `OnBytes`."""


class CutError(Exception):
    """A try that ended early; the next may go on from there."""


class StartOverError(CutError):
    """What is there cannot be gone on from."""


class RefusedError(Exception):
    """There is no use in trying again."""


@dataclass(frozen=True)
class Reply:
    """What a source answers.

    Attributes
    ----------
    start : int
        Of its first byte in the file: what was asked for, or 0.
    blocks : iterator of bytes
        Raises `CutError` or `RefusedError`.
    """

    start: int
    blocks: Iterator[bytes]


class Source(Protocol):
    """Where a file comes from."""

    name: str
    size: int
    """Bytes of the whole file, 0 where it is not known (yet)."""

    def open(self, start: int) -> Any:
        """Context manager of the `Reply` to asking from a byte on."""


class HttpSource:
    """A file at an http or https address, through httpx: proxies and certificates are its own.

    Parameters
    ----------
    url : str
    """

    def __init__(self, url: str):
        self.name, self.size = url, 0

    @contextmanager
    def open(self, start: int) -> Iterator[Reply]:
        """See `Source`."""
        import httpx

        # Compressed bytes have no place in the file.
        headers = {"User-Agent": "lymphinfer", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with httpx.stream(
                "GET", self.name, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
            ) as reply:
                _check_status(reply.status_code, f"{reply.status_code} {reply.reason_phrase}")
                begins = start if reply.status_code == httpx.codes.PARTIAL_CONTENT else 0
                length = reply.headers.get("Content-Length")
                self.size = begins + int(length) if length is not None else 0
                yield Reply(begins, reply.iter_raw())
        except httpx.TransportError as error:
            raise CutError(str(error) or type(error).__name__) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RefusedError(f"the address cannot be fetched ({error})") from error


def _check_status(status: int, words: str) -> None:
    if status == 416:
        raise StartOverError("the server has no more bytes than are there, and they are not right")
    if status >= 500:
        raise CutError(f"the server answers {words}")
    if status >= 400:
        raise RefusedError(f"the server answers {words}")


class FileSource:
    """A file on a disk that is reached here.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path):
        self.path, self.name, self.size = path, str(path), 0

    @contextmanager
    def open(self, start: int) -> Iterator[Reply]:
        """See `Source`."""
        try:
            stream = self.path.open("rb")
        except OSError as error:
            raise RefusedError(f"cannot be read ({error.strerror or error})") from error
        with stream:
            self.size = os.fstat(stream.fileno()).st_size
            if start > self.size:
                raise StartOverError(f"{start:,} bytes are there of {self.size:,}")
            stream.seek(start)
            yield Reply(start, self._blocks(stream))

    def _blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        try:
            while block := stream.read(BLOCK_BYTES):
                yield block
        except OSError as error:
            raise CutError(error.strerror or str(error)) from error


class RangeSource:
    """A file of fsspec's file systems, range by range.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
    path : str
    size : int
        Bytes.
    block_bytes : int
    """

    def __init__(self, fs: Any, path: str, size: int, *, block_bytes: int = 16 << 20):
        self.fs, self.name, self.size, self.block_bytes = fs, path, size, block_bytes

    @contextmanager
    def open(self, start: int) -> Iterator[Reply]:
        """See `Source`."""
        if start > self.size:
            raise StartOverError(f"{start:,} bytes are there of {self.size:,}")
        yield Reply(start, self._blocks(start))

    def _blocks(self, start: int) -> Iterator[bytes]:
        while start < self.size:
            end = min(start + self.block_bytes, self.size)
            try:
                data = bytes(self.fs.cat_file(self.name, start=start, end=end))
            except FileNotFoundError as error:
                raise RefusedError("it is not there any more: list it again") from error
            # What lies below fsspec has no error in common but Exception.
            except Exception as error:
                raise CutError(f"{type(error).__name__}: {error}") from error
            if len(data) != end - start:
                raise CutError(f"{len(data):,} of {end - start:,} bytes came")
            yield data
            start = end


def download(
    source: Source,
    path: Path,
    *,
    error: type[LymphinferError],
    sha256: str | None = None,
    on_bytes: OnBytes = silent,
    wait_s: float = 1.0,
) -> Path:
    """Fetch a file, going on where an earlier or cut try stopped.

    Parameters
    ----------
    source : Source
    path : Path
        Where it will be. Until it is whole it lies beside it as ``<name>.part``.
    error : type of LymphinferError
        Raised for what the network and the far side do.
    sha256 : str or None
        Hex; None only for what is checked otherwise.
    on_bytes : callable
    wait_s : float
        Pause before the second try, doubled at each further one.

    Returns
    -------
    Path

    Raises
    ------
    LymphinferError
        Of the type `error`: no network, not found, or another hash than expected; what was fetched
        with a wrong hash is removed.
    ResultError
        The disk is full, or the folder cannot be written. What is there stays.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(source, part, path, error, on_bytes, wait_s)
        if sha256 is not None and (found := sha256_of(part)) != sha256:
            part.unlink()
            raise error(
                f"{source.name}: has sha256 {found[:12]}…, expected {sha256[:12]}…; it was not "
                "kept. It is damaged or not the published file."
            )
        part.replace(path)
    except OSError as problem:
        raise cannot_write(path, problem) from problem
    return path


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(
    source: Source,
    part: Path,
    path: Path,
    error: type[LymphinferError],
    on_bytes: OnBytes,
    wait_s: float,
) -> None:
    """Fill the part file; tries in a row that bring nothing are counted."""
    failed, reason = 0, ""
    while failed < TRIES:
        before = _size(part)
        try:
            _append(source, part, path.name, on_bytes)
            if not source.size or _size(part) == source.size:
                return
            reason = "the connection was cut"
        except StartOverError as problem:
            part.unlink(missing_ok=True)
            reason, failed = str(problem), failed + 1
            continue
        except CutError as problem:
            reason = str(problem)
        except RefusedError as problem:
            raise error(f"{source.name}: {problem}") from problem
        failed = 0 if _size(part) > before else failed + 1
        if 0 < failed < TRIES:
            time.sleep(wait_s * 2 ** (failed - 1))
    of = f" of {source.size:,}" if source.size else ""
    raise error(
        f"{source.name}: the download stopped at byte {_size(part):,}{of}: {TRIES} tries brought "
        f"nothing more ({reason}). Check the network and its proxy (HTTPS_PROXY), and give the "
        "same command again: it goes on from what is there. Without a network, fetch the file on "
        f"another machine and put it at {path}."
    )


def _append(source: Source, part: Path, name: str, on_bytes: OnBytes) -> None:
    """Add what comes of one try."""
    there = _size(part)
    with source.open(there) as reply, part.open("ab") as stream:
        have = reply.start
        if have < there:
            stream.truncate(have)
        _check_room(part, source.size - have)
        for block in reply.blocks:
            stream.write(block)
            have += len(block)
            on_bytes(name, have, source.size)
        stream.flush()
        os.fsync(stream.fileno())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise ResultError(
            f"{path.parent}: {needed / 2**30:.1f} GiB are still to come, but "
            f"{free / 2**30:.1f} GiB are free: free some space, or choose another folder"
        )
