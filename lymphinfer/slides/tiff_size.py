"""The pixel size that a page of a TIFF states in its tags or its description."""

from __future__ import annotations

import re
from typing import Any

from lymphinfer.slides.pixel_size import StatedSize, resolution_stated_size, stated_length

_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}


def tag_size(page: Any, otherwise: StatedSize | None = None) -> StatedSize:
    """Pixel size by an Aperio description or by the resolution tags of a tiled TIFF.

    Without either it is what is given as `otherwise`.
    """
    page = page.keyframe
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description or "")
    if found:
        return StatedSize((float(found[1]), float(found[1])))
    unit = _UM_PER_RESOLUTION_UNIT.get(int(page.resolutionunit))
    if unit is None:
        return otherwise or StatedSize(None)
    x, y = (unit / value if value > 0 else None for value in page.resolution)
    stated = resolution_stated_size(x, y, trusted=bool(page.is_tiled))
    return otherwise if otherwise is not None and stated.xy is None else stated


def imagej_size(tif: Any, page: Any) -> StatedSize | None:
    """Pixel size as ImageJ writes it: pixels a unit in the tags, the unit in the description."""
    if not tif.is_imagej:
        return None
    unit = str((tif.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    sizes = [
        stated_length(str(1 / value), unit) if value > 0 else None for value in page.resolution
    ]
    x, y = sizes
    return None if x is None or y is None else StatedSize((x, y), "ImageJ description")
