"""Markers that read a nucleus and its neighbourhood, over a whole slide."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from lymphinfer.batch.single import predict_slide
from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.predict.plan import load
from lymphinfer.slides import open_slide

from .conftest import MPP
from .test_roi import write_annotations
from .test_slide import centroids, features, settings


def probabilities(result) -> dict[str, tuple[float, float]]:
    return {
        f["id"]: tuple(
            f["properties"]["measurements"][f"{m} probability"] for m in ("CD45", "CD3e")
        )
        for f in features(result.file)
    }


@pytest.fixture(scope="module")
def bundle(two_scale_bundle):
    return load(settings(two_scale_bundle))


@pytest.fixture(scope="module")
def whole(disc_slide, two_scale_bundle, tmp_path_factory):
    options = settings(two_scale_bundle, tile_px=512)
    return predict_slide(disc_slide[0], tmp_path_factory.mktemp("whole"), settings=options)


def test_every_nucleus_has_probabilities_that_differ_and_obey_the_hierarchy(whole, disc_slide):
    found = np.array(list(probabilities(whole).values()))
    assert len(found) == len(disc_slide[1])
    assert found[:, 0].std() > 0.01
    assert (found[:, 1] <= found[:, 0] + 1e-6).all()
    assert whole.summary["markers"]["CD45"]["evidence"]["statement"].startswith("stain, one")


@pytest.mark.parametrize("changes", [{"tile_px": 256}, {"tile_px": 2048}, {"workers": 1}])
def test_probabilities_do_not_depend_on_tiles_and_shards(
    whole, disc_slide, two_scale_bundle, bundle, tmp_path, changes
):
    options = settings(two_scale_bundle, **{"tile_px": 512, **changes})
    result = predict_slide(disc_slide[0], tmp_path, settings=options, bundle=bundle)
    other = probabilities(result)
    reference = probabilities(whole)
    assert other.keys() == reference.keys()
    a, b = (np.array([p[k] for k in reference]) for p in (reference, other))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_a_region_sees_what_lies_around_it(whole, disc_slide, two_scale_bundle, bundle, tmp_path):
    roi = write_annotations(tmp_path / "a.geojson", (shapely.box(300, 300, 500, 500), "Tumor"))
    options = settings(two_scale_bundle, tile_px=512, roi=str(roi))
    result = predict_slide(disc_slide[0], tmp_path / "b", settings=options, bundle=bundle)
    part = probabilities(result)
    reference = probabilities(whole)
    assert 5 < len(part) < len(reference)
    for key, values in part.items():
        np.testing.assert_allclose(values, reference[key], atol=2e-3)


def test_what_is_written_is_what_the_networks_say_of_the_picture(whole, disc_slide, bundle):
    with open_slide(disc_slide[0]) as slide:
        pixels = slide.read_region(0, 0, *slide.dimensions, MPP)
        far = bundle.markers.far
        size = slide.dimensions_at(far.mpp)
        box = far.box(0, 0, *size)
        small = slide.read_region(0, 0, *size, far.mpp)
    margins = [(-box[1], box[3] - size[1]), (-box[0], box[2] - size[0]), (0, 0)]
    seen = far.infer(np.pad(small, margins, mode="symmetric"), box[:2])
    found = bundle.detector.decode(bundle.detector.infer(pixels))
    centers = polygon_centroids(found.polygons)
    logits = bundle.markers.logits(None, found, seen.at(centers * (MPP / far.mpp)))
    expected = bundle.markers.head_outputs(logits)[:, 0]
    rows = features(whole.file)
    distance, index = cKDTree(centers).query(centroids(rows))
    assert distance.max() < 0.5
    written = np.array([f["properties"]["measurements"]["CD45 probability"] for f in rows])
    # At the slide's edges a tile goes on in white, an image in memory in its mirror image.
    inner = ((centroids(rows) > 150) & (centroids(rows) < np.array(slide.dimensions) - 150)).all(1)
    assert inner.sum() > 100
    np.testing.assert_allclose(written[inner], expected[index][inner], atol=2e-3)


def test_nuclei_of_another_detector_get_the_same_markers(
    disc_slide, disc_bundle, two_scale_bundle, tmp_path
):
    options = settings(two_scale_bundle, tile_px=512, detector=str(disc_bundle))
    result = predict_slide(disc_slide[0], tmp_path, settings=options)
    assert result.n_nuclei == len(disc_slide[1])
