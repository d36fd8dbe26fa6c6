"""The areas that are measured: annotations, classes of annotations, and bands along borders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations import UNCLASSIFIED, Annotation, read_annotations
from lymphinfer.errors import AnnotationError
from lymphinfer.regions.asking import Margin
from lymphinfer.regions.border import Border, joined
from lymphinfer.slides.outline import polygons

Kind = Literal["tissue", "class", "annotation", "band", "centre", "margin"]
WHOLE = "All tissue"


@dataclass(frozen=True, eq=False)
class Region:
    """An area that is measured.

    Attributes
    ----------
    name : str
        Unlike any other of the slide.
    kind : str
        ``tissue``, ``class``, ``annotation``, ``band``, ``centre`` or ``margin``.
    area : BaseGeometry
        Polygon or MultiPolygon, level-0 px, on the image; maybe empty.
    class_name : str or None
        Of the annotations that it comes from.
    annotation : Annotation or None
        Of an ``annotation``.
    side : str
        Of a ``band``: ``inside`` or ``outside``.
    from_um, to_um : float or None
        Distances from the border; a centre begins at ``from_um``, a margin has both sides of
        ``to_um``.
    """

    name: str
    kind: Kind
    area: BaseGeometry
    class_name: str | None = None
    annotation: Annotation | None = None
    side: str = ""
    from_um: float | None = None
    to_um: float | None = None

    @property
    def along_border(self) -> bool:
        """Whether it is made by distance from a border."""
        return self.kind in ("band", "centre", "margin")


@dataclass(frozen=True, eq=False)
class RegionMap:
    """The regions of a slide.

    Attributes
    ----------
    path : Path
        The file of annotations.
    regions : tuple of Region
        The tissue, classes, annotations, and each margin's bands, centre and margin.
    borders : dict of str to Border
        By class that has margins.
    ignored : BaseGeometry
        Annotations of classes that end with ``*``: cut out of every region.
    notes : tuple of str
        What of the file was passed over, mended or lies beyond the slide.
    """

    path: Path
    regions: tuple[Region, ...]
    borders: dict[str, Border] = field(default_factory=dict)
    ignored: BaseGeometry = field(default_factory=shapely.Polygon)
    notes: tuple[str, ...] = ()


def map_regions(
    path: Path,
    *,
    dimensions: tuple[int, int],
    mpp: float,
    offset: tuple[int, int] = (0, 0),
    margins: Sequence[Margin] = (),
) -> RegionMap:
    """Read annotations, and lay the bands along the borders of their classes.

    Parameters
    ----------
    path : Path
        As `lymphinfer.annotations.read_annotations` takes it.
    dimensions : tuple of int
        The slide's (width, height), level-0 px.
    mpp : float
        Level-0 pixel size, µm/px.
    offset : tuple of int
        Level-0 (x, y) of the corner at which QuPath's image begins: added to every point.
    margins : sequence of Margin

    Returns
    -------
    RegionMap

    Raises
    ------
    AnnotationError
        The file cannot be read, no annotation in it lies on the slide, or a margin's class is not
        in it.
    """
    image = shapely.box(0, 0, *dimensions)
    found = read_annotations(path)
    notes = list(found.notes)
    items = [(item, _moved(item.geometry, offset)) for item in found]
    counts = Counter(item.class_name or UNCLASSIFIED for item, _ in items)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    drawn = [(item, polygons(shapely.intersection(shape, image))) for item, shape in items]
    placed = [(item, shape) for item, shape in drawn if not shape.is_empty]
    kept = [(item, shape) for item, shape in placed if not _is_ignored(item)]
    if not kept:
        said = listed or "; ".join(notes) or "none with an area"
        raise AnnotationError(
            f"{path}: no annotation to measure on the slide of {dimensions[0]} x {dimensions[1]} "
            f"px ({said}); export the annotations of this image from QuPath"
        )
    if len(placed) < len(items):
        notes.append(f"{len(items) - len(placed)} annotations lie beyond the slide")
    ignored = shapely.union_all([shape for item, shape in placed if _is_ignored(item)])
    classes: dict[str, list[BaseGeometry]] = {}
    for item, shape in kept:
        classes.setdefault(item.class_name or UNCLASSIFIED, []).append(shape)
    wanted = {margin.class_name: _class_of(path, margin, classes, listed) for margin in margins}

    def cut(area: BaseGeometry) -> BaseGeometry:
        left = shapely.difference(area, ignored) if not ignored.is_empty else area
        return polygons(shapely.intersection(left, image))

    regions = [Region(WHOLE, "tissue", cut(image))]
    regions += [
        Region(name, "class", cut(shapely.union_all(shapes)), name)
        for name, shapes in classes.items()
    ]
    regions += _annotations([(item, cut(shape)) for item, shape in kept], {r.name for r in regions})
    borders = {}
    for margin in margins:
        name = wanted[margin.class_name]
        whole = polygons(shapely.intersection(joined(classes[name], mpp), image))
        borders[name] = Border(whole, dimensions, mpp)
        regions += [
            Region(part.name, part.kind, cut(part.area), name, None, part.side, part.from_um,
                   part.to_um)
            for part in _bands(name, margin, borders[name])
        ]  # fmt: skip
    return RegionMap(path, tuple(regions), borders, ignored, tuple(notes))


def _is_ignored(item: Annotation) -> bool:
    return (item.class_name or "").endswith("*")


def _moved(shape: BaseGeometry, offset: tuple[int, int]) -> BaseGeometry:
    return shapely.transform(shape, lambda points: points + np.asarray(offset, np.float64))


def _class_of(
    path: Path, margin: Margin, classes: dict[str, list[BaseGeometry]], listed: str
) -> str:
    """The file's own spelling of a margin's class."""
    for name in classes:
        if name.casefold() == margin.class_name.casefold():
            return name
    raise AnnotationError(
        f"{path}: no annotation of class {margin.class_name} for --margin; it has {listed}"
    )


def _annotations(placed: list[tuple[Annotation, BaseGeometry]], taken: set[str]) -> list[Region]:
    """A region an annotation, under its own name where it has one, else its class and a number."""
    regions = []
    numbers: Counter[str] = Counter()
    for item, shape in placed:
        start = item.name or item.class_name or UNCLASSIFIED
        name = item.name or ""
        while not name or name in taken:
            numbers[start] += 1
            name = f"{start} {numbers[start]}"
        taken.add(name)
        regions.append(Region(name, "annotation", shape, item.class_name or UNCLASSIFIED, item))
    return regions


def _bands(name: str, margin: Margin, border: Border) -> list[Region]:
    """Bands from the border outwards, inside first; then the centre and the invasive margin."""
    widest = margin.edges_um[-1]
    within = {edge: border.within(edge) for edge in (0.0, *margin.edges_um)}
    found = []
    for low, high in margin.bands_um:
        ring = shapely.difference(within[high], within[low])
        for side, area in (
            ("inside", shapely.intersection(ring, border.area)),
            ("outside", shapely.difference(ring, border.area)),
        ):
            label = f"{name}, {low:g}-{high:g} µm {side}"
            found.append(Region(label, "band", area, name, None, side, low, high))
    centre = shapely.difference(border.area, within[widest])
    found.append(Region(f"{name} centre", "centre", centre, name, None, "inside", widest, None))
    label = f"{name} invasive margin, {widest:g} µm"
    found.append(Region(label, "margin", within[widest], name, None, "", 0.0, widest))
    return found
