"""Columns of tables from numpy and back, without pandas.

`pyarrow.array` and ``ChunkedArray.to_numpy`` load pandas to ask whether they were given something
of pandas: a third of a CPU second that a prediction has no other use for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def number_column(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers (N,), and which of them are missing (N,), as a column of their type."""
    kept = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(kept.dtype)
    return pa.Array.from_buffers(kind, len(kept), [_valid(missing), pa.py_buffer(kept)])


def text_column(texts: Sequence[str]) -> pa.Array:
    """Texts as a column."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    content = pa.py_buffer(b"".join(encoded))
    return pa.Array.from_buffers(pa.string(), len(encoded), [None, pa.py_buffer(ends), content])


def bytes_column(
    content: bytes | bytearray, ends: NDArray[Any], missing: NDArray[np.bool_] | None = None
) -> pa.BinaryArray:
    """Texts one behind the other, their ends (N,) and which are missing (N,) as a column.

    Raises
    ------
    ValueError
        They are 2 GiB or more: give fewer at a time.
    """
    if len(content) >= 2**31:
        raise ValueError(f"{len(content):,} bytes are too many for one column of texts")
    places = pa.py_buffer(np.concatenate([[0], ends]).astype(np.int32))
    buffers = [_valid(missing), places, pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.binary(), len(ends), buffers)


def content_of(column: pa.BinaryArray) -> memoryview:
    """All bytes of a column of texts, one text behind the other."""
    if not len(column):
        return memoryview(b"")
    _, places, content = column.buffers()
    ends = np.frombuffer(places, np.int32)[column.offset : column.offset + len(column) + 1]
    return memoryview(content)[ends[0] : ends[-1]]


def values_of(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """Numbers of a column, (N,), of its type; NaN where one is missing.

    Raises
    ------
    TypeError
        It has no numbers.
    """
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise TypeError(f"a column of {column.type} has no numbers")
    kind = np.dtype(column.type.to_pandas_dtype())
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_of_chunk(chunk, kind) for chunk in chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, kind), *parts])


def _valid(missing: NDArray[np.bool_] | None) -> pa.Buffer | None:
    if missing is None or not missing.any():
        return None
    return pa.py_buffer(np.packbits(~missing, bitorder="little"))


def _of_chunk(chunk: pa.Array, kind: np.dtype[Any]) -> NDArray[Any]:
    if not len(chunk):
        return np.empty(0, kind)
    valid, content = chunk.buffers()
    here = slice(chunk.offset, chunk.offset + len(chunk))
    found = np.frombuffer(content, kind, count=here.stop)[here]
    if not chunk.null_count:
        return found
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[here].astype(bool)
    found = found.astype(kind if kind.kind == "f" else np.float64)
    found[~bits] = np.nan
    return found
