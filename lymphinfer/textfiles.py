"""Text that people edit and names that people give, whatever their encoding.

Spreadsheets and editors put a byte-order mark before UTF-8 or save UTF-16; names on a file system
are bytes that need not be UTF-8 at all.
"""

from __future__ import annotations

import codecs
import os
import tomllib
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from lymphinfer.errors import LymphinferError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_encoding(head: bytes) -> str:
    """Encoding of a text by its first bytes: its byte-order mark, else the zeros in it, else UTF-8.

    Examples
    --------
    >>> text_encoding(b"slide"), text_encoding("slide".encode("utf-16"))
    ('utf-8', 'utf-16')
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    # A text's first character is mostly ASCII: where the zeros lie tells its width.
    if head[:4].count(0) == 3 and 0 in (head[0], head[3]):
        return "utf-32-be" if head[0] == 0 else "utf-32-le"
    if head[:2].count(0) == 1:
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    pairs = head[: len(head) & ~1][:512]
    zeros = len(pairs) // 2
    # Every other byte is zero in UTF-16 of Latin letters, and none ever is in UTF-8.
    if zeros and pairs[1::2].count(0) > 0.6 * zeros:
        return "utf-16-le"
    if zeros and pairs[::2].count(0) > 0.6 * zeros:
        return "utf-16-be"
    return "utf-8"


def decode(raw: bytes, errors: str = "strict") -> str:
    """Text of a file, without its byte-order mark.

    Parameters
    ----------
    raw : bytes
    errors : str
        As `bytes.decode` takes it; ``"surrogateescape"`` keeps what is no UTF-8 as it is.

    Raises
    ------
    UnicodeDecodeError
        The bytes are not of the encoding that they seem to be.
    """
    return raw.decode(text_encoding(raw), errors)


def encoding_problem(raw: bytes, error: UnicodeDecodeError) -> str:
    """Say where a file is not UTF-8, and what it seems to say there."""
    line = raw.count(b"\n", 0, error.start) + 1
    around = raw[max(0, error.start - 12) : error.start + 12].splitlines()
    seen = max(around, key=len, default=b"").decode("cp1252", "replace").strip()
    return (
        f"line {line} is not {error.encoding.upper()} (byte 0x{raw[error.start]:02X}, in "
        f"Windows-1252 {seen!r}): save it as UTF-8"
    )


def read_text(path: Path, error: type[LymphinferError], what: str = "the file") -> str:
    """Read a text file that people edit: UTF-8 with or without its mark, or UTF-16.

    Parameters
    ----------
    path : Path
    error : type
        Raised where it is neither.
    what : str
        What the file is, for the message.

    Raises
    ------
    LymphinferError
        Of the type `error`: another encoding; the line is named.
    OSError
        It cannot be read.
    """
    raw = path.read_bytes()
    try:
        return decode(raw)
    except UnicodeDecodeError as problem:
        raise error(f"{path}: {what} cannot be read: {encoding_problem(raw, problem)}") from problem


def read_toml(path: Path, error: type[LymphinferError], what: str = "the file") -> dict[str, Any]:
    """Read a TOML file that people edit, see `read_text`.

    Raises
    ------
    LymphinferError
        Of the type `error`: another encoding, or not TOML.
    OSError
        It cannot be read.
    """
    try:
        return tomllib.loads(read_text(path, error, what))
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{path}: {what} cannot be read: not valid TOML ({problem})") from problem


def shown(name: str | os.PathLike[str]) -> str:
    r"""Name for people and files of ours: bytes that are no UTF-8, and line breaks, as escapes.

    A name that needs an escape has its own backslashes doubled, so that none is taken for another.

    Examples
    --------
    >>> shown("Größe.tif"), shown("Gr\udcf6\udcdfe.tif"), shown("a\nb.tif")
    ('Größe.tif', 'Gr\\xf6\\xdfe.tif', 'a\\nb.tif')
    """
    text = os.fspath(name)
    if not any(_is_odd(character) for character in text):
        return text
    return "".join(
        _escape(character) if _is_odd(character) else character
        for character in text.replace("\\", "\\\\")
    )


def is_utf8(name: str | os.PathLike[str]) -> bool:
    """Whether a name is UTF-8: some libraries take no other."""
    return not any(_is_surrogate(character) for character in os.fspath(name))


def find_shown(folder: Path, name: str) -> Path:
    """Path in a folder that is shown under a name; the name itself where there is no such file."""
    path = folder / name
    if "\\" in name and not path.exists():
        try:
            return next(p for p in folder.iterdir() if shown(p.name) == name)
        except (OSError, StopIteration):
            return path
    return path


def json_bytes(value: Any, option: int = 0, default: Callable[[Any], Any] | None = None) -> bytes:
    """JSON of plain values; names in them that are no UTF-8 are `shown`.

    Parameters
    ----------
    value : object
    option : int
        orjson's.
    default : callable, optional
        Makes a plain value of another one.
    """
    try:
        return orjson.dumps(value, default=default, option=option)
    except orjson.JSONEncodeError:
        return orjson.dumps(_clean(value, default), default=default, option=option)


def _clean(value: Any, default: Callable[[Any], Any] | None) -> Any:
    if isinstance(value, str):
        return shown(value) if any(_is_surrogate(character) for character in value) else value
    if isinstance(value, Mapping):
        return {_clean(key, default): _clean(item, default) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, default) for item in value]
    if isinstance(value, os.PathLike) and default is not None:
        return _clean(default(value), default)
    return value


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _is_odd(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) in (
        "Cc", "Cs", "Zl", "Zp",
    )  # fmt: skip


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
