"""Given tissue, slides without glass, and slides out of focus."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from scipy import ndimage
from typer.testing import CliRunner

from lymphinfer.annotations import read_annotations
from lymphinfer.batch.single import predict_slide
from lymphinfer.cells.areas import read_areas
from lymphinfer.cli.app import app
from lymphinfer.export.results import open_result
from lymphinfer.export.views import write_view
from lymphinfer.predict.areas import Limits, area_warnings
from lymphinfer.slides import TissueMask

from .conftest import MPP, disc_image, write_svs
from .test_roi import write_annotations
from .test_slide import centroids, features, settings

runner = CliRunner()
SHAPE = shapely.Point(390, 390).buffer(250)


def test_given_tissue_is_the_area_and_holds_the_nuclei(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    given = write_annotations(tmp_path / "tissue.geojson", (SHAPE, "Tissue"))
    whole = predict_slide(slide, tmp_path / "a", settings=settings(disc_bundle))
    part = predict_slide(slide, tmp_path / "b", settings=settings(disc_bundle, tissue=str(given)))
    wanted = shapely.contains_xy(SHAPE, *centroids(features(whole.file)).T)
    assert part.n_nuclei == wanted.sum()
    summary = part.summary
    assert summary["tissue_mm2"] == pytest.approx(SHAPE.area * MPP**2 / 1e6, rel=1e-3)
    assert summary["tissue"]["from"] == "annotations"
    assert summary["tissue"]["file"] == "tissue.geojson"
    assert not any("glass" in warning for warning in summary["warnings"])
    areas = read_areas(part.folder)
    assert areas.given and areas.tissue.area == pytest.approx(SHAPE.area, rel=1e-3)
    # Other tissue, other nuclei: nothing is taken over.
    write_annotations(given, (SHAPE.buffer(-100), "Tissue"))
    smaller = predict_slide(
        slide, tmp_path / "b", settings=settings(disc_bundle, tissue=str(given))
    )
    assert smaller.resumed_shards == 0 and smaller.n_nuclei < part.n_nuclei


def test_a_region_and_tissue_together_leave_what_both_hold(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    half = shapely.box(0, 0, 390, 780)
    tissue = write_annotations(tmp_path / "tissue.geojson", (SHAPE, "Tissue"))
    roi = write_annotations(tmp_path / "roi.geojson", (half, "Tumor"))
    result = predict_slide(
        slide, tmp_path / "o", settings=settings(disc_bundle, tissue=str(tissue), roi=str(roi))
    )
    both = SHAPE.intersection(half)
    assert result.summary["tissue_mm2"] == pytest.approx(both.area * MPP**2 / 1e6, rel=1e-3)
    assert shapely.contains_xy(both.buffer(0.01), *centroids(features(result.file)).T).all()
    assert result.summary["region"]["classes"] == ["Tumor"]


def test_a_field_without_glass_is_all_tissue_and_says_so(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    result = predict_slide(slide, tmp_path, settings=settings(disc_bundle))
    assert result.summary["tissue_mm2"] == pytest.approx(780 * 780 * MPP**2 / 1e6, rel=0.01)
    assert any("No glass was found" in warning for warning in result.summary["warnings"])


def test_what_is_passed_over_in_annotations_is_told(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    roi = write_annotations(tmp_path / "a.geojson", (SHAPE, "Tumor"))
    content = json.loads(roi.read_text())
    cell = {**content["features"][0], "properties": {"object_type": "cell"}}
    roi.write_text(json.dumps({**content, "features": [*content["features"], cell]}))
    result = predict_slide(slide, tmp_path / "o", settings=settings(disc_bundle, roi=str(roi)))
    assert any("a.geojson: cells passed over" in w for w in result.summary["warnings"])


@pytest.fixture(scope="module")
def half_blurred(tmp_path_factory):
    """Fine texture under the discs, its left part out of focus by 3 µm."""
    image, _ = disc_image(1280, 600)
    rng = np.random.default_rng(4)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, image.shape[:2]), 1.2)[..., None] * 60
    image = np.clip(image + texture, 0, 255).astype(np.uint8)
    soft = ndimage.gaussian_filter(image[:, :640].astype(np.float32), (3 / MPP, 3 / MPP, 0))
    image[:, :640] = soft.astype(np.uint8)
    return write_svs(tmp_path_factory.mktemp("blurred") / "half.svs", image)


def test_out_of_focus_is_counted_warned_of_and_exported(half_blurred, disc_bundle, tmp_path):
    result = predict_slide(
        half_blurred, tmp_path / "a", settings=settings(disc_bundle, tile_px=512)
    )
    focus = result.summary["focus"]
    assert focus["blurred_mm2"] == pytest.approx(640 * 600 * MPP**2 / 1e6, rel=0.25)
    assert any("out of focus" in warning for warning in result.summary["warnings"])
    path = write_view(open_result(result.folder), "tissue-geojson")
    tissue, blurred = read_annotations(path)
    assert (tissue.class_name, blurred.class_name) == ("Tissue", "Out of focus")
    assert blurred.geometry.bounds[2] < 800
    # The order of tiles and another run change nothing.
    other = predict_slide(
        half_blurred, tmp_path / "b", settings=settings(disc_bundle, tile_px=512, workers=1)
    )
    assert other.summary["focus"] == focus
    (tmp_path / "a" / "summary.json").unlink()
    resumed = predict_slide(
        half_blurred, tmp_path / "a", settings=settings(disc_bundle, tile_px=512)
    )
    assert resumed.resumed_shards == resumed.shards and resumed.summary["focus"] == focus


def test_a_batch_with_a_file_of_tissue_a_slide(disc_slide, disc_bundle, tmp_path):
    slides, masks = tmp_path / "slides", tmp_path / "masks"
    slides.mkdir()
    masks.mkdir()
    (slides / "one.svs").symlink_to(disc_slide[0])
    write_annotations(masks / "one.geojson", (shapely.box(0, 0, 400, 400), "Tissue"))
    arguments = ["predict", str(slides), "--out", str(tmp_path / "out"), "--bundle",
                 str(disc_bundle), "--device", "cpu"]  # fmt: skip
    wrong = runner.invoke(app, [*arguments, "--tissue", str(masks / "one.geojson")])
    assert "give --tissue a folder" in str(wrong.exception)
    result = runner.invoke(app, [*arguments, "--tissue", str(masks)])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "one" / "summary.json").read_text())
    assert summary["tissue_mm2"] == pytest.approx(400 * 400 * MPP**2 / 1e6, rel=1e-3)


def test_glass_that_shades_like_tissue_is_told():
    steep = TissueMask(np.ones((2, 2), bool), 8.0, 32.0, 1.0, steep=True)
    (warning,) = area_warnings(Limits(None, None), steep)
    assert "shades steeply" in warning and "--tissue" in warning
    assert not area_warnings(Limits(None, None), replace(steep, steep=False))
