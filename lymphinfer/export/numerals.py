"""Numbers as JSON text, thousands at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lymphinfer.cells.outlines import Rings

SIGNIFICANT = 4
# Vertices written at a time: what fits the processor's cache is four times as fast.
_BLOCK = 32_768


def ring_texts(rings: Rings, offset_level0: tuple[float, float] = (0, 0)) -> list[bytes]:
    """Write each ring as closed GeoJSON positions: ``[1,2.5],[3.75,2],[3,4],[1,2.5]``.

    Parameters
    ----------
    rings : Rings
        N open rings, level-0 px.
    offset_level0 : tuple of float
        x, y that is subtracted from every vertex, level-0 px.

    Returns
    -------
    list of bytes
        N texts, at most two decimals, first and last position the same.
    """
    n = len(rings)
    if n == 0:
        return []
    offsets = rings.offsets + np.arange(n + 1)
    vertex = np.arange(offsets[-1]) - np.repeat(np.arange(n), rings.counts + 1)
    vertex[offsets[1:] - 1] = rings.offsets[:-1]
    moved = rings.hundredths - np.rint(np.multiply(offset_level0, 100)).astype(np.int64)
    blocks = [_positions(moved[vertex[i : i + _BLOCK]]) for i in range(0, len(vertex), _BLOCK)]
    text = b"".join(block for block, _ in blocks)
    lengths = np.concatenate([length for _, length in blocks])
    ends = np.concatenate([[0], np.cumsum(lengths)])[offsets].tolist()
    # Every position ends in a comma; a ring's last one is not wanted.
    return [text[a : b - 1] for a, b in pairwise(ends)]


def point_texts(
    points: NDArray[np.float64], offset_level0: tuple[float, float] = (0, 0)
) -> list[bytes]:
    """Write each point as a GeoJSON position, ``[1,2.5]``.

    Parameters
    ----------
    points : ndarray of float64, shape (N, 2)
        x, y on the 0.01 px grid, level-0 px.
    offset_level0 : tuple of float
        Subtracted from every point, level-0 px.

    Returns
    -------
    list of bytes
        N texts, at most two decimals.
    """
    if len(points) == 0:
        return []
    moved = np.rint(points * 100).astype(np.int64)
    moved -= np.rint(np.multiply(offset_level0, 100)).astype(np.int64)
    text, lengths = _positions(moved)
    ends = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    return [text[a : b - 1] for a, b in pairwise(ends)]


def number_texts(values: NDArray[Any]) -> list[bytes]:
    """Write each number with 4 significant digits; ``b"null"`` where it is not finite.

    Parameters
    ----------
    values : ndarray of float, shape (N,)

    Returns
    -------
    list of bytes
    """
    if len(values) == 0:
        return []
    values = values.astype(np.float64)
    size = np.abs(values)
    size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
    digits = SIGNIFICANT - 1 - np.floor(np.log10(size))
    # A quotient by a whole power of ten is the double nearest to the decimal, so it prints short.
    step = 10.0 ** np.abs(digits)
    tidy = np.where(digits >= 0, np.rint(values * step) / step, np.rint(values / step) * step)
    return orjson.dumps(tidy, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def id_texts(ids: NDArray[np.uint8]) -> list[bytes]:
    """Write 16-byte ids, shape (N, 16), as UUIDs: ``8-4-4-4-12`` hexadecimal digits."""
    digits = np.frombuffer(ids.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    text = np.full((len(ids), 36), ord("-"), np.uint8)
    dashes = [8, 13, 18, 23]
    text[:, np.delete(np.arange(36), dashes)] = digits
    texts: list[bytes] = text.view("S36").ravel().tolist()
    return texts


def _positions(hundredths: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Text ``[x,y],`` of each vertex (M, 2) on end, and the length of each.

    Every vertex gets a row of fixed width with all its digits; a mask then takes out the signs,
    leading zeros and trailing decimals that it does not need. Four times as fast as
    `orjson` on floats.
    """
    m = len(hundredths)
    size: NDArray[Any] = np.abs(hundredths)
    if size.max() < 2**31:
        size = size.astype(np.int32)
    whole_digits = max(1, len(str(int(size.max()))) - 2)
    width = 1 + whole_digits + 3
    row = np.empty((m, 2 * width + 4), np.uint8)
    keep = np.ones(row.shape, bool)
    row[:, 0], row[:, -2], row[:, -1] = b"[],"
    row[:, 1 + width] = ord(",")
    for axis, start in ((0, 1), (1, 2 + width)):
        rest: NDArray[np.signedinteger[Any]] = size[:, axis]
        point = start + 1 + whole_digits
        row[:, start], row[:, point] = b"-."
        keep[:, start] = hundredths[:, axis] < 0
        place = [point + 2, point + 1, *range(point - 1, start, -1)]
        for power, column in enumerate(place):
            quotient = rest // 10
            row[:, column] = rest - 10 * quotient + ord("0")
            if power == 0:
                keep[:, column] = row[:, column] != ord("0")
            elif power == 1:
                keep[:, column] = keep[:, point] = keep[:, point + 2] | (row[:, column] != ord("0"))
            elif power > 2:
                keep[:, column] = rest > 0
            rest = quotient
    return row[keep].tobytes(), keep.sum(axis=1)
