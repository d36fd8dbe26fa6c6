"""GeoJSON for QuPath, streamed from the nucleus table.

The rules come from running QuPath's own reader (0.5.1 to 0.7.0). `lymphinfer.export.validate`
checks what the shape of the text does not already guarantee.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.table import measurements, read_calls, read_ids, read_rings
from lymphinfer.columns import values_of
from lymphinfer.export.lineage_order import ClassSpool, call_lineages
from lymphinfer.export.nucleus_types import type_classes
from lymphinfer.export.numerals import id_texts, number_texts, point_texts, ring_texts
from lymphinfer.export.validate import UniqueIds, validate_panel, validate_table
from lymphinfer.panel import OTHER, Panel
from lymphinfer.textfiles import json_bytes

Format = Literal["zip", "geojson.gz", "geojson"]
FORMATS: tuple[Format, ...] = get_args(Format)
Shape = Literal["polygon", "point"]
Classes = Literal["call", "type"]
PART_SIZE = 25_000
_LEVEL = 2
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

    Memory holds `part_size` nuclei and 16 bytes for each one written; the disk, until it is done,
    the features uncompressed. The same tables give the same bytes. Without nuclei the file holds
    one empty FeatureCollection. Nuclei stand by class, parents before children (see
    `lymphinfer.export.lineage_order`), and within a class in the order of the tables.

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
    with atomic_write(target) as file, ClassSpool(lineages, target.parent) as spool:
        ids = UniqueIds()
        for table in _rechunked(tables, part_size):
            validate_table(table)
            ids.add(table)
            _spool(spool, table, panel, offset_level0, shape, classes)
        ids.check()
        if fmt == "zip":
            _write_zip(file, spool.parts(part_size), header, stem)
            return target
        whole = chain.from_iterable(spool.parts())
        if fmt == "geojson.gz":
            with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as stream:
                _write_collection(stream.write, whole, header)
        else:
            _write_collection(file.write, whole, header)
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
    return _SEPARATOR.join(_features(table, panel, offset_level0, shape, classes)[0])


def _features(
    table: pa.Table,
    panel: Panel,
    offset_level0: tuple[float, float],
    shape: Shape,
    classes: Classes,
) -> tuple[list[bytes], NDArray[np.signedinteger[Any]]]:
    """Each nucleus' feature, and the index of its class."""
    which: NDArray[np.signedinteger[Any]]
    if classes == "type":
        named, which = type_classes(table)
    else:
        named = [_classification(panel, call) for call in panel.calls]
        which = read_calls(table, panel)
    if shape == "point":
        places = point_texts(_centroids(table), offset_level0)
        geometry = b'{"type":"Point","coordinates":%b}'
    else:
        places = ring_texts(read_rings(table), offset_level0)
        geometry = b'{"type":"Polygon","coordinates":[[%b]]}'
    rows = zip(
        id_texts(read_ids(table)),
        places,
        (named[i] for i in which),
        _measurement_texts(table),
        strict=True,
    )
    template = (
        b'{"type":"Feature","id":"%b",'
        b'"geometry":' + geometry + b","
        b'"properties":{"objectType":"detection","classification":%b,"measurements":{%b}}}'
    )
    return [template % row for row in rows], which


def _spool(
    spool: ClassSpool,
    table: pa.Table,
    panel: Panel,
    offset_level0: tuple[float, float],
    shape: Shape,
    classes: Classes,
) -> None:
    texts, which = _features(table, panel, offset_level0, shape, classes)
    if classes == "type":
        # Nucleus types have no parents: they stay as they come.
        spool.add(0, texts)
        return
    for k in range(len(panel.calls)):
        spool.add(k, [texts[i] for i in np.flatnonzero(which == k)])


def _centroids(table: pa.Table) -> NDArray[np.float64]:
    return np.stack([values_of(table.column("x")), values_of(table.column("y"))], axis=1)


def _classification(panel: Panel, call: str) -> bytes:
    names = (OTHER,) if call == OTHER else panel.lineage(call)
    # QuPath splits no name at its colons, so a derived class is written as the list of its names.
    name: dict[str, Any] = {"name": names[0]} if len(names) == 1 else {"names": names}
    return orjson.dumps({**name, "color": panel.color(call)})


def _measurement_texts(table: pa.Table) -> list[bytes]:
    names = measurements(table.schema)
    columns = [number_texts(values_of(table.column(c))) for c in names]
    keys = [orjson.dumps(name) + b":" for name in names.values()]
    if any(table.column(c).null_count for c in names) or any(b"null" in c for c in columns):
        return [
            b",".join(k + v for k, v in zip(keys, row, strict=True) if v != b"null")
            for row in zip(*columns, strict=True)
        ]
    template = b",".join(key.replace(b"%", b"%%") + b"%b" for key in keys)
    return [template % row for row in zip(*columns, strict=True)]


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
    write: Callable[[bytes], Any], blocks: Iterable[list[bytes]], header: bytes
) -> None:
    write(header)
    for i, block in enumerate(blocks):
        text = _SEPARATOR.join(block)
        write(_SEPARATOR + text if i else text)
    write(_CLOSE)


def _write_zip(
    file: BinaryIO, parts: Iterable[Iterable[list[bytes]]], header: bytes, stem: str
) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        number = 0
        for number, blocks in enumerate(parts, 1):
            text = _SEPARATOR.join(chain.from_iterable(blocks))
            _add_part(archive, f"{stem}-{number:04d}.geojson", header + text + _CLOSE)
        if number == 0:
            _add_part(archive, f"{stem}-0001.geojson", header + _CLOSE)


def _add_part(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A fixed date and system: the archive's bytes depend on nothing but the nuclei.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, _LEVEL)
