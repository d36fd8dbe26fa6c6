"""Annotations as QuPath of several versions, plug-ins and scripts write them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lymphinfer.annotations import Roi, read_roi
from lymphinfer.errors import AnnotationError

SIZE = (1200, 900)
WHOLE = 600 * 400
USED = {
    "plain": WHOLE, "nan_bare": WHOLE, "inf_bare": WHOLE, "nan_text": WHOLE, "bom": WHOLE,
    "utf16": WHOLE, "class_text": WHOLE, "class_legacy": WHOLE, "ellipse": WHOLE, "plane": WHOLE,
    "collection": WHOLE, "null_class": WHOLE, "name_null": WHOLE, "geom_null": WHOLE,
    "open_ring": WHOLE, "three_d": WHOLE, "text_numbers": WHOLE, "nested": WHOLE, "umlaut": WHOLE,
    "crlf": WHOLE, "ndjson": WHOLE, "nan_coordinate": WHOLE, "hole": WHOLE - 200 * 100,
    "child_ignore": WHOLE - 200 * 100, "multi": WHOLE + 50 * 50,
}  # fmt: skip
WITH_A_WORD = {
    "geom_null": "without a geometry", "nan_coordinate": "not a finite number",
    "open_ring": "feature 1 read although no valid GeoJSON: each linear ring must end where it",
}  # fmt: skip
PASSED_OVER = {
    "legacy_detections": "detections passed over.*cells passed over",
    "object_type_detection": "detections passed over",
    "points": "points or lines passed over",
    "empty": "no annotation with an area",
    "empty_file": "the file is empty",
    "microns": "px of the full image, not µm",
}


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rois")
    script = shared_data.parent / "cases" / "05_geojson_rois.py"
    if not script.is_file():
        pytest.skip(f"needs {script}")
    subprocess.run([sys.executable, str(script), str(out)], check=True, capture_output=True)
    return out


def read(folder: Path, name: str) -> Roi:
    return read_roi(folder / f"{name}.geojson", dimensions=SIZE)


def test_every_file_of_the_case_is_looked_at(folder):
    assert {p.stem for p in folder.glob("*.geojson")} == set(USED) | set(PASSED_OVER)


@pytest.mark.parametrize("name", USED)
def test_annotations_are_used(folder, name):
    roi = read(folder, name)
    assert roi.area.area == pytest.approx(USED[name])
    assert WITH_A_WORD.get(name, "") in " ".join(roi.notes)
    assert bool(roi.notes) == (name in WITH_A_WORD)
    unclassified = name in ("null_class", "name_null")
    wanted = "Unclassified" if unclassified else "Tumor"
    assert roi.classes == (("Tumor – Rand (größer)",) if name == "umlaut" else (wanted,))


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_is_no_annotation_is_refused_with_what_it_is(folder, name):
    with pytest.raises(AnnotationError, match=PASSED_OVER[name]):
        read(folder, name)


@pytest.mark.slow
def test_the_region_limits_the_nuclei(folder, tmp_path):
    from lymphinfer.batch.single import predict_slide
    from lymphinfer.predict.settings import PredictSettings

    settings = PredictSettings(bundle="he-v1-fast", device="cpu", precision="fp32")
    whole = predict_slide(folder / "s.tif", tmp_path / "whole", settings=settings)
    assert whole.n_nuclei == pytest.approx(260, abs=2)
    assert whole.summary["tissue_mm2"] == pytest.approx(0.0397, rel=0.1)
    within = PredictSettings(bundle="he-v1-fast", device="cpu", precision="fp32",
                             roi=str(folder / "nan_bare.geojson"))  # fmt: skip
    part = predict_slide(folder / "s.tif", tmp_path / "part", settings=within)
    # The region is that share of the tissue, and the nuclei lie evenly.
    assert part.n_nuclei == pytest.approx(260 * WHOLE / (3.1416 * 504 * 378), rel=0.15)
