"""GeoJSON for QuPath, streamed from the nucleus table.

The rules come from running QuPath's own reader (0.5.1 to 0.7.0). `lymphinfer.export.validate`
checks what the shape of the text does not already guarantee.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.table import measurements, read_calls, read_ids, read_rings
from lymphinfer.columns import bytes_column, content_of, number_column, values_of
from lymphinfer.export.lineage_order import ClassSpool, call_lineages
from lymphinfer.export.nucleus_types import type_classes
from lymphinfer.export.numerals import id_texts, number_texts, point_texts, ring_texts
from lymphinfer.export.packing import Packed, add_packed, packed
from lymphinfer.export.validate import UniqueIds, validate_panel, validate_table
from lymphinfer.panel import OTHER, Panel
from lymphinfer.textfiles import json_bytes
from lymphinfer.threads import in_order, threads

Format = Literal["zip", "geojson.gz", "geojson"]
FORMATS: tuple[Format, ...] = get_args(Format)
Shape = Literal["polygon", "point"]
Classes = Literal["call", "type"]
PART_SIZE = 25_000
# Nuclei checked, and of a file without parts written, at a time.
_PIECE = 5000
# Nuclei made text at a time: what fits the processor's cache is faster.
_BLOCK = 2048
# More would wait for the thread that reads and writes, each with a part's text in memory.
_THREADS = 4
_SEPARATOR = b",\n"
_CLOSE = b"\n]}\n"


def write_geojson(
    path: Path,
    tables: Iterable[pa.Table],
    panel: Panel,
    *,
    fmt: Format = "zip",
    offset_level0: tuple[float, float] = (0, 0),
    provenance: Mapping[str, Any] | None = None,
    stem: str | None = None,
    part_size: int = PART_SIZE,
    shape: Shape = "polygon",
    classes: Classes = "call",
) -> Path:
    """Write a slide's nuclei as one file to drop on the open image in QuPath.

    Memory holds a part's text for each thread, of which there are four at most, and 16 bytes a
    nucleus; the disk, until it is done, the nuclei as numbers. The same tables give the same bytes
    on any number of threads. Without nuclei the file holds one empty FeatureCollection. Nuclei
    stand by class, parents before children (see `lymphinfer.export.lineage_order`), and within a
    class in the order of the tables.

    Parameters
    ----------
    path : Path
        The file; the format's suffix is added where it is missing.
    tables : iterable of pyarrow.Table
        Nucleus tables of any sizes, such as `lymphinfer.cells.parts.read_parts` gives.
    panel : Panel
        Names and colours of the classes.
    fmt : {"zip", "geojson.gz", "geojson"}
        ``zip`` holds parts that QuPath opens in little memory: the default.
    offset_level0 : tuple of float
        Corner of the image as QuPath opens it, ``Slide.bounds_offset``, level-0 px; subtracted.
    provenance : mapping, optional
        What made the file; becomes the collection's member ``lymphinfer``, which QuPath skips.
    stem : str, optional
        Start of the parts' names inside the ``.zip``; by default that of the file.
    part_size : int
        Features in one part of the ``.zip``.
    shape : {"polygon", "point"}
        What stands for a nucleus: its outline, or its centroid (a file of about a third the size).
    classes : {"call", "type"}
        What its class in QuPath is: the phenotype, or the nucleus type that the detector found.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ResultError
        If a nucleus would fail the file in QuPath, or the file cannot be written. Nothing is left
        behind then.
    ValueError
        If the format is not known.
    """
    if fmt not in FORMATS:
        raise ValueError(f"format {fmt!r} is none of {', '.join(FORMATS)}")
    validate_panel(panel)
    suffix = f".{fmt}"
    target = path if path.name.endswith(suffix) else path.with_name(path.name + suffix)
    stem = re.sub(r'[\\/:*?"<>|]', "_", stem or target.name.removesuffix(suffix))
    header = _header(provenance)
    lineages = call_lineages(panel) if classes == "call" else [()]
    blocks = partial(
        _blocks, panel=panel, offset_level0=offset_level0, shape=shape, classes=classes
    )
    with atomic_write(target) as file, ClassSpool(lineages, target.parent) as spool:
        _spool(spool, tables, panel, classes)
        if fmt == "zip":
            _write_zip(file, spool.parts(part_size), blocks, header, stem)
        else:
            whole = chain.from_iterable(spool.parts())
            _write_collection(file, whole, blocks, header, fmt == "geojson.gz")
    return target


def features(
    table: pa.Table,
    panel: Panel,
    offset_level0: tuple[float, float] = (0, 0),
    shape: Shape = "polygon",
    classes: Classes = "call",
) -> bytes:
    """Write a table's nuclei as GeoJSON features, joined by commas.

    Parameters
    ----------
    table : pyarrow.Table
        Nuclei that `lymphinfer.export.validate.validate_table` accepts.
    panel : Panel
        Names and colours of the classes.
    offset_level0 : tuple of float
        Subtracted from every vertex, level-0 px.
    shape : {"polygon", "point"}
        Outline or centroid.
    classes : {"call", "type"}
        As in `write_geojson`.

    Returns
    -------
    bytes
        UTF-8, in the order of the table; empty without nuclei.
    """
    return b"".join(_blocks(table, panel, offset_level0, shape, classes))


def _blocks(
    table: pa.Table,
    panel: Panel,
    offset_level0: tuple[float, float],
    shape: Shape,
    classes: Classes,
) -> list[memoryview]:
    """The features of a table, joined by commas, in blocks."""
    texts = [
        content_of(_features(table.slice(i, _BLOCK), panel, offset_level0, shape, classes))
        for i in range(0, table.num_rows, _BLOCK)
    ]
    if texts:
        texts[-1] = texts[-1][: -len(_SEPARATOR)]
    return texts


def _features(
    table: pa.Table,
    panel: Panel,
    offset_level0: tuple[float, float],
    shape: Shape,
    classes: Classes,
) -> pa.BinaryArray:
    """Each nucleus' feature, with the comma behind it."""
    which: NDArray[np.signedinteger[Any]]
    if classes == "type":
        named, which = type_classes(table)
    else:
        named = [_classification(panel, call) for call in panel.calls]
        which = read_calls(table, panel)
    if shape == "point":
        places = point_texts(_centroids(table), offset_level0)
        geometry = b'{"type":"Point","coordinates":', b"}"
    else:
        places = ring_texts(read_rings(table), offset_level0)
        geometry = b'{"type":"Polygon","coordinates":[', b"]}"
    return _joined(
        b'{"type":"Feature","id":"',
        id_texts(read_ids(table)),
        b'","geometry":' + geometry[0],
        places,
        geometry[1] + b',"properties":{"objectType":"detection","classification":',
        bytes_column(b"".join(named), np.cumsum([len(n) for n in named])).take(
            number_column(which)
        ),
        b',"measurements":{',
        *_measurement_texts(table),
        b"}}}" + _SEPARATOR,
    )


def _measurement_texts(table: pa.Table) -> list[bytes | pa.BinaryArray]:
    """Each nucleus' measurements as members of a JSON object, in pieces to be joined."""
    columns = measurements(table.schema)
    keys = [orjson.dumps(name) + b":" for name in columns.values()]
    texts = [number_texts(values_of(table.column(column))) for column in columns]
    if any(text.null_count for text in texts):
        members = [_joined(*member) for member in zip(keys, texts, strict=True)]
        return [_joined(*members, separator=b",", null_handling="skip")]
    commas = [b"", *(b"," for _ in keys[1:])]
    return [
        piece
        for comma, key, text in zip(commas, keys, texts, strict=True)
        for piece in (comma + key, text)
    ]


def _joined(
    *pieces: bytes | pa.BinaryArray, separator: bytes = b"", null_handling: str = "emit_null"
) -> pa.BinaryArray:
    # `pyarrow.scalar` would load pandas.
    texts = [
        bytes_column(piece, np.array([len(piece)]))[0] if isinstance(piece, bytes) else piece
        for piece in (*pieces, separator)
    ]
    return pc.binary_join_element_wise(*texts, null_handling=null_handling)


def _spool(spool: ClassSpool, tables: Iterable[pa.Table], panel: Panel, classes: Classes) -> None:
    """Check the nuclei of the tables and keep them by class."""

    def checked(table: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
        validate_table(table)
        if classes == "type":
            # Nucleus types have no parents: they stay as they come.
            return table, [table]
        which = read_calls(table, panel)
        rows = [number_column(np.flatnonzero(which == k)) for k in range(len(panel.calls))]
        return table, [table.take(found) for found in rows]

    ids = UniqueIds()
    for table, by_class in in_order(checked, _rechunked(tables, _PIECE), _workers()):
        ids.add(table)
        for k, nuclei in enumerate(by_class):
            spool.add(k, nuclei)
    ids.check()


def _workers() -> int:
    return min(threads(), _THREADS)


def _centroids(table: pa.Table) -> NDArray[np.float64]:
    return np.stack([values_of(table.column("x")), values_of(table.column("y"))], axis=1)


def _classification(panel: Panel, call: str) -> bytes:
    names = (OTHER,) if call == OTHER else panel.lineage(call)
    # QuPath splits no name at its colons, so a derived class is written as the list of its names.
    name: dict[str, Any] = {"name": names[0]} if len(names) == 1 else {"names": names}
    return orjson.dumps({**name, "color": panel.color(call)})


def _rechunked(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Tables of `size` rows each, the last one shorter; none without rows."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        start = 0
        while start < table.num_rows:
            piece = table.slice(start, size - rows)
            waiting.append(piece)
            rows += piece.num_rows
            start += piece.num_rows
            if rows == size:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _header(provenance: Mapping[str, Any] | None) -> bytes:
    member = b""
    if provenance is not None:
        text = json_bytes(
            dict(provenance), orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, str
        )
        member = b'"lymphinfer":' + text + b","
    return b'{"type":"FeatureCollection",' + member + b'"features":[\n'


def _write_collection(
    file: BinaryIO,
    tables: Iterable[pa.Table],
    blocks: Callable[[pa.Table], list[memoryview]],
    header: bytes,
    is_gzip: bool,
) -> None:
    def finished(text: bytes) -> bytes:
        return packed(text).member if is_gzip else text

    def piece(numbered: tuple[int, pa.Table]) -> bytes:
        number, table = numbered
        return finished(b"".join([_SEPARATOR if number else b"", *blocks(table)]))

    file.write(finished(header))
    for content in in_order(piece, enumerate(_rechunked(tables, _PIECE)), _workers()):
        file.write(content)
    file.write(finished(_CLOSE))


def _write_zip(
    file: BinaryIO,
    parts: Iterable[Iterable[pa.Table]],
    blocks: Callable[[pa.Table], list[memoryview]],
    header: bytes,
    stem: str,
) -> None:
    def part(nuclei: pa.Table) -> Packed:
        return packed(b"".join([header, *blocks(nuclei), _CLOSE]))

    texts = in_order(part, map(pa.concat_tables, parts), _workers())
    with zipfile.ZipFile(file, "w") as archive:
        number = 0
        for number, text in enumerate(texts, 1):
            add_packed(archive, f"{stem}-{number:04d}.geojson", text)
        if number == 0:
            add_packed(archive, f"{stem}-0001.geojson", packed(header + _CLOSE))
