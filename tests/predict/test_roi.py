"""``predict`` limited to annotations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from typer.testing import CliRunner

from lymphinfer.batch.single import predict_slide
from lymphinfer.cli.app import app
from lymphinfer.errors import AnnotationError, LymphinferError
from lymphinfer.predict.areas import read_limits
from tests.slides.made import write_scn

from .conftest import MPP, disc_image
from .test_slide import centroids, features, settings

runner = CliRunner()


def write_annotations(path: Path, *shapes: tuple[shapely.Geometry, str]) -> Path:
    found = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shape),
            "properties": {"objectType": "annotation",
                           "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for shape, name in shapes
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return path


CIRCLE = shapely.Point(390, 390).buffer(250)


def test_only_nuclei_inside_and_none_is_missing(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    roi = write_annotations(tmp_path / "a.geojson", (CIRCLE, "Tumor"))
    whole = predict_slide(slide, tmp_path / "a", settings=settings(disc_bundle, tile_px=256))
    part = predict_slide(
        slide, tmp_path / "b", settings=settings(disc_bundle, tile_px=256, roi=str(roi))
    )
    everywhere, inside = (features(r.file) for r in (whole, part))
    wanted = shapely.contains_xy(CIRCLE, *centroids(everywhere).T)
    assert {f["id"] for f in inside} == {
        f["id"] for f, w in zip(everywhere, wanted, strict=True) if w
    }
    assert 100 < len(inside) < len(everywhere)
    region = part.summary["region"]
    assert region["annotations"] == 1 and region["classes"] == ["Tumor"]
    assert region["area_mm2"] == pytest.approx(CIRCLE.area * MPP**2 / 1e6, rel=1e-3)
    assert part.summary["tissue_mm2"] == pytest.approx(region["area_mm2"], rel=0.02)


def test_a_slide_with_bounds_in_qupaths_frame(disc_bundle, tmp_path):
    image, centers = disc_image(1200, 900)
    slide = write_scn(tmp_path / "lung.scn", image, mpp=MPP, offset=(640, 384))
    # QuPath crops to the bounds: what it draws and what it is given has its origin there.
    square = shapely.box(100, 100, 600, 500)
    roi = write_annotations(tmp_path / "lung.geojson", (square, "Tumor"), (CIRCLE, "Stroma"))
    result = predict_slide(
        slide,
        tmp_path / "out",
        settings=settings(disc_bundle, roi=str(roi), within_class=("Tumor",)),
    )
    assert result.summary["slide"]["bounds_offset"] == [640, 384]
    found = centroids(features(result.file))
    truth = centers[shapely.contains_xy(square.buffer(-2), *centers.T)]
    assert shapely.contains_xy(square, *found.T).all()
    distance = np.linalg.norm(truth[:, None] - found[None], axis=-1).min(axis=1)
    assert len(truth) > 50 and distance.max() < 1.5
    uncropped = predict_slide(
        slide, tmp_path / "whole", settings=settings(disc_bundle, roi=str(roi),
                                                     within_class=("Tumor",), crop_to_bounds=False)
    )  # fmt: skip
    # Without cropping the same square lies on the empty corner of the slide.
    assert uncropped.n_nuclei == 0
    assert "No tissue was found inside the annotations" in uncropped.summary["warnings"][-1]


def test_another_region_is_another_result(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    roi = write_annotations(tmp_path / "a.geojson", (shapely.box(0, 0, 300, 300), "Tumor"))
    first = predict_slide(slide, tmp_path / "o", settings=settings(disc_bundle, roi=str(roi)))
    again = predict_slide(slide, tmp_path / "o", settings=settings(disc_bundle, roi=str(roi)))
    assert again.resumed_shards == again.shards
    write_annotations(roi, (shapely.box(0, 0, 600, 300), "Tumor"))
    larger = predict_slide(slide, tmp_path / "o", settings=settings(disc_bundle, roi=str(roi)))
    assert larger.resumed_shards == 0
    assert larger.n_nuclei > first.n_nuclei


def test_a_batch_with_a_file_of_annotations_a_slide(disc_slide, disc_bundle, tmp_path):
    slides, rois = tmp_path / "slides", tmp_path / "annotations"
    slides.mkdir()
    rois.mkdir()
    for name in ("one", "two"):
        shutil.copy(disc_slide[0], slides / f"{name}.svs")
    write_annotations(rois / "one.geojson", (shapely.box(0, 0, 400, 400), "Tumor"))
    arguments = ["predict", str(slides), "--out", str(tmp_path / "out"), "--bundle",
                 str(disc_bundle), "--device", "cpu"]  # fmt: skip
    wrong = runner.invoke(app, [*arguments, "--roi", str(rois / "one.geojson")])
    assert isinstance(wrong.exception, Exception) and "several slides" in str(wrong.exception)
    result = runner.invoke(app, [*arguments, "--roi", str(rois)])
    assert result.exit_code == 1
    rows = {
        r["slide"]: r for r in json.loads((tmp_path / "out" / "batch.json").read_text())["slides"]
    }
    done, failed = rows[str(slides / "one.svs")], rows[str(slides / "two.svs")]
    assert done["status"] == "done" and done["nuclei"] > 40
    assert failed["status"] == "failed" and "two.geojson" in failed["reason"]


def test_a_class_needs_annotations(disc_slide, disc_bundle, tmp_path):
    asked = settings(disc_bundle, within_class=("Tumor",))
    with pytest.raises(LymphinferError, match="--within-class: needs --roi"):
        predict_slide(disc_slide[0], tmp_path / "out", settings=asked)
    assert not (tmp_path / "out").exists()


def test_a_slide_of_a_list_without_annotations_has_no_classes(disc_slide, disc_bundle, tmp_path):
    asked = settings(disc_bundle, within_class=("Tumor",))
    with asked.open(disc_slide[0]) as slide, pytest.raises(AnnotationError, match="column `roi`"):
        read_limits(slide, asked)


@pytest.mark.slow
def test_the_report_is_made_on_the_way(disc_slide, disc_bundle, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    roi = write_annotations(tmp_path / "a.geojson", (shapely.box(0, 0, 600, 600), "Tumor"))
    result = runner.invoke(
        app, ["predict", str(disc_slide[0]), "--out", str(tmp_path / "out"), "--bundle",
              str(disc_bundle), "--device", "cpu", "--report", "--roi", str(roi)]
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    page = tmp_path / "out" / "discs" / "report.html"
    assert page.stat().st_size > 10_000
    # Whatever --out is: the slide's own picture and its nuclei are on the page.
    assert tmp_path not in disc_slide[0].parents and "was not found" not in page.read_text("utf-8")
    # stdout names the file for QuPath alone, so that a script can take it.
    assert result.stdout.strip() == str(tmp_path / "out" / "discs" / "discs.zip")
