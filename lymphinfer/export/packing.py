"""Texts compressed whole, and put into archives as they are.

`zipfile` and `gzip` compress with zlib while they write, in one thread. A part of a file is small
enough to be compressed at once, which libdeflate does in half the time and to fewer bytes.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass

_LEVEL = 1
_HEADER, _TRAILER = 10, 8


@dataclass(frozen=True)
class Packed:
    """A compressed text; the same text gives the same bytes.

    Attributes
    ----------
    member : bytes
        It as a gzip member that names no file and no time. Members one behind the other are a file
        with all of their texts.
    size : int
        Bytes of the text.
    """

    member: bytes
    size: int


def packed(text: bytes) -> Packed:
    """Compress a text; other threads go on meanwhile."""
    from imagecodecs import gzip_encode

    return Packed(bytes(gzip_encode(text, _LEVEL)), len(text))


def add_packed(archive: zipfile.ZipFile, name: str, text: Packed) -> None:
    """Add a compressed text to an archive that is open for writing.

    The entry has a fixed date and system: the archive's bytes depend on nothing but the texts.
    """
    stream = memoryview(text.member)[_HEADER:-_TRAILER]
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    entry.CRC = int.from_bytes(text.member[-_TRAILER:-4], "little")
    entry.file_size, entry.compress_size = text.size, len(stream)
    # What `ZipFile.open` does around its own compressor; `ZipFile.close` then writes the directory,
    # with zip64 records beyond 4 GB.
    assert archive.fp is not None
    archive.fp.seek(archive.start_dir)
    entry.header_offset = archive.start_dir
    archive.fp.write(entry.FileHeader())
    archive.fp.write(stream)
    archive.start_dir = archive.fp.tell()
    archive.filelist.append(entry)
    archive.NameToInfo[name] = entry
