"""Made geometry with a known answer: mpp 0.5, so that 200 px are 100 µm."""

from __future__ import annotations

import json

import numpy as np
import shapely

from lymphinfer.cells.areas import Areas, write_areas
from lymphinfer.export.results import open_result
from lymphinfer.panel import TCELL_PANEL
from tests.cells.nuclei_made import nuclei
from tests.export.results_made import STAIN, circles, made_result

MPP = 0.5
SIZE = (8000, 6000)


def feature(shape, class_name=None, name=None, **more):
    properties = {"objectType": "annotation"}
    if class_name:
        properties["classification"] = {"name": class_name, "color": [200, 0, 0]}
    if name:
        properties["name"] = name
    return {"type": "Feature", "geometry": shapely.geometry.mapping(shape),
            "properties": properties, **more}  # fmt: skip


def write_annotations(path, features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), "utf-8")
    return path


def grid_points(step=100, size=SIZE):
    """Points on a grid, none on a round number."""
    xs, ys = (np.arange(step / 2 + 0.25, n, step) for n in size)
    return np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)


def table_at(centers, probabilities, calls):
    return nuclei(
        circles(centers), probabilities=np.asarray(probabilities), calls=np.asarray(calls), mpp=MPP
    )


def result_at(folder, centers, *, probabilities=None, calls=None, tissue=None, size=SIZE,
              offset=(0, 0), evidence=STAIN, **more):  # fmt: skip
    """A result with round nuclei at these centres; all are tissue where none is given."""
    n = len(centers)
    if probabilities is None:
        probabilities = np.tile([0.5, 0.25, 0.125, 0.0625], (n, 1))
    calls = np.zeros(n, int) if calls is None else calls
    table = table_at(centers, probabilities, calls)
    made = made_result(
        folder, [table], dimensions=size, mpp=MPP, bounds_offset=offset, evidence=evidence, **more
    )
    areas = shapely.box(0, 0, *size) if tissue is None else tissue
    write_areas(made.folder, Areas(areas, shapely.MultiPolygon()))
    return open_result(made.folder)


def rows_by_name(record):
    return {row["region"]: row for row in record["rows"]}


PANEL = TCELL_PANEL
