"""Reading ORION's cell tables: needed columns only, as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.layout import AUTOFLUORESCENCE, BLANK, TableFormat, orion_layout
from lymphinfer.orion.manifest import CHANNELS
from lymphinfer.orion.table_header import TableHeader, read_header
from lymphinfer.textfiles import is_utf8

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

__all__ = [
    "AUTOFLUORESCENCE",
    "BLANK",
    "COLUMNS",
    "CellTable",
    "cell_problems",
    "load_cells",
    "read_cells",
]

ID, X, Y = "CellID", "X_centroid", "Y_centroid"
SHAPE_COLUMNS = (
    *("Area", "MajorAxisLength", "MinorAxisLength", "Eccentricity", "Solidity", "Extent"),
    "Orientation",
)
COLUMNS = (ID, *CHANNELS, X, Y, *SHAPE_COLUMNS)
"""The 29 columns of a cell table."""

ORION_FORMAT = orion_layout().table_format(1.0)

_BLOCK_BYTES = 8 << 20
_NAMED = 5
_NO_VALUES = ("NA", "N/A", "#N/A", "NULL", "null", "")


@dataclass(frozen=True)
class CellTable:
    """Cells of a slide.

    Attributes
    ----------
    path : Path
        Where they were read from.
    cell_id : ndarray of int64, (N,)
        The mask's label.
    x, y : ndarray of float64, (N,)
        Centroid's column and row, level-0 px.
    intensities : dict of str to ndarray of float64, (N,)
        Raw mean of each channel that was read, camera counts (offset about 200); NaN where the
        file has no number.
    """

    path: Path
    cell_id: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    intensities: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.cell_id)


def column_names(path: Path) -> tuple[str, ...]:
    """Read a table's column names; empty for a column without one.

    Raises
    ------
    DataError
        The file is missing, empty or no text.
    """
    return read_header(path).names


def missing_columns(path: Path, needed: Sequence[str]) -> list[str]:
    """List the needed columns that a table lacks, in the order of `needed`."""
    present = {name.casefold() for name in column_names(path)}
    return [name for name in needed if name.casefold() not in present]


def read_cells(path: Path, channels: Sequence[str], form: TableFormat | None = None) -> CellTable:
    """Read identifiers, centroids and some channels of a cell table.

    The file is parsed in blocks of 8 MiB and only the wanted columns are converted: 1.6 M rows
    with 8 columns take 2 s and under 0.6 GiB of memory, the libraries included. Columns are found
    by name, in any order, see `lymphinfer.orion.table_header`.

    Parameters
    ----------
    path : Path
        The CSV.
    channels : sequence of str
        Names of channels, or of markers whose channel the format knows. `AUTOFLUORESCENCE` and
        `BLANK` are left out where the cohort has no such channel.
    form : TableFormat, optional
        How the table is written; as ORION's where None.

    Returns
    -------
    CellTable

    Raises
    ------
    DataError
        With every problem: missing columns and such as stand there twice, rows of wrong length,
        text where a number is expected, or no rows.
    """
    import pyarrow as pa

    header = read_header(path)
    form = ORION_FORMAT if form is None else form
    own = {name: form.column(name) for name in channels if name not in form.lacks}
    places, missing, repeated = header.places(
        [*([form.id] if form.id else []), form.x, form.y, *dict.fromkeys(own.values())]
    )
    if missing or repeated:
        problems = [f"no column {', '.join(missing)}"] if missing else []
        problems += [f"column {', '.join(repeated)} stands there twice"] if repeated else []
        raise DataError(
            f"{path}: {' and '.join(problems)}. {_has(form)}; this one has "
            f"{', '.join(name or '(no name)' for name in header.names)}."
        )
    bad_rows: list[str] = []
    try:
        table = _numbers(header, places, pa.float64(), bad_rows)
    except (pa.ArrowInvalid, OSError, UnicodeError) as error:
        found = _text_problems(header, places) or [_first_line(error)]
        raise _damaged(path, [*bad_rows, *found]) from error
    if bad_rows:
        raise _damaged(path, bad_rows)
    columns = _without_blank_rows(table)
    rows = len(columns[form.x])
    if not rows:
        raise DataError(f"{path}: the cell table has no rows. Download it again.")
    return CellTable(
        path,
        _whole_numbers(path, columns[form.id]) if form.id else np.arange(1, rows + 1),
        columns[form.x] * form.scale + form.shift,
        columns[form.y] * form.scale + form.shift,
        {name: columns[column] for name, column in own.items()},
    )


def _has(form: TableFormat) -> str:
    """What a table of a format has, for a message."""
    if form is ORION_FORMAT:
        return f"A cell table of ORION has the columns {', '.join(COLUMNS)}"
    known = (form.id, form.x, form.y, *(form.column(name) for name in form.channels))
    return f"By cohort.toml it has the columns {', '.join(name for name in known if name)}"


def _numbers(
    header: TableHeader, places: Mapping[str, int], kind: pa.DataType, bad_rows: list[str]
) -> dict[str, NDArray[Any]]:
    """Columns of a table; rows of wrong length are skipped and told in `bad_rows`."""
    import pyarrow as pa
    from pyarrow import csv

    unique = [f"column {number}" for number in range(len(header.names))]
    wanted = [unique[place] for place in places.values()]
    wrong = 0

    def skip(row: csv.InvalidRow) -> str:
        nonlocal wrong
        # What spreadsheets leave below the last row.
        if row.text.strip(f'{header.delimiter} "'):
            wrong += 1
            if wrong <= _NAMED:
                bad_rows.append(
                    f"a row of {row.actual_columns} fields where {row.expected_columns} are "
                    f"expected: {row.text[:60]!r}"
                )
        return "skip"

    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in places}
    # pyarrow opens no name that is not UTF-8.
    source = header.path if is_utf8(header.path) else pa.BufferReader(header.path.read_bytes())
    with csv.open_csv(
        source,
        read_options=csv.ReadOptions(
            block_size=_BLOCK_BYTES, use_threads=True, column_names=unique,
            skip_rows=header.lines, encoding=header.encoding.removesuffix("-sig"),
        ),
        parse_options=csv.ParseOptions(delimiter=header.delimiter, invalid_row_handler=skip),
        convert_options=csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, kind),
            decimal_point=header.decimal_point,
        ),
    ) as stream:  # fmt: skip
        for batch in stream:
            for name, column in zip(places, wanted, strict=True):
                parts[name].append(batch.column(column).to_numpy(zero_copy_only=False))
    if wrong > _NAMED:
        bad_rows.append(f"{wrong - _NAMED:,} more rows of a wrong number of fields")
    return {name: np.concatenate(part) if part else np.empty(0) for name, part in parts.items()}


def _text_problems(header: TableHeader, places: Mapping[str, int]) -> list[str]:
    """A sentence for each column that holds what is no number."""
    import pyarrow as pa

    try:
        columns = _numbers(header, places, pa.string(), [])
    except (pa.ArrowInvalid, OSError, UnicodeError):
        return []
    problems = []
    for name, values in columns.items():
        wrong = [(row, str(value)) for row, value in enumerate(values, 1) if not _is_number(value)]
        if wrong:
            row, value = wrong[0]
            problems.append(
                f"{len(wrong):,} of {len(values):,} values of {name} are no numbers, first "
                f"{value[:40]!r} in data row {row:,}"
            )
    return problems


def _is_number(value: str | None) -> bool:
    try:
        float((value or "nan").replace(",", "."))
    except ValueError:
        return value in _NO_VALUES
    return True


def _without_blank_rows(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Columns without the rows at the end that hold nothing, as spreadsheets leave them."""
    full = np.zeros(len(next(iter(columns.values()))), bool)
    for values in columns.values():
        full |= ~np.isnan(values)
    last = int(np.flatnonzero(full)[-1]) + 1 if full.any() else len(full)
    return {name: values[:last] for name, values in columns.items()}


def _damaged(path: Path, problems: Sequence[str]) -> DataError:
    return DataError(
        f"{path}: the cell table cannot be read ({'; '.join(problems)}). It is damaged or was "
        "not downloaded whole: download it again."
    )


def cell_problems(cells: CellTable, size_level0: tuple[int, int] | None = None) -> list[str]:
    """Find what makes a table unusable.

    Parameters
    ----------
    cells : CellTable
    size_level0 : tuple of int, optional
        (width, height) of the slide, px; centroids must lie in it.

    Returns
    -------
    list of str
        One sentence a problem: CellIDs that do not rise, missing or outlying centroids, missing or
        infinite intensities.
    """
    problems = []
    steps = np.flatnonzero(np.diff(cells.cell_id) <= 0)
    if len(steps):
        after = int(steps[0])
        problems.append(
            f"{cells.path}: {ID} does not rise from row to row in {len(steps):,} places, first "
            f"from {cells.cell_id[after]} to {cells.cell_id[after + 1]} in data row {after + 2:,}. "
            "The table is not the original, or was joined from two: download it again."
        )
    lost = ~(np.isfinite(cells.x) & np.isfinite(cells.y))
    if lost.any():
        problems.append(
            f"{cells.path}: {int(lost.sum()):,} cells have no centroid, first {ID} "
            f"{cells.cell_id[lost][0]}. Download the table again, or remove these rows."
        )
    if size_level0 is not None:
        width, height = size_level0
        outside = ~lost & (
            (cells.x < -0.5) | (cells.y < -0.5) | (cells.x > width - 0.5) | (cells.y > height - 0.5)
        )
        if outside.any():
            first = int(np.flatnonzero(outside)[0])
            problems.append(
                f"{cells.path}: {int(outside.sum()):,} of {len(cells):,} centroids lie outside the "
                f"image of {width:,} x {height:,} px, first {ID} {cells.cell_id[first]} at "
                f"({cells.x[first]:,.1f}, {cells.y[first]:,.1f}). The table belongs to another "
                "slide, or x and y are swapped."
            )
    for name, values in cells.intensities.items():
        bad = ~np.isfinite(values)
        if bad.any():
            problems.append(
                f"{cells.path}: {int(bad.sum()):,} cells have no finite {name} intensity, first "
                f"{ID} {cells.cell_id[bad][0]}. Download the table again, or remove these rows."
            )
    return problems


def load_cells(
    path: Path,
    channels: Sequence[str],
    size_level0: tuple[int, int] | None = None,
    form: TableFormat | None = None,
) -> CellTable:
    """Read a table that is fit for gating: `read_cells`, then `cell_problems`.

    Raises
    ------
    DataError
        With every problem found.
    """
    cells = read_cells(path, channels, form)
    problems = cell_problems(cells, size_level0)
    if problems:
        raise DataError("\n".join(problems))
    return cells


def _whole_numbers(path: Path, values: NDArray[np.float64]) -> NDArray[np.int64]:
    bad = ~np.isfinite(values) | (values != np.rint(np.nan_to_num(values)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{path}: {int(bad.sum()):,} rows have a {ID} that is no whole number, first data row "
            f"{row + 1:,} ({values[row]:g}). Download the table again."
        )
    return values.astype(np.int64)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
