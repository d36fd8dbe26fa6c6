"""Whether a TIFF's directories all lie in the file."""

from __future__ import annotations

import struct
from pathlib import Path

from lymphinfer.errors import SlideError

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check_chain(path: Path) -> None:
    """Follow the chain of image directories to its end.

    Readers take a chain that leaves the file for its end: of a slide that was not copied whole
    they show the first levels, or nothing, and say no word.

    Parameters
    ----------
    path : Path
        A file that begins with one of `TIFF_MAGICS`; not an NDPI, whose offsets are its own.

    Raises
    ------
    SlideError
        A directory lies beyond the end of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head.startswith(b"II") else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        # Entry count, bytes an entry, next offset (TIFF 6.0 section 2; BigTIFF design, libtiff).
        count_format, entry_bytes, next_format = ("Q", 20, "Q") if big else ("H", 12, "I")
        count_bytes, next_bytes = struct.calcsize(count_format), struct.calcsize(next_format)
        place = 8 if big else 4
        seen: set[int] = set()
        while True:
            file.seek(place)
            field = file.read(next_bytes)
            if len(field) < next_bytes:
                raise _cut_short(path, place + next_bytes, size)
            (offset,) = struct.unpack(order + next_format, field)
            if offset == 0 or offset in seen:
                return
            seen.add(offset)
            file.seek(offset)
            field = file.read(count_bytes)
            if len(field) < count_bytes:
                raise _cut_short(path, offset + count_bytes, size)
            (count,) = struct.unpack(order + count_format, field)
            place = offset + count_bytes + count * entry_bytes


def _cut_short(path: Path, needed: int, size: int) -> SlideError:
    return SlideError(
        f"{path}: the file is cut short or damaged: it refers to byte {needed:,} but ends at "
        f"{size:,}. Copy or download it again."
    )
