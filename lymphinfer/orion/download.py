"""Fetching chosen slides and kinds of file from the public bucket, resumable and size-checked."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lymphinfer.errors import DataError, ResultError
from lymphinfer.orion.manifest import PATTERNS, ManifestRow

BUCKET = "lin-2023-orion-crc/data"
REGION = "us-east-1"
BLOCK_BYTES = 16 << 20
_TRIES = 5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file in the bucket.

    Attributes
    ----------
    folder, kind : str
        The slide and what the file is.
    path : str
        On the remote file system.
    size : int
        Bytes.
    """

    folder: str
    kind: str
    path: str
    size: int

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rsplit("/", 1)[-1]


def public_bucket() -> Any:
    """File system of the public bucket, without credentials.

    Returns
    -------
    fsspec.AbstractFileSystem

    Raises
    ------
    DataError
        `s3fs` is not installed.
    """
    try:
        import s3fs
    except ImportError as error:
        raise DataError(
            "downloading needs s3fs, which is not installed. Run `pip install 'lymphinfer[orion]'`."
        ) from error
    return s3fs.S3FileSystem(anon=True, client_kwargs={"region_name": REGION})


def find_remote(
    fs: Any, rows: Sequence[ManifestRow], kinds: Sequence[str], root: str = BUCKET
) -> list[RemoteFile]:
    """Look up files by pattern in the bucket.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
    rows : sequence of ManifestRow
        Slides.
    kinds : sequence of str
        Among `lymphinfer.orion.manifest.KINDS`.
    root : str
        Folder of the slides' folders.

    Returns
    -------
    list of RemoteFile
        Slide by slide, in the order of `kinds`.

    Raises
    ------
    DataError
        The bucket cannot be reached, or a pattern has no hit or several; all are named.
    """
    found, problems = [], []
    for row in rows:
        folder = f"{root}/{row.folder}"
        try:
            with _network(root):
                entries = [e for e in fs.ls(folder, detail=True) if e["type"] == "file"]
        except FileNotFoundError:
            problems.append(f"{folder}: no such folder.")
            continue
        for kind in kinds:
            names = [(str(e["name"]), int(e["size"])) for e in entries]
            hits = [
                (path, size)
                for path, size in names
                if fnmatchcase(path.rsplit("/", 1)[-1], PATTERNS[kind])
            ]
            if len(hits) == 1:
                found.append(RemoteFile(row.folder, kind, *hits[0]))
            else:
                shown = ", ".join(path.rsplit("/", 1)[-1] for path, _ in hits)
                problems.append(
                    f"{folder}: {len(hits)} files match {PATTERNS[kind]}"
                    f"{f' ({shown})' if shown else ''}, where one is expected."
                )
    if problems:
        raise DataError("\n".join(problems))
    return found


def download(
    fs: Any, files: Sequence[RemoteFile], out: Path, progress: Progress | None = None
) -> list[Path]:
    """Fetch files to ``out/<folder>/<name>``.

    A file that is there with the right size is kept. Another is fetched in blocks into
    ``<name>.part``, goes on where an earlier try was stopped, and gets its name once its size is
    right.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
    files : sequence of RemoteFile
    out : Path
    progress : callable, optional
        Called with a file's name, its bytes done and its bytes in all.

    Returns
    -------
    list of Path
        One a file.

    Raises
    ------
    DataError
        The network failed, repeatedly; the part file stays.
    ResultError
        The disk has too little room, or the folder cannot be written.
    """
    targets = [out / file.folder / file.name for file in files]
    todo = [
        (file, target)
        for file, target in zip(files, targets, strict=True)
        if not (target.is_file() and target.stat().st_size == file.size)
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_room(out, sum(f.size - _present(f, t) for f, t in todo))
        for file, target in todo:
            _fetch(fs, file, target, progress)
    except OSError as error:
        raise ResultError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}). Free some "
            "space, or choose another folder; the next run goes on where this one stopped."
        ) from error
    return targets


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _present(file: RemoteFile, target: Path) -> int:
    """Bytes of a file that an earlier run left; a part of another file's size counts for none."""
    part = _part(target)
    size = part.stat().st_size if part.is_file() else 0
    return size if size <= file.size else 0


def _fetch(fs: Any, file: RemoteFile, target: Path, progress: Progress | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = _present(file, target)
    with _part(target).open("ab") as part:
        part.truncate(done)
        while done < file.size:
            if progress is not None:
                progress(file.name, done, file.size)
            data = _read(fs, file, done, min(done + BLOCK_BYTES, file.size))
            part.write(data)
            done += len(data)
        part.flush()
        os.fsync(part.fileno())
    _part(target).replace(target)
    if progress is not None:
        progress(file.name, done, file.size)


def _read(fs: Any, file: RemoteFile, start: int, end: int) -> bytes:
    """Bytes of a range; a short or failed answer is asked for again, ever later."""
    for attempt in range(_TRIES):
        try:
            with _network(file.path):
                data = bytes(fs.cat_file(file.path, start=start, end=end))
            if len(data) == end - start:
                return data
            failure = f"{len(data):,} of {end - start:,} bytes came"
        except FileNotFoundError as error:
            raise DataError(f"{file.path}: not in the bucket any more. List it again.") from error
        except DataError as error:
            failure = str(error)
        if attempt < _TRIES - 1:
            time.sleep(2**attempt / 4)
    raise DataError(
        f"{file.path}: the download stopped at byte {start:,} of {file.size:,}: {failure} "
        "Run the same command again: it goes on there."
    )


@contextlib.contextmanager
def _network(what: str) -> Iterator[None]:
    """Turn what s3fs, botocore and aiohttp raise without a network into one clear error."""
    try:
        yield
    except FileNotFoundError:
        raise
    # botocore's and aiohttp's errors have no base in common but Exception.
    except Exception as error:
        raise DataError(
            f"s3://{what} cannot be reached ({type(error).__name__}: {error}). Check the network "
            "and its proxy (HTTPS_PROXY), or download elsewhere with `aws s3 cp --no-sign-request "
            f"--recursive s3://{BUCKET}/CRC01 CRC01` and copy the folders here."
        ) from error


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ResultError(
            f"{out}: the download needs {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are "
            "free. Choose fewer slides with --slides, fewer kinds with --only he,cells, or another "
            "folder."
        )
