"""Nuclei that people have named: points, small outlines, and detections with another class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lymphinfer.annotations.outlines import MOST_UM2
from lymphinfer.annotations.reading import (
    ANNOTATION,
    class_name_of,
    features_of,
    kind_of,
    measurements_of,
    properties_of,
)
from lymphinfer.annotations.text import read_values
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.errors import AnnotationError
from lymphinfer.markers.hierarchy import call_phenotypes
from lymphinfer.panel import OTHER
from lymphinfer.teaching.naming import ClassNames, listed


@dataclass(frozen=True, eq=False)
class Mark:
    """A named nucleus of a slide.

    Attributes
    ----------
    point : ndarray of float64, (2,)
        In it, level-0 px.
    ring : ndarray of float64, (V, 2), or None
        Its outline, level-0 px; None for a point.
    call : str
        What its class says, see `ClassNames.call`.
    """

    point: NDArray[np.float64]
    ring: NDArray[np.float64] | None
    call: str


@dataclass(frozen=True)
class Marked:
    """The named nuclei of a slide.

    Attributes
    ----------
    path : Path
        The file of annotations.
    marks : tuple of Mark
    notes : tuple of str
        What was passed over, for the user.
    """

    path: Path
    marks: tuple[Mark, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    shape: NDArray[np.float64]
    is_point: bool
    name: str | None
    kind: str
    measurements: dict[str, float]


def read_marked(
    path: Path,
    names: ClassNames,
    manifest: BundleManifest,
    *,
    dimensions: tuple[int, int],
    mpp: float,
    offset: tuple[int, int] = (0, 0),
    unchanged: bool = False,
) -> Marked:
    """Read the named nuclei of a slide.

    Parameters
    ----------
    path : Path
        GeoJSON: annotations of points or of outlines no larger than a nucleus, detections, cells.
    names : ClassNames
    manifest : BundleManifest
        Of the bundle that is taught: a detection with its measurements whose class is still what
        it calls says nothing that a person has said.
    dimensions : tuple of int
        The slide's (width, height), level-0 px.
    mpp : float
        Level-0 pixel size, µm/px.
    offset : tuple of int
        Level-0 (x, y) of the corner at which QuPath's image begins: added to every point.
    unchanged : bool
        Take those detections too.

    Returns
    -------
    Marked

    Raises
    ------
    AnnotationError
        The file cannot be read, or names no nucleus.
    """
    values, notes = read_values(path)
    words: Counter[str] = Counter()
    found: list[_Found] = []
    for number, feature in enumerate(features_of(path, values), 1):
        try:
            found += _found(feature, words)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise AnnotationError(
                f"{path}: feature {number} is not as QuPath writes it ({type(error).__name__}: "
                f"{error}); export it again"
            ) from error
    marks, silent = [], []
    for row in found:
        call = names.call(row.name)
        moved = row.shape + np.asarray(offset, np.float64)
        center = moved.mean(axis=0) if row.is_point else _centroid(moved)
        if call is None:
            silent.append(row.name)
        elif not row.is_point and _area(row.shape) * mpp**2 > MOST_UM2:
            words["annotations larger than a nucleus passed over: mark nuclei, by points say"] += 1
        elif not unchanged and _is_as_called(row, call, manifest):
            words["detections passed over whose class is still the model's own call"] += 1
        elif not ((center >= 0) & (center <= np.array(dimensions))).all():
            words["nuclei beyond the slide passed over"] += 1
        else:
            marks.append(Mark(center, None if row.is_point else moved, call))
    if silent:
        notes.append(f"passed over, for their class says nothing of a marker: {listed(silent)}")
    notes += [f"{word}: {count:,}" for word, count in words.items()]
    if not marks:
        said = f" ({'; '.join(notes)})" if notes else ""
        raise AnnotationError(
            f"{path}: no named nucleus on the slide of {dimensions[0]} x {dimensions[1]} px{said}; "
            f"give nuclei classes such as {manifest.panel.names[0]} and {OTHER} in QuPath, or say "
            "with --as what yours mean"
        )
    return Marked(path, tuple(marks), tuple(notes))


def _found(feature: Mapping[str, Any], words: Counter[str]) -> Iterator[_Found]:
    properties = properties_of(feature)
    kind = kind_of(feature, properties)[0]
    if kind not in (ANNOTATION, "detection", "cell"):
        words[f"{kind}s passed over"] += kind != "root"
        return
    nucleus = feature.get("nucleusGeometry") or properties.get("nucleusGeometry")
    geometry = nucleus or feature.get("geometry")
    if geometry is None:
        words["objects without a geometry passed over"] += 1
        return
    name = class_name_of(properties)
    measured = measurements_of(properties.get("measurements"))
    shape, is_point = str(geometry["type"]).lower(), False
    coordinates = geometry["coordinates"] or []
    if shape in ("point", "multipoint"):
        rings = [[p] for p in ([coordinates] if shape == "point" else coordinates)]
        is_point = True
    elif shape in ("polygon", "multipolygon"):
        polygons = [coordinates] if shape == "polygon" else coordinates
        rings = [polygon[0] for polygon in polygons if polygon]
    else:
        words["lines passed over"] += 1
        return
    for ring in rings:
        points = np.array([p[:2] for p in ring], np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a coordinate that is no finite number")
        if is_point or len(points) >= 3:
            yield _Found(points, is_point, name, kind, measured)


def _is_as_called(row: _Found, call: str, manifest: BundleManifest) -> bool:
    """Whether a detection with the model's measurements has the class that the model gave it."""
    panel = manifest.panel
    measured = [row.measurements.get(marker.measurement) for marker in panel.markers]
    if row.kind == ANNOTATION or any(value is None for value in measured):
        return False
    from_ = manifest.calls_at()
    own = call_phenotypes(
        np.array([measured], np.float32),
        panel,
        [1.0 if at is None else at.threshold for at in from_],
        callable_markers=[at is not None for at in from_],
    )
    return bool(panel.calls[int(own[0])] == call)


def _area(ring: NDArray[np.float64]) -> float:
    return float(shapely.Polygon(ring).area)


def _centroid(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    center: NDArray[np.float64] = shapely.get_coordinates(shapely.centroid(shapely.Polygon(ring)))[
        0
    ]
    return center
