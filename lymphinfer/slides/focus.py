"""How sharp a slide is, field by field.

A blurred field has lost its fine detail but kept its coarse one. The measure is the ratio of the
two: the mean squared difference of pixels 1 µm apart to that of pixels 4 µm apart, in green, where
both stains absorb. It depends on neither stain strength nor brightness, and hardly on what the
tissue is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.columns import values_of
from lymphinfer.slides.grid import Tile

FOCUS_KEY = b"lymphinfer.focus"
"""Metadata of a shard's table: its blurred fields, where there are any."""

FIELD_UM = 128.0
BLURRED = 0.10
"""Below it a field is blurred by a Gaussian of 1.5 to 2 µm or more; real tissue in focus has
0.2 to 0.5, see ``benchmarks/focus.py``."""
_DETAIL_UM = 1.0
_LAG = 4
_STEPS = 1, 2, 4
_MIN_CONTRAST = 1.0
"""Difference over 4 pixels, of 255: glass and the inside of a fat cell have less."""


@dataclass(frozen=True)
class BlurredField:
    """A field too blurred to trust.

    Attributes
    ----------
    box : tuple of float
        x0, y0, x1, y1, level-0 px.
    focus : float
        Its measure.
    nuclei : int
        Nuclei whose centroid lies in it.
    """

    box: tuple[float, float, float, float]
    focus: float
    nuclei: int = 0


def blurred_fields(
    pixels: NDArray[np.uint8], tile: Tile, mpp: float, downsample: float
) -> list[BlurredField]:
    """Find the blurred fields of a tile's core.

    Integer sums: the same pixels give the same numbers on every machine. Fields of hardly any
    contrast, such as bare glass, cannot be judged and are not among them.

    Parameters
    ----------
    pixels : ndarray of uint8, (rows, columns, 3)
        The tile's halo.
    tile : Tile
    mpp : float
        Their size, µm/px.
    downsample : float
        Level-0 px per pixel.

    Returns
    -------
    list of BlurredField
        Row-major, without nuclei.
    """
    x0, y0, x1, y1 = tile.core
    left, top = x0 - tile.halo[0], y0 - tile.halo[1]
    green = pixels[top : top + y1 - y0, left : left + x1 - x0, 1]
    by = _binning(mpp)
    coarse = _binned(green, by)
    side = max(8, round(FIELD_UM / mpp / by))
    fields = []
    for row in _starts(coarse.shape[0], side):
        for column in _starts(coarse.shape[1], side):
            part = coarse[slice(*row), slice(*column)]
            focus = _focus(part, by)
            if focus >= BLURRED:
                continue
            corners = np.array([column[0], row[0], column[1], row[1]]) * by
            whole = np.minimum(corners + np.array([x0, y0, x0, y0]), [x1, y1, x1, y1]) * downsample
            box = tuple(round(float(v), 2) for v in whole)
            fields.append(BlurredField(box, round(focus, 3)))  # type: ignore[arg-type]
    return fields


def focus_of(green: NDArray[np.uint8], mpp: float) -> float:
    """Measure one field.

    Parameters
    ----------
    green : ndarray of uint8, (rows, columns)
        Its green channel.
    mpp : float
        µm/px.

    Returns
    -------
    float
        Fine to coarse detail, from 1/16 (all blur) on; infinite where it cannot be judged.
    """
    by = _binning(mpp)
    return _focus(_binned(green, by), by)


def with_fields(table: pa.Table, fields: Iterable[BlurredField]) -> pa.Table:
    """Keep a shard's blurred fields with its nuclei: a resumed run then tells of the same ones.

    Parameters
    ----------
    table : pyarrow.Table
        Nucleus table.
    fields : iterable of BlurredField
        In any order.

    Returns
    -------
    pyarrow.Table
        With `FOCUS_KEY` in its metadata, where there are any.
    """
    fields = sorted(fields, key=lambda field: (field.box[1], field.box[0]))
    if not fields:
        return table
    x, y = (values_of(table.column(name)) for name in ("x", "y"))
    rows = []
    for field in fields:
        x0, y0, x1, y1 = field.box
        inside = int(((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).sum())
        rows.append([*field.box, field.focus, inside])
    metadata = {**(table.schema.metadata or {}), FOCUS_KEY: json.dumps(rows).encode()}
    return table.replace_schema_metadata(metadata)


def read_fields(metadata: dict[bytes, bytes] | None) -> list[BlurredField]:
    """Blurred fields in the metadata of a part.

    Raises
    ------
    ValueError
        It is damaged.
    """
    rows = json.loads((metadata or {}).get(FOCUS_KEY, b"[]"))
    return [BlurredField((a, b, c, d), focus, nuclei) for a, b, c, d, focus, nuclei in rows]


def _binning(mpp: float) -> int:
    return max(1, round(_DETAIL_UM / mpp))


def _binned(values: NDArray[np.integer], by: int) -> NDArray[np.int32]:
    """Sums of blocks of `by` x `by` pixels."""
    rows, columns = (n // by * by for n in values.shape)
    kept = values[:rows, :columns]
    # Several times as fast as `np.add.reduceat`.
    lines = kept[::by].astype(np.int32)
    for n in range(1, by):
        lines += kept[n::by]
    sums = lines[:, ::by].copy()
    for n in range(1, by):
        sums += lines[:, n::by]
    return sums


def _starts(length: int, side: int) -> list[tuple[int, int]]:
    """Fields along one axis; what is left over joins the last one."""
    count = max(1, length // side)
    return list(pairwise([*(n * side for n in range(count)), length]))


def _focus(part: NDArray[np.int32], by: int) -> float:
    """Least ratio of fine to coarse detail; infinite where there is too little to tell.

    Of a field so blurred that the camera's noise is its fine detail, the next scales tell.
    """
    least = np.inf
    for step in _STEPS:
        seen = _binned(part, step)
        if min(seen.shape) <= 2 * _LAG:
            break
        fine, coarse = (_differences(seen, lag) for lag in (1, _LAG))
        if coarse >= (_MIN_CONTRAST * (by * step) ** 2) ** 2:
            least = min(least, fine / coarse)
    return least


def _differences(part: NDArray[np.int32], lag: int) -> float:
    """Mean squared difference over both axes."""
    across = part[:, lag:] - part[:, :-lag]
    down = part[lag:] - part[:-lag]
    return sum(float(np.square(d, dtype=np.int64).mean()) for d in (across, down)) / 2
