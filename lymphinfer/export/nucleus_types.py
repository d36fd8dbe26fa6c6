"""QuPath classes by the nucleus types that a detector such as HoVer-Net found."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.cells.table import measurements
from lymphinfer.errors import ResultError

PREFIX = "type_"
# Okabe and Ito's colours, told apart by everyone, behind grey for no type.
_COLORS = ((128, 128, 128), (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0),
           (204, 121, 167), (0, 114, 178), (240, 228, 66))  # fmt: skip


def type_classes(table: pa.Table) -> tuple[list[bytes], NDArray[np.intp]]:
    """Class of each nucleus: the type that most of its pixels have.

    Parameters
    ----------
    table : pyarrow.Table
        A nucleus table with a column ``type_<name>`` a type, the share of the nucleus's pixels.

    Returns
    -------
    classes : list of bytes
        GeoJSON classifications, the first for a nucleus without a type.
    which : ndarray of int, (N,)
        Index into `classes`.

    Raises
    ------
    ResultError
        The detector told no types.
    """
    names = {k: v for k, v in measurements(table.schema).items() if k.startswith(PREFIX)}
    if not names:
        raise ResultError(
            "these nuclei have no types: their detector tells none. Predict with --detector "
            "hovernet, or export --to geojson"
        )
    shares = np.stack([table.column(k).to_numpy() for k in names], axis=1)
    which = np.where(shares.max(axis=1) > 0, shares.argmax(axis=1) + 1, 0)
    words = [v.removeprefix("Type ").capitalize() for v in names.values()]
    classes = [
        orjson.dumps({"name": name, "color": _COLORS[i % len(_COLORS)]})
        for i, name in enumerate(["No type", *words])
    ]
    return classes, which
