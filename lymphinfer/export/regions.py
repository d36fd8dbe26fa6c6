"""Views of a slide's regions: annotations for QuPath, and rows for tables."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations import UNCLASSIFIED
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import REGIONS
from lymphinfer.cells.regions import is_stale, read_record
from lymphinfer.errors import ResultError
from lymphinfer.export.qupath_areas import (
    Color,
    annotation,
    is_uuid,
    qupath_shape,
    validate_annotations,
)
from lymphinfer.export.results import Result
from lymphinfer.textfiles import json_bytes, shown

SUFFIX = ".regions.geojson"
INSIDE: tuple[Color, ...] = ((0, 90, 160), (60, 140, 200), (130, 185, 225), (190, 215, 235))
OUTSIDE: tuple[Color, ...] = ((180, 80, 0), (220, 130, 40), (240, 180, 110), (250, 220, 180))
CENTRE: Color = (70, 30, 110)
DRAWN: Color = (200, 0, 0)
STALE_REGIONS = "measured on other nuclei than are there now; run lymphinfer regions again"
AGGREGATE, HOT_SPOT = "Aggregate", "Hot spot"
_AGGREGATE_COLOR, _HOT_COLOR = (0, 158, 115), (220, 50, 47)
_NAMESPACE = uuid.UUID("7a2b4b6c-4d0e-5d5a-8a53-0f6c4a3f9a41")


def record_of(result: Result) -> dict[str, Any] | None:
    """Record of a result's regions, if it was measured on the nuclei that are there now.

    Raises
    ------
    ResultError
        It is damaged.
    """
    return read_record(result.folder, result.summary["arguments"].get("fingerprint"))


def has_stale_regions(result: Result) -> bool:
    """Whether a result's regions were measured on other nuclei than are there now.

    Raises
    ------
    ResultError
        Their record is damaged.
    """
    return is_stale(result.folder, result.summary["arguments"].get("fingerprint"))


def write_regions_geojson(path: Path, result: Result, offset_level0: tuple[float, float]) -> Path:
    """Write a slide's regions as one GeoJSON file to drop on the open image in QuPath.

    The annotations keep their ids, names and classes; a band is an annotation whose class is called
    as the band is. All have measurements. Aggregates and hot spots are annotations, too.

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
        No regions were measured, QuPath would refuse one, or the file cannot be written.
    """
    record = record_of(result)
    if record is None:
        raise ResultError(
            f"{result.folder}: no {REGIONS} of these nuclei; measure the regions first: "
            "lymphinfer regions RESULT --annotations FILE"
        )
    features = list(_features(record, offset_level0))
    validate_annotations(features)
    # A class that is read before its parent gives the parent a made-up colour.
    features.sort(key=_depth)
    content = {
        "type": "FeatureCollection",
        "lymphinfer": result.provenance
        | {name: record[name] for name in ("annotations", "options", "intervals", "warnings")},
        "features": features,
    }
    with atomic_write(path) as file:
        file.write(json_bytes(content, default=str))
    return path


def _features(record: Mapping[str, Any], offset: tuple[float, float]) -> Iterator[dict[str, Any]]:
    slide = str(record["slide"]["identity"])
    taken: set[str] = set()

    def made(
        shape: Any, name: str, classes: Sequence[str], color: Color, numbers: dict[str, Any],
        identity: str | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        area = qupath_shape(_area(shape), offset)
        if identity is None or not is_uuid(identity) or identity in taken:
            wkb = shapely.to_wkb(area, hex=True)
            identity = str(uuid.uuid5(_NAMESPACE, f"{slide} {name} {wkb}"))
        taken.add(identity)
        feature = annotation(
            area, identity=identity, name=name, class_names=classes, color=color,
            measurements=numbers,
        )  # fmt: skip
        if feature is not None:
            yield feature

    for row in record["rows"]:
        if row["kind"] in ("tissue", "class"):
            continue
        if row["kind"] == "annotation":
            own = row["class"] if row["class"] != UNCLASSIFIED else None
            classes = [part.strip() for part in (own or "").split(":") if part.strip()]
            name = row["name"] or ""
        else:
            name = row["region"]
            classes = [" ".join(name.replace(":", " ").split())]
        numbers = measurements(row)
        yield from made(row["geometry"], name, classes, row_color(record, row), numbers, row["id"])
    for found in record["aggregates"]["largest"]:
        numbers = {"Nuclei": found["nuclei"], "Hull um^2": found["hull_um2"]}
        name = f"{AGGREGATE} {found['number']}"
        yield from made(found["geometry"], name, [AGGREGATE], _AGGREGATE_COLOR, numbers)
    marker = record["hot_spots"]["of"]
    for i, spot in enumerate(record["hot_spots"]["spots"], 1):
        numbers = {"Gi* z": spot["z"], "Tissue mm^2": spot["tissue_mm2"],
                   f"{marker} expected per mm^2": spot["expected_per_mm2"]}  # fmt: skip
        yield from made(spot["geometry"], f"{HOT_SPOT} {i}", [HOT_SPOT], _HOT_COLOR, numbers)


def measurements(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers of a region as QuPath shows them; the evidence stands in the name."""
    found = {
        "Area mm^2": row["area_mm2"],
        "Tissue mm^2": row["tissue_mm2"],
        "Nuclei": row["nuclei"],
        "Nuclei per mm^2": row["nuclei_per_mm2"],
    }
    for name, values in row["markers"].items():
        word = values["evidence"]
        low, high = values["expected_per_mm2_blocks"] or (None, None)
        found |= {
            f"{name} called ({word})": values["called"],
            f"{name} expected ({word})": values["expected"],
            f"{name} expected per mm^2 ({word})": values["expected_per_mm2"],
            f"{name} expected per mm^2, low": low,
            f"{name} expected per mm^2, high": high,
        }
    for ratio in row["ratios"]:
        found[f"{ratio['child']} to {ratio['parent']}, expected"] = ratio.get("expected")
    return found


def row_color(record: Mapping[str, Any], row: Mapping[str, Any]) -> Color:
    """Colour of a region: its class's own, or its band's."""
    if row["kind"] == "centre":
        return CENTRE
    if row["kind"] != "band":
        red, green, blue = row["color"] or DRAWN
        return int(red), int(green), int(blue)
    order = [
        other["from_um"]
        for other in record["rows"]
        if (other["kind"], other["class"], other["side"]) == ("band", row["class"], row["side"])
    ]
    shades = INSIDE if row["side"] == "inside" else OUTSIDE
    return shades[min(order.index(row["from_um"]), len(shades) - 1)]


def brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` says of regions: classes, bands, centres and margins, without outlines.

    Parameters
    ----------
    record : mapping
        Content of ``regions.json``.
    """
    numbers = ("called", "expected", "expected_per_mm2", "expected_per_mm2_blocks", "evidence")
    rows = [
        {name: row[name] for name in ("region", "kind", "class", "tissue_mm2", "nuclei")}
        | {"markers": {marker: {name: values[name] for name in numbers}
                       for marker, values in row["markers"].items()}}
        for row in record["rows"]
        if row["kind"] != "annotation"
    ]  # fmt: skip
    return {**record["annotations"], "margins": record["options"]["margins"], "rows": rows}


def flat_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a region, for tables: every number with its unit in its name, and the evidence."""
    return [_flat(record, row) for row in record["rows"]]


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows of one or several slides; a column that some lack is empty there.

    Raises
    ------
    ResultError
        The file cannot be written.
    """
    found = list(rows)
    names = list(dict.fromkeys(name for row in found for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
    return path


def _flat(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    plain = ("region", "kind", "class", "name", "id", "side", "from_um", "to_um", "area_mm2",
             "tissue_mm2", "nuclei", "nuclei_off_tissue", "nuclei_per_mm2")  # fmt: skip
    flat: dict[str, Any] = {"slide": shown(str(record["slide"]["name"]))}
    flat |= {name: row[name] for name in plain}
    for name, values in row["markers"].items():
        for key, value in values.items():
            if isinstance(value, list) or key.endswith(("_cells", "_blocks")):
                low, high = value or (None, None)
                flat |= {f"{name} {key}_low": low, f"{name} {key}_high": high}
            else:
                flat[f"{name} {key}"] = value
    for ratio in row["ratios"]:
        start = f"{ratio['child']} to {ratio['parent']}"
        low, high = ratio.get("expected_blocks") or (None, None)
        flat |= {f"{start} expected": ratio.get("expected"), f"{start} low": low,
                 f"{start} high": high, f"{start} called": ratio.get("called")}  # fmt: skip
    distance = row["distance_um"] or {}
    for name in ("nuclei", *record["marker_names"]):
        values = distance.get(name, {})
        flat[f"{name} median_distance_um"] = values.get("median")
        if name != "nuclei":
            flat[f"{name} nearest_called_um"] = values.get("nearest_called")
    around = row["neighbours"] or {}
    flat |= {"neighbours_around_all": around.get("around_all"),
             "neighbours_around_called": around.get("around_called"),
             "aggregates": row["aggregates"]}  # fmt: skip
    return flat


def _depth(feature: Mapping[str, Any]) -> int:
    named = feature["properties"].get("classification", {})
    return len(named.get("names", ())) or int(bool(named))


def _area(shape: Mapping[str, Any]) -> BaseGeometry:
    return shapely.from_geojson(json.dumps(shape))
