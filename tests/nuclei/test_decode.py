"""Peaks first: the nuclei of one round of suppression, in less time."""

import numpy as np
import pytest
from PIL import Image

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.nuclei.metrics import score_segmentation
from lymphinfer.nuclei.stardist.decode import decode
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
