"""Plain tables: CSV and Parquet, a row a nucleus, streamed.

=========================  ==========================================================
``label``                  1, 2, 3 … in table order: the value in the label image
``id``                     uuid, the object's id in QuPath
``x_px``, ``y_px``         centroid, level-0 px of the slide file
``x_um``, ``y_um``         centroid, µm from the corner of level 0
``area_um2``               area inside the outline, µm²
``detection_probability``  0 to 1
``<marker>_probability``   0 to 1, after the hierarchy; one column a marker
``call``                   deepest positive phenotype; ``Other`` for none
=========================  ==========================================================

Morphology columns follow where the slide's nucleus table has them. A missing number is an empty
field. Nothing is cropped: where a slide has bounds, QuPath's coordinates are ``x_px`` less them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lymphinfer.cells import table as nucleus_table
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.table import measurements, read_ids
from lymphinfer.export.numerals import id_texts
from lymphinfer.export.results import Result
from lymphinfer.textfiles import json_bytes

PROVENANCE_KEY = b"lymphinfer.provenance"
_UM_DECIMALS = 3


def flat_schema(result: Result, extras: tuple[str, ...] = ()) -> pa.Schema:
    """Build the schema of a slide's plain table; each field says its unit and what it is.

    Parameters
    ----------
    result : Result
    extras : tuple of str
        Names of the nucleus table's further columns.

    Returns
    -------
    pyarrow.Schema
        Field metadata ``unit`` and ``description``.
    """
    evidence = result.evidence
    fields = [
        _field("label", pa.uint32(), "", "value of the nucleus in the label image"),
        _field("id", pa.string(), "", "uuid of the nucleus, the same in QuPath"),
        _field("x_px", pa.float64(), "px", "centroid, level-0 pixels of the slide file"),
        _field("y_px", pa.float64(), "px", "centroid, level-0 pixels of the slide file"),
        _field("x_um", pa.float64(), "µm", "centroid, from the left edge of level 0"),
        _field("y_um", pa.float64(), "µm", "centroid, from the top edge of level 0"),
        _field("area_um2", pa.float32(), "µm²", "area inside the outline"),
        _field("detection_probability", pa.float32(), "", "that this is a nucleus, 0 to 1"),
        *(
            _field(
                f"{marker.key}_probability",
                pa.float32(),
                "",
                f"{marker.name}, 0 to 1; {evidence[marker.name].get('statement', 'no statement')}",
            )
            for marker in result.panel.markers
        ),
        _field(
            "call", pa.string(), "", "deepest positive phenotype: " + ", ".join(result.panel.calls)
        ),
        *(_field(name, pa.float32(), "", name.replace("_", " ")) for name in extras),
    ]
    return pa.schema(fields)


def flat_tables(result: Result) -> Iterator[pa.Table]:
    """Read a slide's nuclei as plain tables of at most 25,000 rows; one empty table without nuclei.

    Raises
    ------
    ResultError
        If the parts cannot be read.
    """
    schema: pa.Schema | None = None
    rows = 0
    for table in result.tables():
        if schema is None:
            schema = flat_schema(result, extra_columns(result, table.schema))
        yield _flat(table, result, schema, rows)
        rows += table.num_rows
    if schema is None:
        yield flat_schema(result).empty_table()


def write_csv(path: Path, result: Result) -> Path:
    """Write the plain table as CSV (UTF-8, comma, a header row), and its columns' meaning beside.

    ``<file>-metadata.json`` describes columns and provenance as the W3C's *CSV on the Web* does.

    Parameters
    ----------
    path : Path
    result : Result

    Returns
    -------
    Path
        The CSV.

    Raises
    ------
    ResultError
        If the parts cannot be read or the file cannot be written.
    """
    tables = flat_tables(result)
    first = next(tables)
    options = pa.csv.WriteOptions(quoting_style="needed")
    with (
        atomic_write(path) as file,
        pa.csv.CSVWriter(file, first.schema, write_options=options) as writer,
    ):
        for table in chain([first], tables):
            writer.write_table(table)
    with atomic_write(path.with_name(f"{path.name}-metadata.json")) as file:
        file.write(json_bytes(_csvw(path, first.schema, result), orjson.OPT_INDENT_2))
    return path


def write_parquet(path: Path, result: Result) -> Path:
    """Write the plain table as one Parquet file, units and provenance in its metadata.

    Parameters
    ----------
    path : Path
    result : Result

    Returns
    -------
    Path

    Raises
    ------
    ResultError
        If the parts cannot be read or the file cannot be written.
    """
    provenance = orjson.dumps(result.provenance, default=str)
    tables = flat_tables(result)
    first = next(tables)
    schema = first.schema.with_metadata({PROVENANCE_KEY: provenance})
    with (
        atomic_write(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["call"]) as writer,
    ):
        for table in chain([first], tables):
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    return path


def extra_columns(result: Result, schema: pa.Schema) -> tuple[str, ...]:
    """Names of the nucleus table's columns beyond those that every panel's table has."""
    base = nucleus_table.schema(result.panel).names
    return tuple(name for name in measurements(schema) if name not in base)


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "description": description})


def _flat(table: pa.Table, result: Result, schema: pa.Schema, first: int) -> pa.Table:
    x, y = table.column("x").to_numpy(), table.column("y").to_numpy()
    columns: dict[str, Any] = {
        "label": np.arange(first + 1, first + 1 + table.num_rows, dtype=np.uint32),
        "id": id_texts(read_ids(table)).cast(pa.string()).to_pylist(),
        "x_px": x,
        "y_px": y,
        "x_um": np.round(x * result.mpp, _UM_DECIMALS),
        "y_um": np.round(y * result.mpp, _UM_DECIMALS),
        "call": table.column("call").cast(pa.string()),
    }
    for marker in result.panel.markers:
        columns[f"{marker.key}_probability"] = table.column(f"p_{marker.key}")
    arrays = [columns[n] if n in columns else table.column(n) for n in schema.names]
    return pa.table(arrays, schema=schema)


def _csvw(path: Path, schema: pa.Schema, result: Result) -> dict[str, Any]:
    kinds = {pa.uint32(): "unsignedInt", pa.string(): "string"}
    return {
        "@context": "http://www.w3.org/ns/csvw",
        "url": path.name,
        "tableSchema": {
            "columns": [
                {
                    "name": field.name,
                    "datatype": kinds.get(field.type, "number"),
                    "dc:description": field.metadata[b"description"].decode(),
                    **({"unit": unit} if (unit := field.metadata[b"unit"].decode()) else {}),
                }
                for field in schema
            ],
            "primaryKey": "id",
        },
        "lymphinfer": result.provenance,
    }
