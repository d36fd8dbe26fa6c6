"""A file of annotations as plain values, however it is packed, encoded and concatenated."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import orjson

from lymphinfer.errors import AnnotationError
from lymphinfer.textfiles import decode

_RECORD_SEPARATOR = "\x1e"


def read_values(path: Path) -> tuple[list[Any], list[str]]:
    """Read the JSON values of a file.

    Parameters
    ----------
    path : Path
        JSON, or several values one after the other (a line each or not); plain, gzipped, or the
        members of a zip; in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, else taken
        for Windows-1252. The bare ``NaN`` and ``Infinity`` of many writers are numbers.

    Returns
    -------
    values : list
        The values, most often one.
    notes : list of str
        What the user should know.

    Raises
    ------
    AnnotationError
        The file cannot be read or is no JSON.
    """
    notes: list[str] = []
    values: list[Any] = []
    try:
        for raw in _unpacked(path.read_bytes()):
            text = _decoded(raw, notes)
            if text.strip():
                values += _parsed(text)
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise AnnotationError(
            f"{path}: not a readable GeoJSON file ({reason}); in QuPath use "
            "File > Export objects as GeoJSON"
        ) from error
    if not values:
        raise AnnotationError(f"{path}: the file is empty; export the annotations again")
    return values, notes


def _unpacked(raw: bytes) -> list[bytes]:
    """A file's content, out of gzip or the members of a zip."""
    if raw[:2] == b"\x1f\x8b":
        return [gzip.decompress(raw)]
    if raw[:4] != b"PK\x03\x04":
        return [raw]
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = [
            name
            for name in archive.namelist()
            if name.lower().endswith((".geojson", ".json")) and not name.startswith("__MACOSX")
        ]
        if not names:
            raise ValueError("a zip without a .geojson or .json file in it")
        return [archive.read(name) for name in sorted(names)]


def _decoded(raw: bytes, notes: list[str]) -> str:
    try:
        return decode(raw)
    except UnicodeDecodeError:
        notes.append("the file is not UTF-8: it was read as Windows-1252, class names may differ")
        return raw.decode("cp1252", errors="replace")


def _parsed(text: str) -> list[Any]:
    try:
        return [orjson.loads(text)]
    except orjson.JSONDecodeError:
        pass
    # Slower, and knows NaN, Infinity and several values after each other.
    decoder = json.JSONDecoder()
    values = []
    text = text.replace(_RECORD_SEPARATOR, " ").strip()
    at = 0
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        values.append(value)
        at = end
        while at < len(text) and (text[at].isspace() or text[at] == ","):
            at += 1
    return values
