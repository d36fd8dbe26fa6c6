"""The head that reads two scales, and the near features of any detector's nuclei."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from lymphinfer.bundles.torch_networks import dense_net, weights_of
from lymphinfer.engine import Engine
from lymphinfer.errors import BundleError
from lymphinfer.markers.configs import TwoScaleConfig
from lymphinfer.markers.two_scale import HeadWeights, NearMarkers, near_features, near_points
from lymphinfer.markers.two_scale_head import TwoScaleHead, head_module, head_weights
from lymphinfer.nuclei.detector import Detection
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.validation import checked

CONFIG = TwoScaleConfig(("CD45", "CD3e"), near=6, far=3, hidden=5)


def module() -> TwoScaleHead:
    torch.manual_seed(0)
    made = TwoScaleHead(CONFIG)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def scales() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((4, 6), np.float32), rng.random((4, 3), np.float32)


def test_a_scale_that_is_missing_is_replaced_row_by_row():
    made, (near, far) = head_weights(module()), scales()
    gaps = near.copy()
    gaps[1] = np.nan
    mixed, close = made(gaps, far), partial(np.testing.assert_allclose, rtol=1e-5)
    close(mixed[[0, 2, 3]], made(near, far)[[0, 2, 3]])
    close(mixed[1], made(None, far)[1])
    close(made(near, np.full((4, 3), np.nan, np.float32)), made(near, None))
    assert not np.allclose(made(near, far), made(near, None))
    for head in (made, module()):
        with pytest.raises(ValueError, match="without either scale"):
            head(None, None)


def test_what_has_learned_says_what_the_network_in_torch_does():
    near, far = scales()
    near[2], far[3] = np.nan, np.nan
    for given in ((near, far), (None, far), (near, None)):
        tensors = (None if x is None else torch.from_numpy(x) for x in given)
        with torch.inference_mode():
            told = module()(*tensors).numpy()
        made = head_weights(module())
        assert made(*given).dtype == np.float32
        np.testing.assert_allclose(made(*given), told, rtol=1e-5, atol=1e-6)
    again = head_weights(head_module(made)).weights
    assert all((again[name] == values).all() for name, values in made.weights.items())


def test_weights_of_another_head_are_refused_by_name():
    weights = weights_of(module())
    with pytest.raises(ValueError, match=r"^bias, far\.weight: missing, or not"):
        HeadWeights(CONFIG, {k: v[:2] if k == "bias" else v for k, v in weights.items()
                             if k != "far.weight"})  # fmt: skip


def test_a_configuration_survives_the_manifest():
    assert checked(TwoScaleConfig, CONFIG.to_dict(), BundleError, "made") == CONFIG


def circle(x: float, y: float, radius: float, vertices: int = 32) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=-1)


def test_near_points_lie_inside_the_nucleus_around_its_centroid():
    polygons = np.stack([circle(50, 40, 10), circle(20, 30, 6)])
    points, weights = near_points(polygons)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(points.mean(axis=1), [[50, 40], [20, 30]], atol=1e-4)
    distance = np.linalg.norm(points - points[:, :1], axis=-1)
    assert (distance.max(axis=1) < [10, 6]).all() and (distance.max(axis=1) > [6, 4]).all()


def test_near_features_are_read_where_the_network_has_them():
    # The head's grid has a pixel every 4, the first centred at 1.5 from the outer corner.
    maps = np.zeros((2, 10, 12), np.float32)
    maps[0], maps[1] = np.arange(12)[None], np.arange(10)[:, None]
    points = np.array([[[4 * 5 + 1.5, 4 * 3 + 1.5]], [[4 * 7.5 + 1.5, 1.5]]])
    found = near_features(maps, points, np.ones(1), 4.0)
    np.testing.assert_allclose(found, [[5, 3], [7.5, 0]], atol=1e-5)
    assert near_features(maps, np.empty((0, 1, 2)), np.ones(1), 4.0).shape == (0, 2)


def near_net():
    torch.manual_seed(1)
    config = StarDistConfig(
        n_rays=8, n_filter_base=8, n_depth=2, n_conv_after_unet=8, n_markers=1,
        encoder="resnet", n_blocks=1, n_marker_context=6, marker_features=True,
    )  # fmt: skip
    return build_network(config).eval()


def reader_of(net, engine=Engine()) -> StarDistDetector:
    return StarDistDetector(
        dense_net(net, engine), mpp=0.325, working_mpp=0.325, prob_threshold=0.5, nms_threshold=0.3
    )


class Fixed:
    """A detector of other kind, whose nuclei are given."""

    halo_px, align_px = 40, 10

    def __init__(self, polygons):
        self.polygons = np.asarray(polygons, np.float32)

    def infer(self, tile):
        return tile.shape

    def decode(self, dense):
        return Detection(self.polygons, np.ones(len(self.polygons), np.float32))


def test_nuclei_of_any_detector_come_with_near_features():
    tile = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    polygons = np.stack([circle(50, 40, 7), circle(100, 80, 9)])
    net = near_net()
    other = NearMarkers(Fixed(polygons), reader_of(net))
    assert not other.shared
    assert other.align_px % 10 == 0 and other.align_px % net.config.stride == 0
    assert other.halo_px >= 128 and other.halo_px % other.align_px == 0
    found = other.decode(other.infer(tile))
    assert found.near is not None and found.near.shape == (2, 6)
    # The same numbers out of the network's own output.
    pixels = torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        maps = net(pixels).marker_features[0].numpy()
    points, weights = near_points(polygons)
    expected = near_features(maps, points, weights, 4.0)
    np.testing.assert_allclose(found.near, expected, atol=1e-4)
    taken = found.take(np.array([1]))
    np.testing.assert_array_equal(taken.near, found.near[1:])


def test_the_detector_itself_is_read_in_one_pass():
    net = near_net()
    detector = reader_of(net)
    both = NearMarkers(detector, detector)
    assert both.shared and both.reader is detector
    dense = both.infer(np.zeros((64, 64, 3), np.uint8))
    assert dense.maps is dense.dense.dense.marker_features


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_marker_features_are_what_the_last_layer_reads(runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    net = near_net()
    detector = reader_of(net, Engine(runtime=runtime))
    tile = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    dense = detector.infer(tile).dense
    last = net.marker[1]
    with torch.inference_mode():
        logits = last(torch.from_numpy(dense.marker_features)[None])
        logits = torch.nn.functional.interpolate(logits, dense.prob.shape, mode="bilinear")
    np.testing.assert_allclose(logits[0].numpy(), dense.marker_logit, atol=1e-3)


def test_features_without_context_are_refused():
    with pytest.raises(ValueError, match="one with context"):
        build_network(StarDistConfig(encoder="resnet", n_markers=1, marker_features=True))
