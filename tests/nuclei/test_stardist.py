from __future__ import annotations

import numpy as np
import pytest
import torch

from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.nuclei.stardist.batch_norm import fold_batch_norm, unfold_batch_norm
from lymphinfer.nuclei.stardist.decode import StarPolygons, decode, refine
from lymphinfer.nuclei.stardist.detector import (
    StarDistDetector,
    context_px,
    pool_over_rays,
)
from lymphinfer.nuclei.stardist.infer import TorchStarDist, averaged_output, predict_dense, to_input
from lymphinfer.nuclei.stardist.loss import stardist_loss
from lymphinfer.nuclei.stardist.network import (
    MarkerContext,
    StarDistConfig,
    StarDistNet,
    StarDistOutput,
    build_network,
)
from lymphinfer.nuclei.stardist.targets import object_probability, star_targets


def discs(size: int = 128, radius: int = 9) -> np.ndarray:
    """Label image of well separated discs."""
    yy, xx = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for i, (cy, cx) in enumerate([(30, 30), (30, 80), (80, 40), (90, 95), (60, 62)], start=1):
        labels[(yy - cy) ** 2 + (xx - cx) ** 2 <= radius**2] = i
    return labels


def small_net(**changes) -> StarDistNet:
    torch.manual_seed(0)
    return build_network(StarDistConfig(n_filter_base=8, n_conv_after_unet=16, **changes)).eval()


def test_the_default_network_has_the_parameter_count_of_stardists_own():
    net = build_network(StarDistConfig())
    assert sum(p.numel() for p in net.parameters()) == 1_425_761


def test_an_input_whose_sides_do_not_fit_the_stride_is_refused_with_the_stride_named():
    with pytest.raises(ValueError, match="multiples of 16"):
        small_net()(torch.zeros(1, 3, 40, 64))


def test_folding_batch_normalisation_leaves_the_function_as_it_is():
    net = small_net(batch_norm=True, n_markers=1).train()
    for _ in range(3):
        net(torch.rand(2, 3, 64, 64))
    net.eval()
    x = torch.rand(1, 3, 64, 64)
    plain = fold_batch_norm(net)
    with torch.inference_mode():
        for before, after in zip(net(x), plain(x), strict=True):
            torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert not any("norm" in key for key in plain.state_dict())


def test_true_targets_decode_to_the_nuclei_they_came_from():
    from stardist.matching import matching

    labels = discs()
    targets = star_targets(labels, object_probability(labels), n_rays=32, grid=2)
    found = decode(targets.prob, targets.dist, grid=2, prob_threshold=0.5, nms_threshold=0.4)
    assert len(found) == labels.max()
    score = matching(labels, found.label_image(labels.shape), thresh=0.8)
    assert (score.tp, score.fp, score.fn) == (5, 0, 0)
    centers = polygon_centroids(found.vertices())
    truth = np.array([(30, 30), (80, 30), (40, 80), (95, 90), (62, 60)])
    distance = np.linalg.norm(truth[:, None] - centers[None], axis=-1).min(axis=1)
    assert distance.max() < 1.0


def test_targets_of_a_crop_with_margin_equal_those_of_the_whole_image():
    labels = discs()
    prob = object_probability(labels)
    whole = star_targets(labels, prob, n_rays=16, grid=2)
    crop = star_targets(labels, prob, n_rays=16, grid=2, margin=32)
    np.testing.assert_array_equal(crop.prob, whole.prob[16:-16, 16:-16])
    np.testing.assert_array_equal(crop.instances, whole.instances[16:-16, 16:-16])
    assert crop.dist.shape == (16, 32, 32)


def test_decoding_agrees_with_stardists_own_suppression():
    from stardist.nms import non_maximum_suppression

    rng = np.random.default_rng(0)
    prob = rng.random((40, 40)).astype(np.float32) ** 4
    dist = rng.uniform(4, 6, (40, 40, 32)).astype(np.float32)
    points, scores, _ = non_maximum_suppression(
        dist, prob, grid=(2, 2), b=0, prob_thresh=0.5, nms_thresh=0.3
    )
    ours = decode(
        prob,
        dist.transpose(2, 0, 1),
        grid=2,
        prob_threshold=0.5,
        nms_threshold=0.3,
        peaks_first=False,
    )
    assert {tuple(p) for p in ours.points.astype(int)} == {(x, y) for y, x in points}
    np.testing.assert_allclose(np.sort(ours.prob), np.sort(scores))


def test_points_on_a_ray_mend_what_the_centre_measured_wrongly():
    labels = discs()
    targets = star_targets(labels, object_probability(labels), n_rays=32, grid=2)
    exact = decode(targets.prob, targets.dist, grid=2, prob_threshold=0.5, nms_threshold=0.4)
    same = refine(exact, targets.dist, grid=2, fractions=(0.3, 0.6))
    assert np.abs(same.dist - exact.dist).mean() < 0.3
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, exact.dist.shape).astype(np.float32)
    wrong = StarPolygons(exact.points, exact.dist + noise, exact.prob)
    mended = refine(wrong, targets.dist, grid=2, fractions=(0.3, 0.6))
    before, after = (np.abs(p.dist - exact.dist).mean() for p in (wrong, mended))
    # A ray of the wrong length is a third of the mean; its points measure right.
    assert after < 0.5 * before
    np.testing.assert_array_equal(mended.points, exact.points)
    assert refine(wrong, targets.dist, grid=2, fractions=()) is wrong


def test_refining_samples_between_pixels_as_scipy_does():
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(1)
    dist = rng.uniform(2, 9, (8, 20, 30)).astype(np.float32)
    polygons = StarPolygons(
        rng.uniform(0, [59, 39], (50, 2)).astype(np.float32),
        rng.uniform(2, 9, (50, 8)).astype(np.float32),
        np.ones(50, np.float32),
    )
    refined = refine(polygons, dist, grid=2, fractions=(0.5,))
    x, y = ((polygons.points[:, None] + polygons.vertices()) / 2 / 2).transpose(2, 0, 1)
    further = np.stack(
        [map_coordinates(dist[k], [y[:, k], x[:, k]], order=1, mode="nearest") for k in range(8)],
        axis=1,
    )
    np.testing.assert_allclose(
        refined.dist, (polygons.dist + 0.5 * polygons.dist + further) / 2, rtol=1e-4
    )


def test_an_image_without_a_candidate_decodes_to_nothing():
    found = decode(
        np.zeros((8, 8), np.float32), np.ones((32, 8, 8), np.float32),
        grid=2, prob_threshold=0.5, nms_threshold=0.4,
    )  # fmt: skip
    assert len(found) == 0
    assert found.vertices().shape == (0, 32, 2)
    assert found.label_image((16, 16)).sum() == 0
    assert refine(found, np.ones((32, 8, 8), np.float32), grid=2, fractions=(0.5,)) is found


def test_the_loss_falls_to_its_floor_on_a_perfect_prediction_and_ignores_unknown_markers():
    labels = discs()
    targets = star_targets(labels, object_probability(labels), n_rays=8, grid=2)
    prob = torch.from_numpy(targets.prob)[None]
    dist = torch.from_numpy(targets.dist)[None]
    marker = torch.full((1, 1, 64, 64), -1.0)
    weight = torch.ones(1, 64, 64)
    perfect = StarDistOutput(
        torch.logit(prob.clamp(1e-4, 1 - 1e-4))[:, None], dist, torch.randn(1, 1, 64, 64)
    )
    best = stardist_loss(perfect, prob, dist, marker, weight)
    assert float(best.marker) == 0
    assert float(best.dist) < 1e-3
    worse = StarDistOutput(perfect.prob_logit + 1, dist + 2, perfect.marker_logit)
    assert float(stardist_loss(worse, prob, dist, marker, weight).total) > float(best.total) + 0.3


def test_doubt_about_labels_keeps_probabilities_away_from_certainty():
    """The loss is least at the doubted shares, for each class its own."""
    output = StarDistOutput(torch.zeros(1, 1, 2, 2), torch.zeros(1, 8, 2, 2), None)
    marker = torch.tensor([[[[0.0, 1.0], [1.0, -1.0]]]])

    def loss(negative: float, positive: float) -> float:
        p = torch.tensor([[[[negative, positive], [positive, 0.5]]]])
        found = output._replace(marker_logit=torch.logit(p))
        weight = torch.ones(1, 2, 2)
        target = torch.zeros(1, 2, 2), torch.zeros(1, 8, 2, 2)
        return float(stardist_loss(found, *target, marker, weight, marker_doubt=(0.02, 0.1)).marker)

    best = loss(0.02, 0.9)
    assert all(loss(*p) > best for p in ((0.01, 0.9), (0.04, 0.9), (0.02, 0.85), (0.02, 0.95)))


def test_a_network_learns_an_image_by_heart():
    labels = discs(64, 6)
    targets = star_targets(labels, object_probability(labels), n_rays=8, grid=2)
    image = np.where(labels[..., None] > 0, [90, 40, 140], [230, 190, 210]).astype(np.float32)
    x = torch.from_numpy(image / 255).permute(2, 0, 1)[None].float()
    torch.manual_seed(0)
    net = build_network(StarDistConfig(n_rays=8, n_filter_base=8, n_depth=2, n_conv_after_unet=16,
                                     batch_norm=True))  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        loss = stardist_loss(
            net(x),
            torch.from_numpy(targets.prob)[None],
            torch.from_numpy(targets.dist)[None],
            torch.full((1, 1, 32, 32), -1.0),
            torch.ones(1, 32, 32),
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert losses[-1] < 0.4 * losses[0]


SHAPES = [
    StarDistConfig(n_filter_base=4, n_conv_after_unet=8),
    StarDistConfig(n_filter_base=4, n_conv_after_unet=8, n_depth=4, n_markers=1),
    StarDistConfig(n_filter_base=4, n_conv_after_unet=8, grid=4),
    StarDistConfig(n_filter_base=4, n_conv_after_unet=8, grid=1, n_depth=2),
    StarDistConfig(n_filter_base=4, n_conv_after_unet=8, n_depth=4, encoder="resnet"),
    StarDistConfig(n_filter_base=4, n_conv_after_unet=8, n_blocks=4, encoder="resnet"),
]


@pytest.mark.parametrize("config", SHAPES, ids=[f"{c.encoder}-{i}" for i, c in enumerate(SHAPES)])
def test_context_beyond_the_halo_does_not_change_a_prediction(config):
    """The halo that the detector asks for is the network's whole receptive field."""
    torch.manual_seed(0)
    net = build_network(config).eval()
    rng = np.random.default_rng(1)
    stride, grid = config.stride, config.grid
    halo = context_px(config)
    assert halo % stride == 0
    side = 2 * halo + 2 * stride
    image = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
    changed = rng.integers(0, 255, (side + 2 * stride, side + 2 * stride, 3), dtype=np.uint8)
    changed[stride:-stride, stride:-stride] = image

    def inner(pixels, margin):
        found = predict_dense(net, pixels[None])[0]
        cut = slice(margin // grid, -(margin // grid))
        maps = [found.dist, found.prob[None]]
        maps += [] if found.marker_logit is None else [found.marker_logit]
        return np.concatenate(maps)[:, cut, cut]

    np.testing.assert_allclose(inner(image, halo), inner(changed, halo + stride), atol=1e-4)


def test_a_network_that_sees_further_than_tiles_are_wide_is_refused():
    config = StarDistConfig(n_filter_base=1, n_conv_after_unet=1, n_depth=6, grid=2)
    with pytest.raises(ValueError, match=r"n_depth = 6 see .* px around .*change at the seams"):
        StarDistDetector(
            TorchStarDist(build_network(config)),
            mpp=0.5,
            working_mpp=0.5,
            prob_threshold=0.5,
            nms_threshold=0.4,
        )


@pytest.mark.parametrize("side", [333, 1001, 2112])
def test_a_tile_s_far_edge_lies_where_it_lies_at_another_pixel_size(side):
    """A tile is resampled to whole pixels, so that its scale is not quite the one wanted."""
    detector = StarDistDetector(
        TorchStarDist(small_net()),
        mpp=0.35,
        working_mpp=0.325,
        prob_threshold=0.5,
        nms_threshold=0.4,
    )
    read = detector.infer(np.full((side, 64, 3), 200, np.uint8))
    seen = round(side * 0.325 / 0.35)
    at_the_edge = StarPolygons(
        np.array([[10, seen - 0.5]], np.float32),
        np.zeros((1, 32), np.float32),
        np.ones(1, np.float32),
    )
    detector.polygons = lambda dense: at_the_edge
    edge = detector.decode(read).polygons[0, 0]
    assert edge[1] == pytest.approx(side, abs=0.01)


def test_the_detector_returns_polygons_in_tile_pixels_whatever_its_own_pixel_size():
    class Painted(StarDistDetector):
        """Decodes true targets of discs instead of a network's output."""

    labels = discs()
    targets = star_targets(labels, object_probability(labels), n_rays=32, grid=2)
    from lymphinfer.nuclei.stardist.dense import DensePrediction
    from lymphinfer.nuclei.stardist.detector import TilePrediction

    dense = DensePrediction(targets.prob, targets.dist, None)
    detector = Painted(
        TorchStarDist(small_net()), mpp=0.5, working_mpp=0.25, prob_threshold=0.5, nms_threshold=0.4
    )
    centers = polygon_centroids(detector.decode(TilePrediction(dense, (0.5, 0.5))).polygons)
    # The disc around pixel (30, 30) covers [21, 40) at 0.5 um/px: its centre is 30.5, 61 at 0.25.
    assert np.abs(centers - [61, 61]).max(axis=1).min() < 1


def test_pooling_over_rays_is_the_mean_over_the_nucleus():
    yy, xx = np.mgrid[:64, :64].astype(np.float32)
    polygons = StarPolygons(
        np.array([[60, 60]], np.float32), np.full((1, 32), 20, np.float32), np.ones(1, np.float32)
    )
    squared = (xx - 30) ** 2 + (yy - 30) ** 2
    pooled = pool_over_rays(np.stack([xx, squared]), polygons, grid=2)
    assert pooled[0, 0] == pytest.approx(30, abs=0.3)
    # The mean of r² over a disc of radius R is R² / 2; 10 output pixels here.
    assert pooled[0, 1] == pytest.approx(50, rel=0.1)


class ExactRays(StarDistNet):
    """Answers with what its input says: channel 0 a mask, whose rays stardist measures."""

    def last_layers(self):
        return []

    def predict(self, x):
        from stardist.geometry import star_dist

        masks = (x[:, 0] > 0.5).numpy().astype(np.uint16)
        dist = np.stack([star_dist(m, 32, grid=(2, 2)) for m in masks]).transpose(0, 3, 1, 2)
        return StarDistOutput(
            x[:, :1, ::2, ::2], torch.from_numpy(dist.copy()), x[:, 1:2, ::2, ::2]
        )


@pytest.mark.parametrize("n_views", [4, 8])
def test_mirrored_views_are_brought_back_to_the_very_pixel_and_ray(n_views):
    yy, xx = np.mgrid[:64, :96]
    leaning = (xx - 40) ** 2 / 324 + (yy - 25) ** 2 / 49 + (xx - 40) * (yy - 25) / 200 < 1
    noise = np.random.default_rng(0).random((2, 64, 96))
    x = torch.from_numpy(np.stack([leaning, *noise])[None].astype(np.float32))
    net = ExactRays(StarDistConfig())
    one, several = net(x), averaged_output(net, x, n_views, net.config.n_rays)
    for a, b in zip(one[:3], several[:3], strict=True):
        # The first row and column have no mirror image on the grid.
        torch.testing.assert_close(a[..., 1:, 1:], b[..., 1:, 1:], atol=1e-4, rtol=0)


def test_an_unknown_number_of_views_is_refused():
    with pytest.raises(ValueError, match="choose 1, 4 or 8"):
        averaged_output(small_net(), torch.rand(1, 3, 64, 64), 3, 32)


def residual_net(**changes) -> StarDistNet:
    torch.manual_seed(0)
    return build_network(
        StarDistConfig(n_filter_base=8, n_conv_after_unet=16, encoder="resnet", **changes)
    )


def test_the_residual_network_answers_on_the_same_grid_as_stardists_own():
    x = torch.rand(2, 3, 64, 96)
    own, residual = small_net(n_markers=2)(x), residual_net(n_markers=2).eval()(x)
    assert [a.shape for a in own[:3]] == [b.shape for b in residual[:3]]


@pytest.mark.parametrize("context", [0, 12])
def test_batch_normalisation_folds_into_the_residual_network_as_well(context):
    net = residual_net(batch_norm=True, n_markers=1, n_marker_context=context)
    net.train()
    for _ in range(3):
        net(torch.rand(2, 3, 64, 64))
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        folded = fold_batch_norm(net)(x)
        for a, b in zip(net.eval()(x), folded, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not any("norm" in name for name in fold_batch_norm(net).state_dict())


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="expected one of unet, resnet"):
        build_network(StarDistConfig(encoder="vit"))


@pytest.mark.parametrize("shape", [{"encoder": "unet"}, {"encoder": "resnet", "n_depth": 1}])
def test_a_marker_context_is_refused_where_there_are_no_maps_for_it(shape):
    with pytest.raises(ValueError, match="resnet of two levels or more"):
        build_network(StarDistConfig(n_markers=1, n_marker_context=8, **shape))


def test_the_marker_context_sees_the_means_that_scipy_finds():
    from scipy.ndimage import uniform_filter

    encoded = [torch.rand(1, 4 * 2**i, 64 >> i, 96 >> i) for i in range(4)]
    decoded = [torch.rand_like(m) for m in encoded]
    features, read = torch.rand(1, 6, 64, 96), torch.rand(1, 6, 32, 48)
    near, coarse, around = MarkerContext.inputs(encoded, decoded, features, read)
    assert near.shape == (1, 4 * 8 + 2 * 6, 32, 48) and around.shape == (1, 8, 8, 12)
    assert torch.equal(coarse, encoded[2])
    inner = slice(1, -1)
    for channel, of in ((16, encoded[1][0, 0]), (24, decoded[1][0, 0])):
        expected = uniform_filter(of.numpy(), 3)
        np.testing.assert_allclose(
            near[0, channel, inner, inner], expected[inner, inner], atol=1e-5
        )
    # Twelve pixels of the head's grid: 16 µm.
    expected = decoded[1][0, 3, 4:16, 8:20].mean()
    assert float(around[0, 3, 2, 3]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(("encoder", "context"), [("unet", 0), ("resnet", 0), ("resnet", 12)])
def test_a_folded_network_is_unfolded_to_the_same_function_and_back(encoder, context):
    torch.manual_seed(0)
    config = StarDistConfig(
        n_filter_base=8, n_conv_after_unet=16, encoder=encoder, batch_norm=True, n_markers=1,
        n_marker_context=context,
    )  # fmt: skip
    trained = build_network(config)
    for _ in range(3):
        trained(torch.rand(4, 3, 64, 64))
    plain = fold_batch_norm(trained.eval())
    x = torch.rand(4, 3, 64, 64)
    full = unfold_batch_norm(plain, x)
    assert full.config == config
    y = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        for net in (full, fold_batch_norm(full)):
            for a, b in zip(plain(y), net(y), strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        # In training mode the batch's own statistics change nothing either.
        for a, b in zip(plain(x), full.train()(x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_the_overlap_loss_counts_an_error_on_a_small_nucleus_more_than_on_a_large_one():
    def overlap_part(radius: float) -> float:
        prob, marker = torch.ones(1, 4, 4), -torch.ones(1, 1, 4, 4)
        dist = torch.full((1, 8, 4, 4), radius)
        output = StarDistOutput(torch.full((1, 1, 4, 4), 9.0), dist + 1, None)
        without, with_ = (
            stardist_loss(output, prob, dist, marker, prob, overlap_share=share).total
            for share in (0.0, 1.0)
        )
        return float(with_ - without)

    # A ray one pixel too long: IoU 4 / 5 and 16 / 17.
    assert overlap_part(4) == pytest.approx(np.log(5 / 4), rel=1e-4)
    assert overlap_part(16) == pytest.approx(np.log(17 / 16), rel=1e-4)


def test_an_image_that_ends_between_strides_goes_on_as_its_mirror_image():
    image = np.random.default_rng(0).integers(0, 255, (1, 40, 37, 3), np.uint8)
    x = to_input(image, 16).numpy()[0].transpose(1, 2, 0)
    assert x.shape == (48, 48, 3)
    mirrored = np.pad(image[0], ((0, 8), (0, 11), (0, 0)), mode="reflect") / np.float32(255)
    np.testing.assert_allclose(x, mirrored, atol=1e-6)


def test_an_image_too_small_for_its_mirror_image_is_looked_at_too():
    assert to_input(np.zeros((1, 3, 200, 3), np.uint8), 16).shape == (1, 3, 16, 208)
