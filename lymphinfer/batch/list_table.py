"""The lines of a list, whichever program wrote it, and the files that its fields name."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lymphinfer.errors import SlideError
from lymphinfer.textfiles import decode, shown

DELIMITERS = ",;\t|"
_SEP = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)
_NO_VALUES = frozenset(("na", "n/a", "#n/a", "nan", "null", "none", "-"))
# No text holds it, so that a line stays one field.
_NEVER = "\x1f"


@dataclass(frozen=True)
class Row:
    """A line's fields; `cells` as they stand, but for their quotes."""

    line: int
    cells: list[str]
    delimiter: str


@dataclass
class Table:
    """A list's header, lower case and without blanks, and its rows.

    `first` is the header's line as it stands, `problems` what was wrong with lines.
    """

    header: list[str]
    first: str
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """Read the lines of a list.

    Returns
    -------
    Table
        Without blank lines.

    Raises
    ------
    SlideError
        It is no text.
    """
    text, skipped = _body(path)
    separator = _SEP.fullmatch(text.partition("\n")[0].strip(" "))
    if separator:
        text, skipped = text.partition("\n")[2], skipped + 1
    first = text.partition("\n")[0].strip()
    delimiter = separator[1] if separator else _delimiter(first)
    if delimiter not in first:
        # One column: what would separate others belongs to a name.
        delimiter = _NEVER
    table = Table([], shown(first))
    for row in _lines(text, delimiter, skipped, table.problems):
        if not table.header:
            table.header = [cell.strip().strip('"').strip().lower() for cell in row.cells]
        else:
            table.rows.append(row)
    _drop_row_numbers(table)
    return table


def join_cells(header: list[str], row: Row, base: Path) -> list[str] | None:
    """Fields of a line with one name in it that holds the separator, told by the file being there.

    None where no file fits.
    """
    column = header.index("slide")
    extra = len(row.cells) - len(header)
    while extra > 0:
        parts, rest = row.cells[column : column + extra + 1], row.cells[column + extra + 1 :]
        blank = not any(cell.strip() for cell in rest[len(header) - column - 1 :])
        # The reader of csv drops the blank behind a separator.
        for joint in (row.delimiter, f"{row.delimiter} "):
            if blank and os.path.lexists(existing(base, joint.join(parts))):
                return [*row.cells[:column], joint.join(parts), *rest]
        extra -= 1
    return None


def existing(base: Path, name: str) -> Path:
    r"""File that a field names, in the spelling in which it is there.

    Blanks around it, ``\`` for ``/``, composed letters as macOS has them, another encoding and
    ``file:`` addresses are tried one after the other.
    """
    spellings = list(dict.fromkeys(_spellings(name)))
    for spelling in spellings:
        path = base / spelling
        if spelling.strip() and os.path.lexists(path):
            return path
    plain = name.strip()
    return base / (plain.replace("\\", "/") if os.name != "nt" else plain)


def is_no_value(text: str) -> bool:
    """Whether a field is how a program writes that there is nothing."""
    return text.strip().lower() in _NO_VALUES


def _spellings(name: str) -> Iterator[str]:
    for text in (name, name.strip(), name.strip(DELIMITERS + " ")):
        for path in (text, text.replace("\\", "/"), _from_address(text)):
            for letters in (path, _as_windows(path)):
                yield letters
                yield unicodedata.normalize("NFC", letters)
                yield unicodedata.normalize("NFD", letters)


def _from_address(text: str) -> str:
    """Path of a ``file:`` address, and of one that begins at the home folder."""
    if text.lower().startswith("file:"):
        return unquote(urlsplit(text).path)
    return os.path.expanduser(text)  # noqa: PTH111 - of text that need not be a path


def _as_windows(text: str) -> str:
    """Text whose bytes are no UTF-8, read as Windows-1252."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeError:
        return text


def _body(path: Path) -> tuple[str, int]:
    """Text from the header on, and how many lines stand before it."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SlideError(f"{path}: not a readable list ({error.strerror or error})") from error
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise SlideError(f"{path}: not a list but a spreadsheet: save it as CSV UTF-8")
    try:
        # Names on a disk may be no UTF-8 either.
        text = decode(raw, "surrogateescape")
    except UnicodeDecodeError as error:
        raise SlideError(f"{path}: not a readable list ({error}); save it as UTF-8") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    skipped = 0
    while skipped < len(lines) - 1 and _is_no_header(lines[skipped]):
        skipped += 1
    return "\n".join(lines[skipped:]), skipped


def _is_no_header(line: str) -> bool:
    return line.startswith("#") or not line.strip(DELIMITERS + ' "')


def _delimiter(header: str) -> str:
    """What separates a header's fields: that which sets ``slide`` free, else the most frequent."""
    for delimiter in DELIMITERS:
        cells = [cell.strip(' "\t').lower() for cell in header.split(delimiter)]
        if len(cells) > 1 and "slide" in cells:
            return delimiter
    return max(DELIMITERS, key=header.count)


def _lines(text: str, delimiter: str, skipped: int, problems: list[str]) -> Iterator[Row]:
    """Fields of each line that is not blank.

    A quote that does not close would swallow the lines below it: then its line is named, and the
    rest is read without it.
    """
    source = text.split("\n")
    start = 0
    while start < len(source):
        reader = csv.reader(
            io.StringIO("\n".join(source[start:]), newline=""),
            delimiter=delimiter, skipinitialspace=True, strict=True,
        )  # fmt: skip
        before = 0
        try:
            for cells in reader:
                line = start + before + 1
                before = reader.line_num
                if "".join(cells).strip(DELIMITERS + ' "'):
                    yield Row(skipped + line, cells, delimiter)
            return
        except csv.Error as error:
            line = start + before + 1
            problems.append(f"line {skipped + line}: its quotes are not as csv has them ({error})")
            start = line


def _drop_row_numbers(table: Table) -> None:
    """Take away R's row names, a first column that has no header."""
    rows = table.rows
    if rows and all(
        len(row.cells) == len(table.header) + 1 and row.cells[0].strip() == str(number)
        for number, row in enumerate(rows, start=1)
    ):
        table.rows = [Row(row.line, row.cells[1:], row.delimiter) for row in rows]
