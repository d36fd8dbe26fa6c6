"""The tissue of a slide, and what of it is out of focus, as annotations for QuPath."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations import OUT_OF_FOCUS, TISSUE
from lymphinfer.cells.areas import AREAS, Areas, read_areas
from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import ResultError
from lymphinfer.export.qupath_areas import qupath_shape
from lymphinfer.export.results import Result
from lymphinfer.textfiles import json_bytes

COLORS = {TISSUE: (46, 125, 50), OUT_OF_FOCUS: (230, 145, 0)}
_NAMESPACE = uuid.UUID("0c3c0b7e-54a3-5b39-9f0d-5b1f6f3f4d18")


def areas_of(result: Result) -> Areas:
    """Areas that a result keeps.

    Raises
    ------
    ResultError
        It keeps none, or they are damaged.
    """
    areas = read_areas(result.folder)
    if areas is None:
        raise ResultError(
            f"{result.folder}: no {AREAS}, an earlier version kept none; run lymphinfer predict "
            "--redo"
        )
    return areas


def write_tissue(path: Path, result: Result, offset_level0: tuple[float, float]) -> Path:
    """Write a slide's areas as one GeoJSON file to drop on the open image in QuPath.

    It can be changed there, exported again and given to ``predict --tissue``.

    Parameters
    ----------
    path : Path
    result : Result
    offset_level0 : tuple of float
        Corner of the image as QuPath opens it, level-0 px; subtracted.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ResultError
        The result keeps no areas, or the file cannot be written.
    """
    areas = areas_of(result)
    identity = str(result.summary["slide"].get("identity"))
    features = [
        feature
        for name, area in ((TISSUE, areas.tissue), (OUT_OF_FOCUS, areas.blurred))
        if (feature := _feature(name, area, result, offset_level0, identity)) is not None
    ]
    content = {
        "type": "FeatureCollection",
        "lymphinfer": result.provenance,
        "features": features,
    }
    with atomic_write(path) as file:
        file.write(json_bytes(content, default=str))
    return path


def _feature(
    name: str, area: BaseGeometry, result: Result, offset: tuple[float, float], identity: str
) -> dict[str, Any] | None:
    moved = qupath_shape(area, offset)
    if moved.is_empty:
        return None
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{identity} {name} {shapely.to_wkb(moved, hex=True)}")),
        "geometry": shapely.geometry.mapping(moved),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": name, "color": list(COLORS[name])},
            "measurements": {"Area mm^2": round(float(moved.area) * result.mpp**2 / 1e6, 6)},
        },
    }
