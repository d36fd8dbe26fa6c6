"""Areas as QuPath takes them: annotations whose outlines it accepts."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.errors import ResultError
from lymphinfer.slides.outline import polygons

Color = tuple[int, int, int]


def qupath_shape(area: BaseGeometry, offset: tuple[float, float]) -> BaseGeometry:
    """Area in QuPath's frame, on its grid of 0.01 px.

    Parameters
    ----------
    area : BaseGeometry
        Polygon or MultiPolygon, level-0 px.
    offset : tuple of float
        Corner of the image as QuPath opens it, level-0 px; subtracted.

    Returns
    -------
    BaseGeometry
        A valid Polygon, or a MultiPolygon of at least two parts; maybe empty.
    """
    moved = shapely.transform(area, lambda points: np.round(points - np.asarray(offset), 2))
    # QuPath refuses the whole file for one outline that crosses itself on its grid.
    return polygons(shapely.set_precision(shapely.make_valid(moved), 0.01))


def annotation(
    area: BaseGeometry,
    *,
    identity: str,
    name: str,
    class_names: Sequence[str],
    color: Color,
    measurements: Mapping[str, float | None],
) -> dict[str, Any] | None:
    """GeoJSON feature of an annotation; None without an area.

    Parameters
    ----------
    area : BaseGeometry
        From `qupath_shape`.
    identity : str
        A uuid.
    name : str
        Shown in QuPath's list; left out where it is empty.
    class_names : sequence of str
        Of its class, the parent first; none for an annotation without a class.
    color : tuple of int
        RGB of its class.
    measurements : mapping of str to float or None
        What is None or no finite number is left out.
    """
    if area.is_empty:
        return None
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name:
        properties["name"] = name
    if class_names:
        names = list(class_names)
        named = {"name": names[0]} if len(names) == 1 else {"names": names}
        properties["classification"] = named | {"color": list(color)}
    properties["measurements"] = {
        key: value
        for key, value in measurements.items()
        if value is not None and math.isfinite(value)
    }
    return {
        "type": "Feature",
        "id": identity,
        "geometry": shapely.geometry.mapping(area),
        "properties": properties,
    }


def validate_annotations(features: Sequence[Mapping[str, Any]]) -> None:
    """Check what would fail a file of annotations in QuPath.

    Raises
    ------
    ResultError
        Naming the first annotation that would.
    """
    seen = set()
    for feature in features:
        properties = feature["properties"]
        wrong = _wrong(feature, properties)
        if feature["id"] in seen:
            wrong = "has the id of another one"
        seen.add(feature["id"])
        if wrong:
            name = properties.get("name", feature["id"])
            raise ResultError(
                f"the annotation {name!r} {wrong}, which QuPath refuses: rename or redraw it in "
                "QuPath, and export the annotations again"
            )


def is_uuid(text: str | None) -> bool:
    """Whether QuPath keeps a text as an id."""
    try:
        return text is not None and str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _wrong(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    given = properties.get("classification", {})
    names = given.get("names") or ([given["name"]] if "name" in given else [])
    if any(not name.strip() or any(sign in name for sign in ":\n\r") for name in names):
        return f"is of the class {names}, with an empty name, a colon or a line break"
    if not is_uuid(feature["id"]):
        return "has an id that is no uuid"
    shape = shapely.geometry.shape(feature["geometry"])
    snapped = shapely.set_precision(shape, 0.01)
    if not shape.is_valid or snapped.is_empty or shape.geom_type != snapped.geom_type:
        return "has an outline that crosses itself or is flat"
    return ""
