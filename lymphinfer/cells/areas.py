"""The areas of a slide that its results keep: the tissue, and what of it is out of focus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import ResultError

AREAS = "areas.json"


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas of a slide, level-0 px.

    Attributes
    ----------
    tissue : BaseGeometry
        Polygon or MultiPolygon, maybe empty.
    blurred : BaseGeometry
        What of the tissue is out of focus; the same kinds.
    given : bool
        Whether the tissue was given, not found.
    """

    tissue: BaseGeometry
    blurred: BaseGeometry
    given: bool = False


def write_areas(folder: Path, areas: Areas) -> None:
    """Keep a slide's areas in its result folder.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    content = {
        "frame": "level-0 px of the slide file",
        "given": areas.given,
        "tissue": _plain(areas.tissue),
        "out_of_focus": _plain(areas.blurred),
    }
    with atomic_write(folder / AREAS) as file:
        file.write(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def read_areas(folder: Path) -> Areas | None:
    """Areas of a result folder, or None where an earlier version has kept none.

    Raises
    ------
    ResultError
        The file is damaged.
    """
    path = folder / AREAS
    try:
        content = json.loads(path.read_text("utf-8"))
        return Areas(
            shapely.from_geojson(json.dumps(content["tissue"])),
            shapely.from_geojson(json.dumps(content["out_of_focus"])),
            bool(content["given"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, shapely.errors.ShapelyError) as error:
        raise ResultError(
            f"{path}: cannot be read ({error}); delete it and run lymphinfer predict --redo"
        ) from error


def _plain(area: BaseGeometry) -> dict[str, Any]:
    return dict(shapely.geometry.mapping(area)) if not area.is_empty else {
        "type": "MultiPolygon", "coordinates": []
    }  # fmt: skip
