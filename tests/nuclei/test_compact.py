"""The compact StarDist: shapes, what it sees, and how it folds and is described."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lymphinfer.errors import BundleError
from lymphinfer.nuclei.stardist.batch_norm import fold_batch_norm, unfold_batch_norm
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.detector import context_px
from lymphinfer.nuclei.stardist.infer import predict_dense
from lymphinfer.nuclei.stardist.network import build_network
from lymphinfer.validation import checked

SMALL = StarDistConfig(
    encoder="compact", n_filter_base=4, n_depth=3, widths=(8, 8, 12), blocks=(0, 1, 1),
    n_conv_after_unet=8, n_markers=1, n_marker_context=6, marker_features=True,
)  # fmt: skip


def net_of(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return build_network(config).eval()


def test_its_output_lies_on_the_grid_of_the_other_networks():
    compact = net_of()
    other = net_of(
        StarDistConfig(encoder="resnet", n_filter_base=4, n_conv_after_unet=8, n_markers=1,
                       n_marker_context=6, marker_features=True)
    )  # fmt: skip
    x = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        for ours, theirs in zip(compact(x), other(x), strict=True):
            assert ours.shape == theirs.shape


@pytest.mark.parametrize("blocks", [(0, 0, 0), (1, 2, 2), (0, 1, 2)])
def test_nothing_beyond_its_context_changes_a_prediction(blocks):
    net = net_of(replace(SMALL, blocks=blocks))
    # Rays of random networks are long, and rounding with them.
    with torch.no_grad():
        net.dist.bias.zero_()
    halo, stride = context_px(net.config), net.config.stride
    rng = np.random.default_rng(0)
    side = 2 * halo + 2 * stride
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    around = rng.integers(0, 256, (side + 2 * stride, side + 2 * stride, 3), dtype=np.uint8)
    around[stride:-stride, stride:-stride] = pixels

    def seen(image, margin):
        found = predict_dense(net, image[None])[0]
        cut = slice(margin // 2, -(margin // 2))
        maps = np.concatenate([found.prob[None], found.dist, found.marker_logit])[:, cut, cut]
        cut = slice(margin // 4, -(margin // 4))
        return np.concatenate([maps.ravel(), found.marker_features[:, cut, cut].ravel()])

    np.testing.assert_allclose(seen(pixels, halo), seen(around, halo + stride), atol=1e-5)


def test_its_context_is_no_wider_than_what_it_sees_by_a_few_strides():
    """Margins of tiles cost time: a context that is far too wide would be read for nothing."""
    net = net_of(replace(SMALL, blocks=(0, 1, 2)))
    side = 2 * context_px(net.config) + 32
    x = torch.rand(1, 3, side, side, requires_grad=True)
    centre = side // 4
    net(x).dist[0, :, centre : centre + 8, centre : centre + 8].sum().backward()
    touched = np.flatnonzero(x.grad.abs().sum(dim=(0, 1, 2)).numpy())
    assert side // 2 - touched[0] >= context_px(net.config) - 64


def test_batch_normalisation_folds_and_unfolds():
    net = net_of(replace(SMALL, batch_norm=True)).train()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(2, 3, 64, 64))
    folded = fold_batch_norm(net)
    again = unfold_batch_norm(folded, x)
    with torch.inference_mode():
        for a, b, c in zip(net.eval()(x), folded(x), again(x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(b, c, atol=1e-4, rtol=1e-4)


def test_its_description_is_read_back_and_older_ones_name_no_widths(tmp_path):
    table = SMALL.to_dict()
    assert table["widths"] == [8, 8, 12]
    assert checked(StarDistConfig, table, BundleError, tmp_path, ()) == SMALL
    assert "widths" not in StarDistConfig().to_dict()


@pytest.mark.parametrize(
    "wrong", [{"widths": (8, 8)}, {"blocks": ()}, {"n_depth": 2}, {"encoder": "resnet"}]
)
def test_levels_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=r"it takes \d widths and as many blocks"):
        replace(SMALL, **wrong)
