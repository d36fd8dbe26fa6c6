"""The colour space of a JPEG tile, by its own word."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum


class Colours(StrEnum):
    """How three components are to be read."""

    RGB = "RGB"
    YCBCR = "YCBCR"


_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def jpeg_colours(data: bytes, tables: bytes | None = None) -> Colours | None:
    """Tell the colour space that a codestream of three components states.

    The rules are those of the JPEG library: an Adobe marker says it outright; a JFIF marker means
    YCbCr; components called R, G and B are these; colour that is stored at less than full
    resolution is YCbCr.

    Parameters
    ----------
    data : bytes
        A JPEG stream, at least up to its frame header.
    tables : bytes, optional
        The TIFF's JPEGTables, which may carry markers too.

    Returns
    -------
    Colours, or None
        None where the stream leaves it to the TIFF's tag, or has not three components.
    """
    is_jfif = False
    adobe: int | None = None
    for part in (tables or b"", data):
        for marker, body in _segments(part):
            if marker == 0xE0 and body[:5] == b"JFIF\0":
                is_jfif = True
            elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
                adobe = body[11]
    ids, sampling = _components(data)
    if ids and len(ids) != 3:
        return None
    if adobe is not None:
        return Colours.RGB if adobe == 0 else Colours.YCBCR
    if is_jfif:
        return Colours.YCBCR
    if ids in (b"RGB", b"rgb"):
        return Colours.RGB
    if sampling and len(set(sampling)) > 1:
        return Colours.YCBCR
    return None


def component_ids(data: bytes) -> bytes:
    """Ids of the components in a stream's frame header, a byte each; empty without one."""
    return _components(data)[0]


def _components(data: bytes) -> tuple[bytes, list[int]]:
    """Ids and sampling factors of the components."""
    for marker, body in _segments(data):
        if marker in _FRAMES and len(body) >= 6:
            entries = body[6 : 6 + 3 * body[5]]
            return entries[::3], list(entries[1::3])
    return b"", []


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment before the picture's own bits."""
    place = 0
    while place + 2 <= len(data):
        if data[place] != 0xFF:
            return
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        place += 2
        if marker in _STANDALONE:
            continue
        if marker in (0xD9, 0xDA):
            return
        length = int.from_bytes(data[place : place + 2], "big")
        if length < 2:
            return
        yield marker, data[place + 2 : place + length]
        place += length


def uses_colour_transform(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream transforms colours itself, so that decoding gives RGB."""
    place = data.find(b"\xff\x52")
    # COD: length 2, style 1, progression 1, layers 2, then the multiple component transform.
    return place >= 0 and len(data) > place + 8 and data[place + 8] == 1
