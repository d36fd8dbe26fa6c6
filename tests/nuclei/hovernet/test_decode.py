"""From maps of known nuclei back to these nuclei, and what the network is taught."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stardist.matching import matching

from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.nuclei.hovernet.decode import VERTICES, describe, instance_map, majority, trace
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector, TileMaps, extra_name
from lymphinfer.nuclei.hovernet.infer import DenseMaps
from lymphinfer.nuclei.hovernet.loss import hovernet_loss
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, HoVerNetOutput
from lymphinfer.nuclei.hovernet.targets import distance_maps, kind_map

REASON = "TIAToolbox is not installed (extra hovernet)"


def discs(size=160):
    """Two touching discs, a lone one and one at the edge, labels 1 to 4."""
    yy, xx = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for i, (x, y) in enumerate(((40, 40), (64, 40), (110, 100), (0, 120)), start=1):
        labels[((xx - x) ** 2 + (yy - y) ** 2 <= 12**2) & (labels == 0)] = i
    return labels


def perfect_maps(labels):
    kind = np.choose(labels, [0, 2, 1, 2, 2]).astype(np.uint8)
    kind[labels == 2] = np.where(np.arange((labels == 2).sum()) % 4, 1, 2)
    return DenseMaps(
        nucleus=np.where(labels > 0, 0.9, 0.1).astype(np.float32),
        distance=np.ascontiguousarray(distance_maps(labels).transpose(1, 2, 0)),
        kind=kind,
        features=None,
        cell_px=0,
    )


@pytest.mark.parametrize("mpp", [0.25, 0.325, 0.5])
def test_the_watershed_parts_touching_nuclei(mpp):
    pytest.importorskip("tiatoolbox", reason=REASON)
    labels = discs()
    found = instance_map(perfect_maps(labels), mpp)
    result = matching(labels, found, thresh=0.8)
    assert (result.tp, result.fp, result.fn) == (4, 0, 0)


def test_an_empty_image_has_no_nuclei():
    maps = perfect_maps(np.zeros((64, 64), np.int32))
    assert instance_map(maps).max() == 0
    assert len(describe(instance_map(maps), maps, 2)) == 0


def test_types_and_centres_are_those_of_tiatoolbox():
    pytest.importorskip("tiatoolbox", reason=REASON)
    from lymphinfer.nuclei.hovernet.tiatoolbox import hovernet_module

    maps = perfect_maps(discs())
    labels = instance_map(maps)
    found = describe(labels, maps, 2)
    info = hovernet_module().HoVerNet.get_instance_info(labels, maps.kind, verbose=False)
    assert len(info) == len(found) == 4
    centers = polygon_centroids(found.outlines)
    for label, center, kind, shares in zip(
        found.labels, centers, majority(found.kinds), found.kinds, strict=True
    ):
        theirs = info[int(label)]
        # Their centroid is in pixel centres, ours counts from the first pixel's corner.
        np.testing.assert_allclose(center - 0.5, theirs["centroid"], atol=0.15)
        assert kind == theirs["type"]
        assert shares[kind - 1] == pytest.approx(theirs["prob"], abs=1e-3)


def test_an_outline_runs_along_the_outer_edges_of_the_pixels():
    mask = np.zeros((9, 12), bool)
    mask[2:6, 3:11] = True
    ring = trace(mask)
    assert ring.shape == (VERTICES, 2)
    assert ring.min(axis=0).tolist() == pytest.approx([3, 2], abs=0.1)
    assert ring.max(axis=0).tolist() == pytest.approx([11, 6], abs=0.1)
    assert trace(np.zeros((4, 4), bool)) is None


def test_a_type_is_never_background_and_none_has_none():
    shares = np.array([[0.1, 0.0], [0.2, 0.5], [0, 0]], np.float32)
    assert majority(shares).tolist() == [1, 2, 0]
    assert majority(np.empty((3, 0), np.float32)).tolist() == [0, 0, 0]


def test_distances_reach_one_on_every_side_of_each_nucleus():
    labels = discs()
    horizontal, vertical = distance_maps(labels)
    for label in (1, 2, 3):
        inside = labels == label
        for values in (horizontal[inside], vertical[inside]):
            assert values.min() == -1 and values.max() == 1
    assert not horizontal[labels == 0].any()
    row = horizontal[100][labels[100] == 3]
    assert (np.diff(row) > 0).all()


def test_unknown_pixels_and_nuclei_have_no_type():
    labels = np.array([[0, 1, 2], [3, -1, 0]])
    leukocyte = np.array([-1, 0, 1, -1], np.int8)
    assert kind_map(labels, leukocyte).tolist() == [[0, 1, 2], [-1, -1, 0]]


def output_of(labels, sharpness=12.0):
    """What a network that knows the answer would say."""
    nucleus = torch.from_numpy(np.stack([labels == 0, labels > 0])[None] * sharpness).float()
    distance = torch.from_numpy(distance_maps(labels))[None]
    return HoVerNetOutput(nucleus, distance, nucleus, ())


def test_the_loss_falls_to_zero_at_the_truth_and_ignores_what_is_unknown():
    labels = discs()
    nucleus = torch.from_numpy((labels > 0).astype(np.int64))[None]
    distance = torch.from_numpy(distance_maps(labels))[None]
    right = hovernet_loss(output_of(labels), nucleus, distance, nucleus)
    assert float(right.total) < 0.01
    wrong = hovernet_loss(output_of(np.roll(labels, 20, 1)), nucleus, distance, nucleus)
    assert float(wrong.total) > 1
    unknown = torch.full_like(nucleus, -1)
    nothing = hovernet_loss(output_of(labels), unknown, distance, unknown)
    assert float(nothing.nucleus) < 1e-6 or float(nothing.nucleus) == pytest.approx(0, abs=1e-3)


def test_the_detector_speaks_in_tile_pixels_and_measures_types():
    pytest.importorskip("tiatoolbox", reason=REASON)
    config = HoVerNetConfig("fast", ("Other", "Non-neoplastic Epithelial"), divisor=8)
    detector = HoVerNetDetector(torch.nn.Identity(), config, mpp=0.25, working_mpp=0.5)
    found = detector.decode(TileMaps(perfect_maps(discs()), (2.0, 2.0)))
    assert len(found) == 4
    assert list(found.extras) == ["type_other", "type_non_neoplastic_epithelial"]
    assert extra_name("A (b) c") == "type_a_b_c"
    centers = polygon_centroids(found.polygons)
    assert np.abs(centers - np.array([55.25, 50.25])).sum(axis=1).min() < 0.5
    part = found.take(np.array([True, False, False, True]))
    assert len(part.extras["type_other"]) == 2
    assert detector.halo_px >= (112 + 64) / 2 and detector.halo_px % 8 == 0
