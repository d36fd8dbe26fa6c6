"""Part files: one Parquet file a finished shard, the unit of resuming and the source of every view.

A part is there whole or not at all, carries the fingerprint of what made it, and has the same bytes
whenever and wherever the same nuclei are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lymphinfer.cells import table as nucleus_table
from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import ResultError
from lymphinfer.panel import Panel
from lymphinfer.textfiles import is_utf8

FINGERPRINT_KEY = b"lymphinfer.fingerprint"
ROW_GROUP = 25_000
SUFFIX = ".parquet"


def write_part(path: Path, table: pa.Table, fingerprint: str) -> None:
    """Write a shard's nuclei as one Parquet file.

    Parameters
    ----------
    path : Path
        Ends in ``.parquet``; parts are read back in the order of their names.
    table : pyarrow.Table
        From `lymphinfer.cells.table.build_table`; may have no rows.
    fingerprint : str
        What the nuclei depend on: slide identity, bundle sha256, settings.

    Raises
    ------
    ResultError
        If it cannot be written (full disk, read-only folder); nothing is left behind then.
    """
    metadata = {**(table.schema.metadata or {}), FINGERPRINT_KEY: fingerprint.encode()}
    with atomic_write(path) as file:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            file,
            row_group_size=ROW_GROUP,
            compression="zstd",
            compression_level=3,
            use_dictionary=["call"],
            version="2.6",
            store_schema=True,
        )


def is_done(path: Path, fingerprint: str) -> bool:
    """Whether a part is there, whole, and made under this fingerprint; reads its footer only.

    Never raises: a missing, truncated or foreign file is a part that is not done.
    """
    try:
        with open_parquet(path) as file:
            return (file.metadata.metadata or {}).get(FINGERPRINT_KEY) == fingerprint.encode()
    except (OSError, pa.ArrowException):
        return False


def list_parts(folder: Path) -> list[Path]:
    """Part files of a folder in the order of their names; none if the folder is not there."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def count(folder: Path) -> int:
    """Nuclei in all parts of a folder, from their footers.

    Raises
    ------
    ResultError
        If a part is damaged.
    """
    total = 0
    for path in list_parts(folder):
        with _open(path) as file:
            total += file.metadata.num_rows
    return total


def read_parts(
    folder: Path,
    panel: Panel,
    fingerprint: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Read the nuclei of a slide, a row group at a time, in the order of the parts' names.

    Memory holds one row group (at most 25,000 nuclei), however many parts there are.

    Parameters
    ----------
    folder : Path
        The ``parts`` folder.
    panel : Panel
        The panel that the parts were made with.
    fingerprint : str, optional
        Skip the parts made under another one, left from an earlier run. Without it, all parts
        must agree.
    columns : sequence of str, optional
        Only these, in this order: outlines are most of a part.

    Yields
    ------
    pyarrow.Table
        One schema for all of them: `lymphinfer.cells.table.schema`, or the named columns of it.

    Raises
    ------
    ResultError
        If a part is damaged, is no nucleus table of this panel, or the parts disagree.
    """
    first: tuple[Path, pa.Schema, bytes | None] | None = None
    for path in list_parts(folder):
        with _open(path) as file:
            found = (file.metadata.metadata or {}).get(FINGERPRINT_KEY)
            if fingerprint is not None and found != fingerprint.encode():
                continue
            wanted = _expected_schema(path, file.schema_arrow, panel)
            first = first or (path, wanted, found)
            if first[1] != wanted or first[2] != found:
                raise ResultError(
                    f"{path} and {first[0].name} come from different runs: delete {folder} and "
                    "run lymphinfer predict again"
                )
            if columns is not None:
                wanted = pa.schema([wanted.field(name) for name in columns], wanted.metadata)
            for group in range(file.num_row_groups):
                try:
                    nuclei = file.read_row_group(group, columns).select(wanted.names).cast(wanted)
                except (OSError, pa.ArrowException) as error:
                    raise _damaged(path, error) from error
                yield nuclei


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, whatever bytes its name has."""
    with ExitStack() as stack:
        source = path if is_utf8(path) else stack.enter_context(path.open("rb"))
        yield stack.enter_context(pq.ParquetFile(source))


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_parquet(path))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error
        yield file


def _damaged(path: Path, error: Exception) -> ResultError:
    reason = str(error).splitlines()[0]
    return ResultError(
        f"cannot read {path} ({reason}): delete it and run lymphinfer predict again to remake it"
    )


def _expected_schema(path: Path, found: pa.Schema, panel: Panel) -> pa.Schema:
    base = nucleus_table.schema(panel)
    extras = [name for name in found.names if name not in base.names]
    wanted = nucleus_table.schema(panel, extras)
    metadata = found.metadata or {}
    version = nucleus_table.VERSION_KEY
    if found.names != wanted.names or metadata.get(version) != wanted.metadata[version]:
        raise ResultError(
            f"{path} is not a nucleus table of the panel {panel.name!r}, version "
            f"{nucleus_table.TABLE_VERSION}: it has the columns {found.names}. Delete it, or use "
            "the panel it was made with"
        )
    return wanted
