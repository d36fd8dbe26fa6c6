"""The nucleus table: one row a nucleus, in level-0 pixels, and the same bytes for any tile order.

Polygons are lists of int32 hundredths of a level-0 px, x and y in turn: exact on QuPath's 0.01 px
grid up to 21 million px, where float32 fails from 131,072 px on, and half the size of float64. The
centroid is float64 for the same reason: a nucleus's id can be made again from its row.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lymphinfer.cells.outlines import Rings, areas, centroids
from lymphinfer.columns import number_column, text_column, values_of
from lymphinfer.errors import ResultError
from lymphinfer.panel import Panel
from lymphinfer.version import __version__

TABLE_VERSION = "1"
VERSION_KEY = b"lymphinfer.table"
SOFTWARE_KEY = b"lymphinfer.version"
PANEL_KEY = b"lymphinfer.panel"
MEASUREMENT_KEY = b"measurement"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "lymphinfer.nucleus")

Numbers = NDArray[np.floating[Any]] | Sequence[float]


def schema(panel: Panel, extras: Sequence[str] = ()) -> pa.Schema:
    """Build the schema of the nucleus table of a panel.

    ==========================  ==========================================================
    ``id``                      16 bytes of a UUID: slide, bundle, centroid; or as given
    ``x``, ``y``                float64, centroid on the 0.01 px grid, level-0 px
    ``area_um2``                float32, µm²
    ``polygon``                 list<int32>: x0, y0, x1, y1 … open ring, 0.01 level-0 px
    ``detection_probability``   float32
    ``p_<marker key>``          float32, after the hierarchy; one column a marker
    ``call``                    dictionary<int8, string>: the deepest positive phenotype
    ==========================  ==========================================================

    A column that becomes a measurement in QuPath carries its name there in the field metadata.

    Parameters
    ----------
    panel : Panel
        The markers.
    extras : sequence of str
        Names of further float32 columns, ``"mean_hematoxylin"``; QuPath shows ``Mean hematoxylin``.

    Returns
    -------
    pyarrow.Schema
        Its metadata names the table version, the software version and the panel.
    """
    fields = [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
        pa.field("y", pa.float64(), nullable=False),
        _measured("area_um2", "Area µm^2"),
        pa.field("polygon", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        _measured("detection_probability", "Detection probability"),
        *(_measured(f"p_{marker.key}", marker.measurement) for marker in panel.markers),
        pa.field("call", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        *(_measured(name, name.replace("_", " ").capitalize()) for name in extras),
    ]
    metadata = {
        VERSION_KEY: TABLE_VERSION,
        SOFTWARE_KEY: __version__,
        PANEL_KEY: panel.name,
    }
    return pa.schema(fields, metadata=metadata)


def build_table(
    panel: Panel,
    *,
    slide_identity: str,
    bundle_sha256: str,
    rings: Rings,
    detection_probability: Numbers,
    probabilities: NDArray[np.floating[Any]],
    calls: NDArray[np.integer[Any]],
    mpp: float,
    extras: Mapping[str, Numbers] | None = None,
    ids: NDArray[np.uint8] | None = None,
) -> pa.Table:
    """Build the table of a shard's nuclei, sorted by y, x and id.

    Parameters
    ----------
    panel : Panel
        The markers.
    slide_identity : str
        What names the slide wherever its file lies; goes into the ids.
    bundle_sha256 : str
        Hash of the bundle; goes into the ids.
    rings : Rings
        N valid outlines, from `lymphinfer.cells.outlines.clean`.
    detection_probability : array of float, shape (N,)
        In [0, 1].
    probabilities : ndarray of float, shape (N, len(panel))
        In [0, 1], after the hierarchy. NaN stands for a missing one.
    calls : ndarray of int, shape (N,)
        Index into ``panel.calls``.
    mpp : float
        Level-0 pixel size, µm/px.
    extras : mapping of str to array of float, shape (N,), optional
        Further columns, such as morphology; NaN stands for a missing value.
    ids : ndarray of uint8, shape (N, 16), optional
        Ids that the nuclei have already; made from slide, bundle and centroid without.

    Returns
    -------
    pyarrow.Table
        With `schema(panel, extras)`.

    Raises
    ------
    ValueError
        If the shapes disagree, or a call is not one of the panel's.
    """
    extras = dict(extras or {})
    n = len(rings)
    calls = np.asarray(calls)
    if probabilities.shape != (n, len(panel)):
        raise ValueError(f"probabilities must be {(n, len(panel))}, not {probabilities.shape}")
    columns = {
        "area_um2": (areas(rings) if n else np.empty(0)) * mpp**2,
        "detection_probability": np.asarray(detection_probability),
        **{f"p_{marker.key}": probabilities[:, i] for i, marker in enumerate(panel.markers)},
        **{name: np.asarray(values) for name, values in extras.items()},
    }
    _check(panel, n, {**columns, "calls": calls})

    centers = np.rint(centroids(rings) * 100).astype(np.int64) if n else np.empty((0, 2), np.int64)
    # Sorted before the ids are made too: among coincident nuclei the ordinal follows the content.
    order = np.lexsort(
        (columns["area_um2"], columns["detection_probability"], centers[:, 0], centers[:, 1])
    )
    if ids is None:
        ids = np.empty((n, 16), np.uint8)
        ids[order] = nucleus_ids(slide_identity, bundle_sha256, centers[order])
    elif ids.shape != (n, 16):
        raise ValueError(f"ids must be {(n, 16)}, not {ids.shape}")
    words = np.ascontiguousarray(ids).view(">u8").reshape(n, 2)
    order = np.lexsort((words[:, 1], words[:, 0], centers[:, 0], centers[:, 1]))
    rings = rings.take(order)
    arrays: dict[str, pa.Array] = {
        "id": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), n, [None, pa.py_buffer(ids[order].tobytes())]
        ),
        "x": number_column(centers[order, 0] / 100),
        "y": number_column(centers[order, 1] / 100),
        "polygon": pa.ListArray.from_arrays(
            number_column((2 * rings.offsets).astype(np.int32)),
            number_column(rings.hundredths.astype(np.int32).ravel()),
        ),
        "call": pa.DictionaryArray.from_arrays(
            number_column(calls[order].astype(np.int8)), text_column(panel.calls)
        ),
    }
    for name, values in columns.items():
        arrays[name] = number_column(values[order].astype(np.float32), np.isnan(values[order]))
    wanted = schema(panel, tuple(extras))
    return pa.table([arrays[field.name].cast(field.type) for field in wanted], schema=wanted)


def nucleus_ids(
    slide_identity: str, bundle_sha256: str, centers: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Make the uuid5 of each nucleus from the slide, the bundle and its centroid.

    The namespace is the uuid5 of the slide and the bundle, a line each; the name is ``"x y"``. Two
    nuclei with one centroid, to 0.01 px, would share an id; the second gets its ordinal into the
    name. So ids are unique within a call, and across calls that share no centroid.

    Parameters
    ----------
    slide_identity, bundle_sha256 : str
        As in `build_table`.
    centers : ndarray of int64, shape (N, 2)
        Centroids in hundredths of a level-0 px.

    Returns
    -------
    ndarray of uint8, shape (N, 16)
    """
    space = uuid.uuid5(NAMESPACE, f"{slide_identity}\n{bundle_sha256}").bytes
    sha1 = partial(hashlib.sha1, usedforsecurity=False)
    seen: dict[tuple[int, int], int] = {}
    digests = bytearray()
    for center in zip(*centers.T.tolist(), strict=True):
        again = seen.get(center, 0)
        seen[center] = again + 1
        name = b"%d %d %d" % (*center, again) if again else b"%d %d" % center
        digests += sha1(space + name).digest()[:16]
    ids = np.frombuffer(bytes(digests), np.uint8).reshape(len(centers), 16).copy()
    ids[:, 6] = ids[:, 6] & 0x0F | 0x50
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80
    return ids


def measurements(table_schema: pa.Schema) -> dict[str, str]:
    """Columns that are measurements in QuPath, with their names there, in table order."""
    return {
        field.name: field.metadata[MEASUREMENT_KEY].decode()
        for field in table_schema
        if field.metadata and MEASUREMENT_KEY in field.metadata
    }


def read_rings(table: pa.Table) -> Rings:
    """Outlines of a table's nuclei, level-0 px, in row order."""
    column = table.column("polygon").combine_chunks()
    offsets = values_of(column.offsets).astype(np.int64)
    values = values_of(column.values)[offsets[0] : offsets[-1]]
    hundredths = values.reshape(-1, 2).astype(np.int64)
    return Rings.of_hundredths(hundredths, (offsets - offsets[0]) // 2)


def read_ids(table: pa.Table) -> NDArray[np.uint8]:
    """Ids of a table's nuclei, shape (N, 16)."""
    column = table.column("id").combine_chunks()
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return data[16 * column.offset : 16 * (column.offset + len(column))].reshape(-1, 16)


def read_calls(table: pa.Table, panel: Panel) -> NDArray[np.int32]:
    """Read the calls of a table's nuclei as indices into ``panel.calls``, shape (N,).

    Raises
    ------
    ResultError
        If a call is not one of the panel's.
    """
    column = table.column("call").cast(pa.string())
    indices = pc.index_in(column, text_column(panel.calls))
    if indices.null_count:
        names = sorted(map(str, set(pc.unique(column).to_pylist()) - set(panel.calls)))
        raise ResultError(
            f"the nucleus table has the calls {names}, the panel {panel.name!r} has {panel.calls}: "
            "use the panel that the table was made with"
        )
    found: NDArray[np.int32] = values_of(indices).astype(np.int32)
    return found


def _measured(name: str, measurement: str) -> pa.Field:
    return pa.field(name, pa.float32(), metadata={MEASUREMENT_KEY: measurement.encode()})


def _check(panel: Panel, n: int, columns: Mapping[str, NDArray[Any]]) -> None:
    for name, values in columns.items():
        if values.shape != (n,):
            raise ValueError(f"{name} must have shape ({n},), not {values.shape}")
    calls = columns["calls"]
    if n and (calls.min() < 0 or calls.max() >= len(panel.calls)):
        raise ValueError(f"calls must index {panel.calls}, got {calls.min()} to {calls.max()}")
