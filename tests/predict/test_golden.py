"""A result does not change unless `RESULT_VERSION` is raised with it.

``python -m tests.predict.test_golden`` computes the golden file anew; it needs the shared data.
Values are compared within a tolerance, since CPUs differ in the last digits.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from lymphinfer.batch.single import predict_slide
from lymphinfer.cells.parts import read_parts
from lymphinfer.panel import PANELS
from lymphinfer.predict.settings import RESULT_VERSION, PredictSettings
from lymphinfer.simulate.slide import write_demo_slide

GOLDEN = Path(__file__).with_name("golden.json")
SAME_PX, SAME_PROBABILITY = 0.5, 0.02
AGREE = 0.98
REMEDY = (
    "the result of a prediction has changed: raise RESULT_VERSION, so that no finished shard is "
    "taken for the new result, and make the golden file anew: python -m tests.predict.test_golden"
)


def predicted(slide: Path, folder: Path, box: tuple[int, ...]) -> dict[str, Any]:
    """A slide's nuclei in a box by the default bundle, and what is counted of them."""
    region = {"type": "Feature", "properties": {"objectType": "annotation"},
              "geometry": shapely.geometry.mapping(shapely.box(*box))}  # fmt: skip
    roi = folder / "region.geojson"
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    settings = PredictSettings(
        bundle="he-v2", device="cpu", precision="fp32", runtime="torch", workers=1, tile_px=512,
        roi=str(roi),
    )  # fmt: skip
    result = predict_slide(slide, folder / "out", settings=settings)
    panel = PANELS[result.summary["panel"]]
    names = [f"p_{name.lower()}" for name in panel.names]
    rows = []
    for table in read_parts(folder / "out" / "parts", panel):
        columns = [table.column(name).to_numpy() for name in ("x", "y", *names)]
        rows += np.round(np.stack(columns, axis=1), 4).tolist()
    rows.sort()
    markers = {
        name: {key: row[key] for key in ("positive", "expected")}
        for name, row in result.summary["markers"].items()
    }
    return {"tissue_mm2": result.summary["tissue_mm2"], "markers": markers, "nuclei": rows}


def simulated(folder: Path) -> dict[str, Any]:
    slide = folder / "simulated.svs"
    write_demo_slide(slide, size_px=(800, 700), seed=3)
    return predicted(slide, folder, (120, 90, 700, 620))


def real(slide: Path, folder: Path) -> dict[str, Any]:
    return predicted(slide, folder, (1000, 1400, 1450, 1850))


def agreement(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Share of nuclei that are in both results, in the same place with the same markers."""
    a, b = np.array(one["nuclei"]), np.array(other["nuclei"])
    distance, index = cKDTree(b[:, :2]).query(a[:, :2])
    apart = np.abs(a[:, 2:] - b[index, 2:]).max(axis=1)
    same = (distance < SAME_PX) & (apart < SAME_PROBABILITY)
    return len(set(index[same])) / max(len(a), len(b))


def compare(found: dict[str, Any], name: str) -> None:
    golden = json.loads(GOLDEN.read_text())["slides"][name]
    assert agreement(found, golden) >= AGREE, REMEDY
    assert found["tissue_mm2"] == pytest.approx(golden["tissue_mm2"], rel=0.01), REMEDY
    for marker, row in golden["markers"].items():
        for key, value in row.items():
            assert found["markers"][marker][key] == pytest.approx(value, rel=0.03, abs=2), REMEDY


@pytest.mark.slow
def test_a_simulated_slide_has_the_golden_result(tmp_path):
    compare(simulated(tmp_path), "simulated")


def test_a_real_slide_has_the_golden_result(real_slide, tmp_path):
    compare(real(real_slide, tmp_path), "CMU-1-Small-Region")


def test_the_golden_results_are_those_of_this_version():
    assert json.loads(GOLDEN.read_text())["result_version"] == RESULT_VERSION, REMEDY


def test_a_changed_result_is_seen():
    golden = json.loads(GOLDEN.read_text())["slides"]["simulated"]
    moved, other = (json.loads(json.dumps(golden)) for _ in range(2))
    for row in moved["nuclei"]:
        row[0] += 1
    for row in other["nuclei"][: len(other["nuclei"]) // 20]:
        row[2] += 0.1
    assert agreement(golden, golden) == 1
    assert agreement(moved, golden) < AGREE and agreement(other, golden) < AGREE


def write_golden(slide: Path) -> None:
    """Compute the golden file anew."""
    slides = {}
    with tempfile.TemporaryDirectory() as place:
        for name in ("simulated", slide.stem):
            folder = Path(place, name)
            folder.mkdir()
            slides[name] = simulated(folder) if name == "simulated" else real(slide, folder)
    content = {"result_version": RESULT_VERSION, "slides": slides}
    GOLDEN.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    shared = os.environ.get("LYMPHINFER_SHARED", Path(__file__).parents[3] / "shared")
    write_golden(Path(shared, "data", "slides", "CMU-1-Small-Region.svs"))
