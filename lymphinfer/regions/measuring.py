"""Measure the regions of a finished slide."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.cells.areas import read_areas
from lymphinfer.export.results import Result
from lymphinfer.regions.aggregates import Aggregate, aggregates, neighbours
from lymphinfer.regions.areas import Region, RegionMap, map_regions
from lymphinfer.regions.asking import RegionOptions
from lymphinfer.regions.counting import Scene, count_region, rounded
from lymphinfer.regions.grid import Grid
from lymphinfer.regions.hotspots import hot_spots
from lymphinfer.regions.intervals import BLOCKS, CELLS
from lymphinfer.regions.nuclei import Nuclei, read_nuclei
from lymphinfer.slides.outline import polygons
from lymphinfer.textfiles import shown
from lymphinfer.version import __version__

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_LISTED = 200
_TOLD_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Measured:
    """What `measure_regions` has found.

    Attributes
    ----------
    record : dict
        Content of ``regions.json``.
    nuclei : pyarrow.Table
        Content of ``regions.parquet``: ``id``, ``region`` (class of the smallest annotation around
        the nucleus), ``neighbours``, ``aggregate``, and for each class with margins
        ``distance_um: <class>`` (negative inside) and ``band: <class>``.
    """

    record: dict[str, Any]
    nuclei: pa.Table


def measure_regions(
    result: Result, annotations: Path, options: RegionOptions | None = None
) -> Measured:
    """Measure the regions of a finished slide.

    Nuclei count for a region if their centroid lies in it and on tissue. Memory holds some 100
    bytes a nucleus.

    Parameters
    ----------
    result : Result
    annotations : Path
        File of annotations in QuPath's frame of the slide.
    options : RegionOptions, optional

    Returns
    -------
    Measured

    Raises
    ------
    AnnotationError
        The annotations cannot be used.
    ResultError
        The parts cannot be read.
    """
    options = options or RegionOptions()
    found = map_regions(
        annotations,
        dimensions=result.dimensions,
        mpp=result.mpp,
        offset=result.qupath_offset,
        margins=options.margins,
    )
    return _Measurement(result, found, options).measured()


class _Measurement:
    def __init__(self, result: Result, found: RegionMap, options: RegionOptions):
        self.result, self.map, self.options = result, found, options
        self.warnings: list[str] = [f"{shown(found.path.name)}: {note}." for note in found.notes]
        self.nuclei: Nuclei = read_nuclei(result)
        self.tissue = self._tissue()
        self.root = result.panel.names[0]
        self.on_tissue = self._within(self.tissue)
        self.free = ~self._within(found.ignored)
        x, y, mpp = self.nuclei.x, self.nuclei.y, result.mpp
        self.distances = {name: b.distances_um(x, y) for name, b in found.borders.items()}
        blocks = Grid.over(result.dimensions, options.block_um / mpp)
        self.scene = Scene(result, self.nuclei, blocks, blocks.places(x, y))
        self.positive = self.nuclei.positive(self.root)
        self.around = neighbours(x, y, self.positive, options.radius_um / mpp)
        self.aggregate, self.aggregates = aggregates(
            x, y, self.positive & self.on_tissue, reach=options.aggregate_um / mpp,
            least=options.aggregate_least,
        )  # fmt: skip

    def measured(self) -> Measured:
        result, options = self.result, self.options
        rows, region = [], np.full(len(self.nuclei), -1, np.int32)
        smallest = np.full(len(self.nuclei), np.inf)
        classes: list[str] = []
        for each in self.map.regions:
            inside = self._members(each)
            if each.kind == "annotation":
                name = str(each.class_name)
                classes += [] if name in classes else [name]
                better = inside & (each.area.area < smallest)
                region[better], smallest[better] = classes.index(name), each.area.area
            rows.append(self._row(each, inside))
        record = {
            "software": f"lymphinfer {__version__}",
            "slide": {key: result.summary["slide"].get(key) for key in ("name", "identity")},
            "fingerprint": result.summary["arguments"].get("fingerprint"),
            "annotations": {"file": shown(self.map.path.name), "count": self._count()},
            "frame": "level-0 px of the slide file",
            "options": options.to_dict(),
            "marker_names": list(result.panel.names),
            "evidence": result.evidence,
            "operating_point": result.operating_point.get("statement"),
            "intervals": {"level": 0.95, "cells": CELLS, "blocks": BLOCKS,
                          "block_um": options.block_um},
            "rows": rows,
            "aggregates": self._aggregates(),
            "hot_spots": self._hot_spots(),
            "warnings": self._warnings(rows),
        }  # fmt: skip
        text = json.dumps(record, default=str, sort_keys=True)
        record["mark"] = hashlib.sha256(text.encode()).hexdigest()
        return Measured(record, self._table(region, classes))

    def _tissue(self) -> BaseGeometry:
        areas = read_areas(self.result.folder)
        if areas is not None:
            return areas.tissue
        self.warnings.append(
            "The results keep no outline of the tissue: densities are per mm² of the region. "
            "lymphinfer predict --redo finds it."
        )
        return shapely.box(0, 0, *self.result.dimensions)

    def _within(self, area: BaseGeometry) -> Mask:
        """Which nuclei lie in an area; a box first, since most lie in none."""
        x, y = self.nuclei.x, self.nuclei.y
        inside = np.zeros(len(x), bool)
        if area.is_empty:
            return inside
        x0, y0, x1, y1 = area.bounds
        rows = np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
        shapely.prepare(area)
        inside[rows] = shapely.contains_xy(area, x[rows], y[rows])
        return inside

    def _members(self, region: Region) -> Mask:
        """Nuclei of a region; along a border by their distance, which no polygon rounds."""
        if region.kind == "tissue":
            return self.free
        if region.kind in ("class", "annotation"):
            return self._within(region.area)
        signed = self.distances[str(region.class_name)]
        far = np.abs(signed)
        low, high = region.from_um or 0.0, np.inf if region.to_um is None else region.to_um
        members = self.free & (far >= low) & (far < high)
        if region.side:
            members &= (signed < 0) == (region.side == "inside")
        return np.asarray(members)

    def _row(self, region: Region, inside: Mask) -> dict[str, Any]:
        scale = self.result.mpp**2 / 1e6
        tissue = polygons(shapely.intersection(region.area, self.tissue))
        counted = inside & self.on_tissue
        annotation = region.annotation
        return {
            "region": shown(region.name),
            "kind": region.kind,
            "class": region.class_name,
            "name": None if annotation is None else annotation.name,
            "id": None if annotation is None else annotation.id,
            "color": None
            if annotation is None or annotation.color is None
            else list(annotation.color),
            "side": region.side or None,
            "from_um": region.from_um,
            "to_um": region.to_um,
            "area_mm2": rounded(region.area.area * scale),
            "tissue_mm2": rounded(tissue.area * scale),
            "nuclei_off_tissue": int((inside & ~self.on_tissue).sum()),
            **count_region(
                self.scene, counted, tissue.area * scale, self.scene.blocks.shares(tissue)
            ),
            "distance_um": self._distance(region, counted),
            "neighbours": self._neighbours(counted),
            "aggregates": sum(shapely.contains_xy(region.area, a.x, a.y) for a in self.aggregates),
            # What is drawn by us ends at the tissue; what a person drew stays as it is.
            "geometry": geometry(tissue if region.along_border else region.area),
        }

    def _distance(self, region: Region, inside: Mask) -> dict[str, Any] | None:
        """How far the nuclei of a region lie from its class's border, by marker."""
        if region.class_name not in self.distances or not inside.any():
            return None
        values = self.distances[region.class_name][inside]
        if not np.isfinite(values).all():
            return None
        found: dict[str, Any] = {"nuclei": _quantiles(values, np.ones(len(values)))}
        order = np.argsort(values)
        for i, name in enumerate(self.result.panel.names):
            p = np.nan_to_num(self.nuclei.probabilities[inside, i].astype(np.float64))
            found[name] = _quantiles(values[order], p[order], True)
            called = self.nuclei.positive(name)[inside]
            if self.result.is_called(name) and called.any():
                found[name]["nearest_called"] = round(float(np.abs(values[called]).min()), 2)
        return found

    def _neighbours(self, inside: Mask) -> dict[str, Any] | None:
        """Mean number of called neighbours, around all nuclei and around the called ones."""
        if not self.result.is_called(self.root) or not inside.any():
            return None
        called = inside & self.positive
        return {
            "of": self.root,
            "radius_um": self.options.radius_um,
            "around_all": rounded(float(self.around[inside].mean())),
            "around_called": rounded(float(self.around[called].mean())) if called.any() else None,
        }

    def _aggregates(self) -> dict[str, Any]:
        options, scale = self.options, self.result.mpp**2
        made = {
            "method": f"DBSCAN of called {self.root}: within {options.aggregate_um:g} µm, at least "
            f"{options.aggregate_least}",
            "count": len(self.aggregates),
            "nuclei": sum(a.nuclei for a in self.aggregates),
        }
        if not self.result.is_called(self.root):
            return made | {"refused": f"{self.root} is never called", "largest": []}

        def listed(number: int, found: Aggregate) -> dict[str, Any]:
            return {
                "number": number, "nuclei": found.nuclei, "x": round(found.x, 2),
                "y": round(found.y, 2), "hull_um2": rounded(found.hull.area * scale),
                "geometry": geometry(polygons(found.hull)),
            }  # fmt: skip

        largest = self.aggregates[:MOST_LISTED]
        return made | {"largest": [listed(i, a) for i, a in enumerate(largest, 1)]}

    def _hot_spots(self) -> dict[str, Any]:
        mpp = self.result.mpp
        grid = Grid.over(self.result.dimensions, self.options.grid_um / mpp)
        used = self.on_tissue & self.free
        p = np.nan_to_num(self.nuclei.probabilities[used, 0].astype(np.float64))
        sums = grid.sums(grid.places(self.nuclei.x[used], self.nuclei.y[used]), p)
        tissue = shapely.difference(self.tissue, self.map.ignored)
        found = hot_spots(sums, grid.shares(polygons(tissue)), grid, mpp)
        spots = [
            {key: geometry(value) if key == "geometry" else
             (rounded(value) if isinstance(value, float) else value)
             for key, value in spot.items()}
            for spot in found["spots"]
        ]  # fmt: skip
        head = {"of": self.root, "evidence": self.result.word(self.root),
                "square_um": self.options.grid_um}  # fmt: skip
        return head | found | {"spots": spots}

    def _warnings(self, rows: list[dict[str, Any]]) -> list[str]:
        warnings = list(self.warnings)
        off = [row for row in rows if row["kind"] in ("class", "annotation")
               and row["nuclei_off_tissue"] > _TOLD_SHARE * (row["nuclei"] or 1)]  # fmt: skip
        warnings += [
            f"{row['region']}: {row['nuclei_off_tissue']:,} of its nuclei lie outside of the "
            "tissue that was found or analysed, and are not counted. If it is tissue, draw it in "
            "QuPath and predict with --tissue."
            for row in off
        ]
        for name in self.result.panel.names:
            if not self.result.is_learned(name):
                warnings.append(
                    f"{name}: {self.result.word(name)}, nothing was learned for it; its numbers "
                    "repeat its parent's, times a rate."
                )
            elif not self.result.is_called(name):
                warnings.append(f"{name}: only expected, never called.")
        return warnings

    def _count(self) -> int:
        return sum(region.kind == "annotation" for region in self.map.regions)

    def _table(self, region: NDArray[np.int32], classes: list[str]) -> pa.Table:
        n = len(self.nuclei)
        columns: dict[str, Any] = {
            "id": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), n, [None, pa.py_buffer(self.nuclei.ids.tobytes())]
            ),
            "region": _named(region, classes),
            "neighbours": pa.array(self.around),
            "aggregate": pa.array(self.aggregate),
        }
        for name, values in self.distances.items():
            bands = [r for r in self.map.regions if r.class_name == name and r.kind == "band"]
            which = np.full(n, -1, np.int32)
            for i, band in enumerate(bands):
                which[self._members(band)] = i
            columns[f"distance_um: {name}"] = pa.array(values.astype(np.float32))
            columns[f"band: {name}"] = _named(which, [band.name for band in bands])
        return pa.table(columns)


def geometry(area: BaseGeometry) -> dict[str, Any]:
    """An area for JSON, on a grid of 0.01 px; an empty MultiPolygon of nothing."""
    snapped = polygons(shapely.set_precision(area, 0.01))
    if snapped.is_empty:
        return {"type": "MultiPolygon", "coordinates": []}
    return dict(shapely.geometry.mapping(snapped))


def _named(which: NDArray[np.int32], names: list[str]) -> pa.Array:
    """Names by index, as a dictionary; -1 is missing."""
    codes = pa.array(which, mask=which < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array([shown(n) for n in names], pa.string()))


def _quantiles(values: F64, weights: F64, is_sorted: bool = False) -> dict[str, Any]:
    """Weighted 10th, 50th and 90th percentile, µm."""
    if not is_sorted:
        order = np.argsort(values)
        values, weights = values[order], weights[order]
    total = np.cumsum(weights)
    if not len(total) or total[-1] <= 0:
        return {"p10": None, "median": None, "p90": None}
    places = np.searchsorted(total, np.array([0.1, 0.5, 0.9]) * total[-1])
    low, middle, high = (round(float(values[min(i, len(values) - 1)]), 2) for i in places)
    return {"p10": low, "median": middle, "p90": high}
