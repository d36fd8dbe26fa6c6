"""The far scale: what it sees, where it is read, and that pieces of a slide agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.errors import BundleError
from lymphinfer.markers.far_scale import (
    FarConfig,
    FarNet,
    TorchFar,
    fold_batch_norm,
    optical_density,
    sample_features,
    unfold_batch_norm,
)
from lymphinfer.markers.two_scale import FarScale
from lymphinfer.slides.edges import mirrored
from lymphinfer.validation import checked

SMALL = FarConfig(widths=(4, 6), blocks=(1, 1), features=5, outputs=("a", "b"), hidden=3)


def trained_like(config: FarConfig) -> FarNet:
    """Random weights, and batch statistics that are not those of a new layer."""
    torch.manual_seed(0)
    net = FarNet(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def test_folding_batch_normalisation_leaves_the_function_as_it_is():
    from dataclasses import replace

    net = trained_like(replace(SMALL, batch_norm=True))
    x = torch.rand(2, 3, 24, 32)
    folded = fold_batch_norm(net)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    seen = torch.rand(7, 5)
    torch.testing.assert_close(folded.tell(seen), net.tell(seen))


def test_a_shipped_network_is_trained_further_from_the_same_function():
    from dataclasses import replace

    shipped = fold_batch_norm(trained_like(replace(SMALL, batch_norm=True)))
    x = torch.rand(2, 3, 24, 32)
    full = unfold_batch_norm(shipped, torch.rand(4, 3, 32, 32))
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in full.modules()) > 5
    torch.testing.assert_close(full(x), shipped(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fold_batch_norm(full)(x), shipped(x), rtol=1e-4, atol=1e-4)


def test_a_configuration_survives_the_manifest():
    assert checked(FarConfig, SMALL.to_dict(), BundleError, "made") == SMALL
    with pytest.raises(ValueError, match="one number of blocks a level"):
        FarConfig(widths=(4, 6), blocks=(1,))


def test_sides_that_do_not_fit_the_strides_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        FarNet(SMALL)(torch.rand(1, 3, 30, 32))


def test_optical_density_is_nothing_for_white_and_most_for_black():
    x = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(optical_density(x), torch.tensor([0.0, float(np.log(256))]))


def test_features_are_read_at_the_nucleus():
    # On a ramp the value at a place is its coordinate on the features' grid.
    ramp = torch.arange(10.0).expand(1, 6, 10)
    centers = torch.tensor([[1.0, 3.0], [7.0, 3.0], [8.0, 3.0], [-50.0, 3.0]])
    found = sample_features(ramp, centers, 2)
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 3.0, 3.5, 0.0]))


def test_any_two_rectangles_say_the_same_of_a_nucleus():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (400, 480, 3), dtype=np.uint8)
    far = FarScale(TorchFar(trained_like(SMALL)))
    nucleus = np.array([[203.4, 190.2]])

    def seen_from(rectangle):
        box = far.box(*rectangle)
        x0, y0, x1, y1 = (max(box[0], 0), max(box[1], 0), min(box[2], 480), min(box[3], 400))
        pixels = mirrored(picture[y0:y1, x0:x1], box, (480, 400))
        assert pixels.shape == (box[3] - box[1], box[2] - box[0], 3)
        return far.infer(pixels, box[:2]).at(nucleus)

    whole = seen_from((0, 0, 480, 400))
    np.testing.assert_allclose(seen_from((190, 170, 220, 200)), whole, atol=1e-5)
    np.testing.assert_allclose(seen_from((33.3, 150, 204, 191)), whole, atol=1e-5)


def test_beyond_its_edges_a_picture_goes_on_as_its_mirror_image():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4, 1).repeat(3, axis=2)
    grown = mirrored(picture, (-2, -1, 6, 3), (4, 3))[..., 0]
    assert grown.shape == (4, 8)
    assert grown[1].tolist() == [1, 0, 0, 1, 2, 3, 3, 2]
    assert grown[0].tolist() == grown[1].tolist()
    # Far beyond, again and again: a tile of 86 px has 128 px around it.
    assert mirrored(picture, (-20, 0, 4, 3), (4, 3)).shape == (3, 24, 3)


def shipped():
    try:
        return load_bundle("he-v2").markers.far
    except BundleError:
        pytest.skip("he-v2 is not here")


def test_what_lies_beyond_the_halo_moves_no_shipped_probability():
    far = shipped()
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 230, (40, 40, 3), dtype=np.uint8)
    tissue = np.repeat(np.repeat(blocks, 12, axis=0), 12, axis=1)
    box = far.box(232, 232, 248, 248)
    other = 255 - tissue
    other[box[1] : box[3], box[0] : box[2]] = tissue[box[1] : box[3], box[0] : box[2]]
    nuclei = rng.uniform(232, 248, (50, 2))
    p, q = (1 / (1 + np.exp(-far.infer(x, (0, 0)).at(nuclei))) for x in (tissue, other))
    assert np.abs(p - q).max() < 1e-3
