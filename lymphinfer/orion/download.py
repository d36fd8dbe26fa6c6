"""Fetching chosen slides and kinds of file from the public bucket, resumable and size-checked."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lymphinfer.cells.files import cannot_write
from lymphinfer.downloading import RangeSource, silent
from lymphinfer.downloading import download as fetch
from lymphinfer.errors import DataError, ResultError
from lymphinfer.orion.manifest import PATTERNS, ManifestRow

BUCKET = "lin-2023-orion-crc/data"
REGION = "us-east-1"
BLOCK_BYTES = 16 << 20

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
    except OSError as error:
        raise cannot_write(out, error) from error
    _check_room(out, sum(f.size - _present(f, t) for f, t in todo))
    for file, target in todo:
        source = RangeSource(fs, file.path, file.size, block_bytes=BLOCK_BYTES)
        fetch(source, target, error=DataError, on_bytes=progress or silent)
    return targets


def _present(file: RemoteFile, target: Path) -> int:
    """Bytes of a file that an earlier run left; a part of another file's size counts for none."""
    part = target.with_name(f"{target.name}.part")
    size = part.stat().st_size if part.is_file() else 0
    return size if size <= file.size else 0


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
