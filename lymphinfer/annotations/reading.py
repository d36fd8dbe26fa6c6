"""Annotations as QuPath 0.2 to 0.7, other programs and people write them."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations.shapes import area_of
from lymphinfer.annotations.text import read_values
from lymphinfer.annotations.validity import fault_notes, geometry_fault
from lymphinfer.errors import AnnotationError

UNCLASSIFIED = "Unclassified"
TISSUE, OUT_OF_FOCUS = "Tissue", "Out of focus"
"""Classes of the annotations that LymphInfer itself writes."""
ANNOTATION = "annotation"
_OTHERS = {
    "detection": "detection",
    "cell": "cell",
    "tile": "tile",
    "tmacore": "TMA core",
    "root": "root",
}
_KIND_KEYS = ("objecttype", "type")
_CLASS_KEYS = ("classification", "class", "classname", "pathclass", "label", "group", "category")
_CHILDREN = ("childobjects", "children")


@dataclass(frozen=True, eq=False)
class Annotation:
    """One annotation with an area.

    Attributes
    ----------
    geometry : BaseGeometry
        Valid Polygon or MultiPolygon, in the file's own coordinates: px of the image in QuPath.
    class_name : str or None
        As QuPath writes it, ``Tumor: Positive`` of a derived class; None without one.
    name : str or None
        The annotation's own name.
    object_type : str
        What the file calls it; ``"annotation"`` where it says nothing.
    id : str or None
    measurements : dict of str to float
        Those that are numbers; NaN and infinities too.
    color : tuple of int, or None
        RGB 0-255 of its class; None where the file has none.
    """

    geometry: BaseGeometry
    class_name: str | None = None
    name: str | None = None
    object_type: str = ANNOTATION
    id: str | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Annotations:
    """What a file holds.

    Attributes
    ----------
    path : Path
    items : tuple of Annotation
        In the file's order, children after their parents.
    notes : tuple of str
        What was passed over or mended, for the user.
    """

    path: Path
    items: tuple[Annotation, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Annotation]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def read_annotations(path: Path) -> Annotations:
    """Read the annotations of a GeoJSON file; detections, cells, tiles and cores are none.

    Parameters
    ----------
    path : Path
        A FeatureCollection, features (one, a list, one a line) or bare geometries; see
        `lymphinfer.annotations.text.read_values` for what it may be packed in.

    Returns
    -------
    Annotations
        Maybe none; then `notes` say what there is instead.

    Raises
    ------
    AnnotationError
        The file cannot be read, is no GeoJSON, or a feature in it is damaged.
    """
    values, notes = read_values(path)
    items: list[Annotation] = []
    words: Counter[str] = Counter()
    faults: dict[str, list[int]] = {}
    for number, feature in enumerate(features_of(path, values), start=1):
        try:
            annotation = _annotation(feature, words)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError,
                shapely.errors.ShapelyError) as error:  # fmt: skip
            said = f"{type(error).__name__}: {error}"
            said = "; ".join(filter(None, [geometry_fault(feature.get("geometry")), said]))
            raise AnnotationError(
                f"{path}: feature {number} is not as QuPath writes it ({said}); export it again"
            ) from error
        if annotation is not None:
            items.append(annotation)
            fault = geometry_fault(feature["geometry"])
            if fault:
                faults.setdefault(fault, []).append(number)
    notes += [f"{word}: {count:,}" for word, count in words.items()]
    notes += fault_notes(faults)
    return Annotations(path, tuple(items), tuple(notes))


def features_of(path: Path, values: list[Any]) -> Iterator[Mapping[str, Any]]:
    """The features in values, whichever way they are wrapped, children after their parents."""
    for value in values:
        if isinstance(value, list):
            yield from features_of(path, value)
            continue
        if not isinstance(value, dict):
            raise AnnotationError(
                f"{path}: holds no features; it is JSON, but not GeoJSON (found "
                f"{type(value).__name__} where a feature is expected)"
            )
        kind = str(value.get("type", "")).lower()
        if kind == "featurecollection" or (not kind and isinstance(value.get("features"), list)):
            yield from features_of(path, value.get("features") or [])
        elif kind == "feature" or "geometry" in value:
            yield value
            found = (_entry(place, _CHILDREN) for place in (value, properties_of(value)))
            yield from features_of(
                path, [child for child in found if isinstance(child, list | dict)]
            )
        elif "coordinates" in value or "geometries" in value:
            yield {"geometry": value}
        else:
            raise AnnotationError(
                f"{path}: holds no features; it is JSON, but not GeoJSON (found the keys "
                f"{', '.join(map(str, list(value)[:5])) or 'of an empty object'}); export the "
                "annotations as GeoJSON"
            )


def _annotation(feature: Mapping[str, Any], words: Counter[str]) -> Annotation | None:
    properties = properties_of(feature)
    kind, said = kind_of(feature, properties)
    if kind != ANNOTATION:
        if kind != "root":
            words[f"{kind}s passed over, which are not annotations"] += 1
        return None
    geometry = feature.get("geometry")
    if geometry is None:
        words["objects without a geometry passed over"] += 1
        return None
    area = area_of(geometry, words)
    if area.is_empty:
        return None
    identity = feature.get("id")
    name = properties.get("name")
    return Annotation(
        area,
        class_name_of(properties),
        name if isinstance(name, str) and name.strip() else None,
        said or ANNOTATION,
        identity if isinstance(identity, str) and _known(identity) is None else None,
        measurements_of(properties.get("measurements")),
        _color(properties),
    )


def properties_of(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    """A feature's properties; empty where it has none."""
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def kind_of(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> tuple[str, str | None]:
    """What an object is, and what the file calls it; an annotation where nothing is said."""
    if feature.get("nucleusGeometry") or properties.get("nucleusGeometry"):
        return "cell", None
    for place in (properties, feature):
        for key in _KIND_KEYS:
            said = _entry(place, (key,))
            known = _known(said)
            if known is not None:
                return known, str(said)
    # QuPath up to 0.3 writes the type in place of an id.
    return _known(feature.get("id")) or ANNOTATION, None


def _known(said: Any) -> str | None:
    """Kind of object for a word such as ``detection``, ``PathCellObject``, ``TMA core``."""
    if not isinstance(said, str):
        return None
    word = re.sub(r"[^a-z]", "", said.lower())
    word = word.removeprefix("path").removesuffix("object").removesuffix("s")
    return ANNOTATION if word == ANNOTATION else _OTHERS.get(word)


def _entry(place: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Value of the first of these keys, whether written objectType, object_type or Object type."""
    keys = {re.sub(r"[^a-z]", "", str(key).lower()): key for key in reversed(list(place))}
    return next((place[keys[name]] for name in names if name in keys), None)


def class_name_of(properties: Mapping[str, Any]) -> str | None:
    """QuPath's own way to write a class: its names joined by a colon."""
    for key in _CLASS_KEYS:
        found = _entry(properties, (key,))
        value = _value(found)
        if isinstance(value, dict):
            value = value.get("names") or value.get("name")
        if isinstance(value, list):
            value = ": ".join(str(part).strip() for part in value if part)
        # A bare number is another program's index of the object.
        if isinstance(value, str) and value.strip() and not value.strip().isdecimal():
            return value.strip()
    return None


def _color(properties: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Colour of the class: three numbers, or up to QuPath 0.3 one that packs them."""
    found = _value(_entry(properties, ("classification",)))
    if not isinstance(found, dict):
        return None
    color = _entry(found, ("color",))
    packed = _entry(found, ("colorrgb",))
    if color is None and isinstance(packed, int) and not isinstance(packed, bool):
        color = [packed >> shift & 255 for shift in (16, 8, 0)]
    if not (isinstance(color, list) and len(color) == 3):
        return None
    if not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
        return None
    red, green, blue = color
    return red, green, blue


def _value(found: Any) -> Any:
    """Table programs write a nested value as its text, in JSON or as Python prints it."""
    if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(found)
            except (ValueError, SyntaxError):
                continue
    return found


def measurements_of(found: Any) -> dict[str, float]:
    """Numbers by name, out of a map or of the list of older versions."""
    value = _value(found)
    if isinstance(value, list):
        value = {row["name"]: row.get("value") for row in value
                 if isinstance(row, dict) and "name" in row}  # fmt: skip
    numbers = {}
    for name, number in value.items() if isinstance(value, dict) else ():
        try:
            numbers[str(name)] = float(number)
        except (TypeError, ValueError):
            continue
    return numbers
