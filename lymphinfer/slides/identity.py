"""What a slide file is, told cheaply: the fingerprint by which a run recognises its slide."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lymphinfer.errors import SlideError
from lymphinfer.slides.dicom import looks_like_dicom
from lymphinfer.slides.grouping import dicom_series
from lymphinfer.slides.source import ByteSource, FileSource

SAMPLE_BYTES = 1 << 20


def file_identity(path: Path) -> str:
    """Fingerprint of a slide's content that survives a new name or folder.

    It covers the size and one MiB each from the start, the middle and the end. For MIRAX, whose
    pixels lie in the folder beside the `.mrxs`, also that folder's file names and sizes and its
    `Slidedat.ini`; for DICOM all files of the scan, so that any of them gives the same. A change
    elsewhere in a file of the same size goes unseen.

    Parameters
    ----------
    path : Path
        The slide file.

    Returns
    -------
    str
        A sha256 in hex, 64 characters.

    Raises
    ------
    SlideError
        The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = dicom_series(path) if looks_like_dicom(path) else [path]
        for file in files:
            _add_file(digest, file)
        folder = path.with_suffix("")
        if path.suffix.lower() == ".mrxs" and folder.is_dir():
            for part in sorted(folder.iterdir()):
                digest.update(f"{part.name}:{part.stat().st_size};".encode())
                if part.name.lower() == "slidedat.ini":
                    _add_file(digest, part)
    except OSError as error:
        raise SlideError(
            f"{path}: cannot be read to identify it ({error.strerror or error}). "
            "Check that the file still exists and that you may read it."
        ) from error
    return digest.hexdigest()


def image_identity(identity: str, number: int) -> str:
    """Fingerprint of an image of a file that holds several; the file's own for its first one."""
    if number == 0:
        return identity
    return hashlib.sha256(f"{identity}:image {number}".encode()).hexdigest()


def source_identity(source: ByteSource) -> str:
    """Fingerprint of a file that is open; that of `file_identity` where it lies on a disk."""
    digest = hashlib.sha256()
    _add_source(digest, source)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    source = FileSource(path)
    try:
        _add_source(digest, source)
    finally:
        source.close()


def _add_source(digest: hashlib._Hash, source: ByteSource) -> None:
    digest.update(f"{source.size};".encode())
    last = max(0, source.size - SAMPLE_BYTES)
    for start in sorted({0, last // 2, last}):
        digest.update(source.read(start, SAMPLE_BYTES))
