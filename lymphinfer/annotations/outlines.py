"""Outlines of nuclei as other programs find them: QuPath, CellViT, HoVer-Net, Space Ranger."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.annotations.reading import (
    ANNOTATION,
    class_name_of,
    features_of,
    kind_of,
    measurements_of,
    properties_of,
)
from lymphinfer.annotations.text import read_values
from lymphinfer.errors import AnnotationError

PROBABILITY = "Detection probability"
LEAST_UM2, MOST_UM2 = 12.0, 500.0
"""Areas of nuclei: a lymphocyte's has some 38 µm², a large tumour cell's 200."""
_NUCLEI = ("detection", "cell")
_NUMBERS = ("cell_id", "id", "label")
_CONTOUR_LISTS = ("cells", "nuc")


@dataclass(frozen=True, eq=False)
class Outline:
    """One nucleus.

    Attributes
    ----------
    ring : ndarray of float64, (V, 2)
        Its outer vertices (x, y), open, in the file's own frame.
    id : uuid.UUID or None
        Its id, where that is a UUID, as QuPath writes it.
    number : int or None
        Its id, where that is a whole number, as Space Ranger writes it.
    class_name : str or None
    measurements : dict of str to float
    """

    ring: NDArray[np.float64]
    id: uuid.UUID | None = None
    number: int | None = None
    class_name: str | None = None
    measurements: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outlines:
    """The nuclei of a file.

    Attributes
    ----------
    path : Path
    items : tuple of Outline
        In the file's order; at least one.
    notes : tuple of str
        What was passed over, for the user.
    """

    path: Path
    items: tuple[Outline, ...]
    notes: tuple[str, ...] = ()


def read_outlines(path: Path) -> Outlines:
    """Read the nuclei of a file.

    Of QuPath's GeoJSON (a collection or a bare list) these are the detections and the nuclei of
    the cells; annotations beside them are passed over. In a file without either, every polygon is
    a nucleus (Space Ranger), and every part of a multipolygon (CellViT writes one a class). The
    lists of contours of CellViT (``cells``) and HoVer-Net (``nuc``) are read too.

    Parameters
    ----------
    path : Path
        Packed as `lymphinfer.annotations.text.read_values` takes it.

    Returns
    -------
    Outlines

    Raises
    ------
    AnnotationError
        The file cannot be read, is damaged, holds no nucleus, or one without an outline.
    """
    values, notes = read_values(path)
    words: Counter[str] = Counter()
    contours = _contours(values)
    if contours is not None:
        items = [_read(path, i, _of_contour, row, words) for i, row in enumerate(contours, 1)]
    else:
        features = list(features_of(path, values))
        kinds = [kind_of(feature, properties_of(feature))[0] for feature in features]
        found = any(kind in _NUCLEI for kind in kinds)
        wanted = _NUCLEI if found else (ANNOTATION,)
        for kind, count in Counter(kinds).items():
            if kind not in wanted and kind != "root":
                words[f"{kind}s passed over, which are not nuclei"] += count
        items = [
            _read(path, i, _of_feature, (feature, found), words)
            for i, (feature, kind) in enumerate(zip(features, kinds, strict=True), 1)
            if kind in wanted
        ]
    nuclei = tuple(nucleus for row in items for nucleus in row)
    notes += [f"{word}: {count:,}" for word, count in words.items()]
    if not nuclei:
        said = f" ({'; '.join(notes)})" if notes else ""
        raise AnnotationError(
            f"{path}: no nuclei in it{said}; in QuPath select the detections or cells, then "
            "File > Export objects as GeoJSON"
        )
    return Outlines(path, nuclei, tuple(notes))


def _contours(values: list[Any]) -> list[Any] | None:
    """Rows of a list of contours, by HoVer-Net's keys or in CellViT's order."""
    if len(values) != 1 or not isinstance(values[0], dict):
        return None
    for key in _CONTOUR_LISTS:
        rows = values[0].get(key)
        if isinstance(rows, dict):
            return [{"id": name, **row} for name, row in rows.items()]
        if isinstance(rows, list):
            return rows
    return None


def _read(path: Path, number: int, how: Any, row: Any, words: Counter[str]) -> list[Outline]:
    try:
        return list(how(row, words))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"{path}: nucleus {number} cannot be read ({type(error).__name__}: {error}); nuclei "
            "need an outline each, a Polygon: export them again"
        ) from error


def _of_contour(row: Mapping[str, Any], words: Counter[str]) -> Iterator[Outline]:
    ring = _ring(row["contour"])
    if ring is None:
        words["outlines without an area passed over"] += 1
        return
    said = row.get("type_prob", row.get("prob"))
    measured = {} if said is None else {"Type probability": float(said)}
    yield Outline(ring, None, _number(row.get("id")), None, measured)


def _of_feature(row: tuple[Mapping[str, Any], bool], words: Counter[str]) -> Iterator[Outline]:
    feature, one_each = row
    properties = properties_of(feature)
    nucleus = feature.get("nucleusGeometry") or properties.get("nucleusGeometry")
    geometry = nucleus or feature.get("geometry")
    if geometry is None:
        words["objects without a geometry passed over"] += 1
        return
    kind = str(geometry["type"]).lower()
    if kind not in ("polygon", "multipolygon"):
        raise ValueError(f"a {geometry['type']} has no outline")
    polygons = geometry["coordinates"] or []
    if kind == "polygon":
        polygons = [polygons] if polygons else []
    elif not one_each and len(polygons) > 1:
        for polygon in polygons:
            yield from _outlines(polygon, (None, None), properties, {}, words)
        return
    if len(polygons) > 1:
        words["nuclei of several parts, of which the largest was read"] += 1
        polygons = [max(polygons, key=_extent)]
    if not polygons:
        words["outlines without an area passed over"] += 1
        return
    measured = measurements_of(properties.get("measurements"))
    yield from _outlines(polygons[0], _identity(feature, properties), properties, measured, words)


def _outlines(
    polygon: Any,
    identity: tuple[uuid.UUID | None, int | None],
    properties: Mapping[str, Any],
    measured: dict[str, float],
    words: Counter[str],
) -> Iterator[Outline]:
    ring = _ring(polygon[0])
    if ring is None:
        words["outlines without an area passed over"] += 1
        return
    if len(polygon) > 1:
        words["nuclei with holes, of which the outer line was read"] += 1
    yield Outline(ring, *identity, class_name_of(properties), measured)


def _extent(polygon: Any) -> float:
    return float(np.prod(np.ptp(np.array([p[:2] for p in polygon[0]], np.float64), axis=0)))


def _ring(points: Any) -> NDArray[np.float64] | None:
    """Open ring of finite vertices; None of fewer than three."""
    ring = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate that is no finite number")
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    return ring if len(ring) >= 3 else None


def _identity(
    feature: Mapping[str, Any], properties: Mapping[str, Any]
) -> tuple[uuid.UUID | None, int | None]:
    said = feature.get("id")
    if isinstance(said, str):
        try:
            return uuid.UUID(said), None
        except ValueError:
            pass
    for value in (said, *(properties.get(name) for name in _NUMBERS)):
        number = _number(value)
        if number is not None:
            return None, number
    return None, None


def _number(said: Any) -> int | None:
    if isinstance(said, bool):
        return None
    if isinstance(said, int):
        return said
    return int(said) if isinstance(said, str) and said.isdecimal() else None
