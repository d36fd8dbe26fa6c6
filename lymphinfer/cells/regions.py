"""What was measured of a slide's regions, as its result folder keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import REGION_NUCLEI, REGIONS
from lymphinfer.cells.parts import open_parquet
from lymphinfer.errors import ResultError
from lymphinfer.textfiles import json_bytes

VERSION = 1
MARK_KEY = b"lymphinfer.regions"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Keep a slide's record of regions.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2
    with atomic_write(folder / REGIONS) as file:
        file.write(json_bytes({"version": VERSION, **record}, option, str))


def read_record(folder: Path, fingerprint: str | None) -> dict[str, Any] | None:
    """Record of a slide's regions.

    Parameters
    ----------
    folder : Path
        The slide's result folder.
    fingerprint : str or None
        Of the result as it is now.

    Returns
    -------
    dict or None
        None where there is none, or it was measured on other nuclei than are there now.

    Raises
    ------
    ResultError
        The file is damaged.
    """
    path = folder / REGIONS
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        current = record["version"] == VERSION and record["fingerprint"] == fingerprint
        _ = (record["rows"], record["marker_names"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path}: cannot be read ({error}); delete it and run lymphinfer regions again"
        ) from error
    return record if current else None


def is_stale(folder: Path, fingerprint: str | None) -> bool:
    """Whether regions were measured here on other nuclei than are there now.

    Raises
    ------
    ResultError
        The file is damaged.
    """
    return (folder / REGIONS).exists() and read_record(folder, fingerprint) is None


def write_region_nuclei(folder: Path, table: pa.Table, mark: str) -> None:
    """Keep what regions say of each nucleus, a row each, in the order of the parts.

    Parameters
    ----------
    folder : Path
    table : pyarrow.Table
        Its first column is ``id``.
    mark : str
        The record's ``mark``: what belongs together.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    with atomic_write(folder / REGION_NUCLEI) as file:
        pq.write_table(table.replace_schema_metadata({MARK_KEY: mark}), file, compression="zstd")


def read_region_nuclei(folder: Path, record: Mapping[str, Any]) -> pa.Table:
    """Read what `write_region_nuclei` has written beside a record.

    Raises
    ------
    ResultError
        The file is missing, damaged, or belongs to another record.
    """
    path = folder / REGION_NUCLEI
    try:
        with open_parquet(path) as file:
            if (file.metadata.metadata or {}).get(MARK_KEY) != str(record["mark"]).encode():
                raise ResultError(
                    f"{path}: does not belong to the {REGIONS} beside it; run lymphinfer regions "
                    "again"
                )
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise ResultError(
            f"{path}: cannot be read ({error}); run lymphinfer regions again"
        ) from error
