"""Peaks first: the nuclei of one round of suppression, in less time."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.nuclei.metrics import score_segmentation
from lymphinfer.nuclei.stardist.decode import decode, refine
from lymphinfer.nuclei.stardist.infer import predict_dense
from lymphinfer.nuclei.stardist.targets import object_probability, star_targets


def chain_of_discs() -> np.ndarray:
    """Nuclei that touch, of different size."""
    yy, xx = np.mgrid[:160, :400]
    labels = np.zeros(yy.shape, np.int32)
    for number, (x, radius) in enumerate(((40, 20), (75, 15), (110, 20), (155, 25), (190, 10)), 1):
        labels[(xx - x) ** 2 + (yy - 80) ** 2 < radius**2] = number
    return labels


@pytest.mark.parametrize("peaks_first", [True, False])
def test_touching_nuclei_are_all_found(peaks_first):
    labels = chain_of_discs()
    targets = star_targets(labels, object_probability(labels), n_rays=32, grid=2)
    found = decode(
        targets.prob,
        targets.dist,
        grid=2,
        prob_threshold=0.3,
        nms_threshold=0.3,
        peaks_first=peaks_first,
    )
    assert len(found) == 5
    assert score_segmentation([labels], [found.label_image(labels.shape)]).f1 == 1


def test_a_nucleus_without_a_peak_of_its_own_is_found_in_the_last_round():
    """Its probability climbs towards its neighbour, but its outline is another one."""
    prob = np.zeros((40, 60), np.float32)
    prob[20, 10:50] = np.linspace(0.9, 0.5, 40)
    dist = np.full((32, 40, 60), 14.0, np.float32)
    found = decode(prob, dist, grid=2, prob_threshold=0.4, nms_threshold=0.3)
    single = decode(prob, dist, grid=2, prob_threshold=0.4, nms_threshold=0.3, peaks_first=False)
    assert len(single) > 1
    np.testing.assert_array_equal(found.points, single.points)


def test_the_suppression_is_stardist_s_own_and_its_package_stays_unloaded():
    code = """
import sys
import numpy as np
from lymphinfer.nuclei.stardist import decode
rng = np.random.default_rng(0)
points = rng.integers(0, 300, (1500, 2)).astype(np.float32)
rays = rng.uniform(3, 9, (1500, 32)).astype(np.float32)
prob = np.sort(rng.random(1500).astype(np.float32))[::-1]
kept = decode._suppress(decode.StarPolygons(points, rays, prob), 0.3)
assert "numba" not in sys.modules, "numba"
from stardist.nms import non_maximum_suppression_inds
whole = points[:, ::-1].astype(np.int32)
theirs = non_maximum_suppression_inds(rays, whole, scores=prob, thresh=0.3, verbose=False)
assert 100 < len(kept) < 1400
assert (kept == np.flatnonzero(theirs)).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rays_as_bytes_of_squares_of_points_are_those_of_each_point():
    labels = chain_of_discs()
    targets = star_targets(labels, object_probability(labels), n_rays=32, grid=2)
    step = 0.25
    whole = np.rint(targets.dist.clip(0, 63) / step).astype(np.uint8)
    rays, height, width = whole.shape
    squares = whole.reshape(rays, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3)
    options = {"grid": 2, "prob_threshold": 0.3, "nms_threshold": 0.3}
    plain = decode(targets.prob, whole.astype(np.float32) * step, **options)
    found = decode(targets.prob, squares, step=step, **options)
    np.testing.assert_array_equal(found.dist, plain.dist)
    at = {"grid": 2, "fractions": (0.3, 0.6)}
    again = refine(found, squares, step=step, **at)
    expected = refine(plain, whole.astype(np.float32) * step, **at)
    np.testing.assert_allclose(again.dist, expected.dist, atol=1e-4)


def test_on_real_tissue_nearly_every_nucleus_is_that_of_a_single_round(shared_data):
    net = load_bundle("he-v1-fast").detector.net
    options = {"grid": 2, "prob_threshold": 0.4, "nms_threshold": 0.3}
    same = total = 0
    for image in ("test_1", "test_5", "test_9"):
        picture = Image.open(shared_data / "consep" / "test" / f"{image}.png").convert("RGB")
        dense = predict_dense(net, np.asarray(picture)[None, :768, :768])[0]
        fast = decode(dense.prob, dense.dist, **options)
        single = decode(dense.prob, dense.dist, **options, peaks_first=False)
        same += len(set(map(tuple, fast.points)) & set(map(tuple, single.points)))
        total += max(len(fast), len(single))
    assert total > 500
    assert same >= 0.99 * total
