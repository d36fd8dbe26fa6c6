"""A result's areas as lines over its map."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.cells.areas import read_areas
from lymphinfer.export.results import Result

_LONGEST_PX = 1400
"""Lines are drawn as finely as the thumbnail beneath them."""


def area_lines(result: Result) -> dict[str, Any] | None:
    """Paths of a slide's areas for its page; None for results that keep none.

    Returns
    -------
    dict or None
        ``tissue`` and ``blurred``: SVG path data in level-0 px, empty without an area; ``given``:
        whether the tissue was given.

    Raises
    ------
    ResultError
        The areas are damaged.
    """
    areas = read_areas(result.folder)
    if areas is None:
        return None
    step = max(result.dimensions) / _LONGEST_PX
    tissue, blurred = (svg_path(area, step) for area in (areas.tissue, areas.blurred))
    return {"tissue": tissue, "blurred": blurred, "given": areas.given}


def svg_path(area: BaseGeometry, step: float) -> str:
    """SVG path data of an area, its corners whole px, simplified to half a step."""
    lines = []
    for ring in shapely.get_rings(shapely.get_parts(shapely.simplify(area, step / 2))):
        points = np.rint(shapely.get_coordinates(ring)[:-1]).astype(int).tolist()
        lines.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(lines)
