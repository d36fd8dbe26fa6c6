"""The header of a cell table as spreadsheets, R and pandas leave it."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import DataError
from lymphinfer.textfiles import shown, text_encoding

_HEAD_BYTES = 1 << 18
_DELIMITERS = ",;\t"
_SEP = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)


@dataclass(frozen=True)
class TableHeader:
    """How a cell table is written.

    Attributes
    ----------
    path : Path
    names : tuple of str
        Columns, without quotes and blanks around them; empty for one without a name.
    lines : int
        That stand before the first cell, the header's among them.
    delimiter, decimal_point, encoding : str
    """

    path: Path
    names: tuple[str, ...]
    lines: int
    delimiter: str = ","
    decimal_point: str = "."
    encoding: str = "utf-8"

    def places(self, needed: Sequence[str]) -> tuple[dict[str, int], list[str], list[str]]:
        """Find columns by name; upper and lower case are one where only one column fits.

        Returns
        -------
        places : dict of str to int
            By needed name the number of its column.
        missing, repeated : list of str
            Needed names that no column has, or more than one.
        """
        exact, folded = Counter(self.names), Counter(name.casefold() for name in self.names)
        lower = [name.casefold() for name in self.names]
        places: dict[str, int] = {}
        missing, repeated = [], []
        for name in needed:
            key = name.casefold()
            if exact[name] == 1:
                places[name] = self.names.index(name)
            elif exact[name] > 1 or folded[key] > 1:
                repeated.append(name)
            elif folded[key] == 1:
                places[name] = lower.index(key)
            else:
                missing.append(name)
        return places, missing, repeated


def read_header(path: Path) -> TableHeader:
    """Read a table's first lines.

    Lines of comments (``#``), blank lines and Excel's ``sep=;`` may stand before the header. A
    column without a header, as R and pandas write row numbers, has an empty name.

    Raises
    ------
    DataError
        The file is missing, empty or no text.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: the cell table cannot be read ({error}).") from error
    encoding = text_encoding(raw)
    # The last line may be cut, and so may its last character.
    text = raw.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "ignore")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at, separator = 0, ""
    while at < len(lines) - 1 and (lines[at].startswith("#") or not lines[at].strip(" \t,;")):
        at += 1
    excel = _SEP.fullmatch(lines[at].strip(" "))
    if excel and at < len(lines) - 1:
        at, separator = at + 1, excel[1]
    head = lines[at]
    if not head.strip():
        raise DataError(f"{path}: the cell table is empty. Download it again.")
    delimiter = separator or max(_DELIMITERS, key=head.count)
    names = [shown(cell.strip(" \t\xa0\"'")) for cell in _cells(head, delimiter)]
    rows = [_cells(line, delimiter) for line in lines[at + 1 : at + 51] if line.strip()]
    if rows and all(len(row) == len(names) + 1 for row in rows):
        # R leaves the row numbers' column without a header; others end each line with a comma.
        names.insert(len(names) if not any(row[-1].strip() for row in rows) else 0, "")
    return TableHeader(
        path, tuple(names), at + 1, delimiter, _decimal_point(rows, delimiter), encoding
    )


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _decimal_point(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    """``,`` where numbers have a comma and none has a point."""
    if delimiter == ",":
        return "."
    numbers = [cell.strip() for row in rows for cell in row]
    commas = sum(bool(re.fullmatch(r"[+-]?\d+,\d+(e[+-]?\d+)?", n, re.I)) for n in numbers)
    points = sum(bool(re.fullmatch(r"[+-]?\d+\.\d+(e[+-]?\d+)?", n, re.I)) for n in numbers)
    return "," if commas > points else "."
