"""What the GeoJSON format has against a geometry, in the words of the package geojson."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 3


def geometry_fault(geometry: Any) -> str:
    """What is wrong with the areas of a geometry by the GeoJSON format (RFC 7946, 3.1).

    People's programs write much that the format forbids and that has one meaning all the same, such
    as rings that are open: a fault is to be told, not to be refused. The package's own reader would
    round coordinates and know no other programs' ways, so that it judges and does not read.

    Parameters
    ----------
    geometry : any
        A decoded geometry; its vertices are looked at, not copied.

    Returns
    -------
    str
        Empty where nothing is wrong, and for what has no area.
    """
    import geojson

    if not isinstance(geometry, Mapping):
        return "a geometry must be an object"
    kind = str(geometry.get("type")).lower()
    if kind == "geometrycollection":
        faults = (geometry_fault(part) for part in geometry.get("geometries") or ())
        return next(filter(None, faults), "")
    judges = {"polygon": geojson.Polygon, "multipolygon": geojson.MultiPolygon}
    if kind not in judges:
        return ""
    judge = judges[kind]()
    judge["coordinates"] = geometry.get("coordinates") or []
    try:
        found = judge.errors()
    # Coordinates that are no list, or hold none where points should be.
    except (TypeError, KeyError, IndexError):
        return "coordinates must be lists of positions"
    if isinstance(found, list):
        found = found[0] if found else ""
    said = str(found or "")
    return said[:1].lower() + said[1:]


def fault_notes(faults: Mapping[str, Sequence[int]]) -> list[str]:
    """Faults for the user, from the numbers of the features that have each of them."""
    notes = []
    for fault, numbers in faults.items():
        listed = ", ".join(map(str, numbers[:_SHOWN]))
        more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
        word = "feature" if len(numbers) == 1 else "features"
        notes.append(f"{word} {listed}{more} read although no valid GeoJSON: {fault}")
    return notes
