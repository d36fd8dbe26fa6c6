"""The lean copy of the shipped detector: its graph is its network, it learns from its teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from stardist.data import test_image_he_2d as he_image
from torch.nn import functional as F

from lymphinfer.bundles.registry import find_bundle
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.graph import build_graph
from lymphinfer.runtime import CpuGraph
from recipes.he.int8 import lean_weights
from recipes.he.lean import FEW, HIDDEN, KEPT, fitted, lean_copy
from recipes.he.lean_layers import FourPointConv
from recipes.he.lean_train import losses, make_pool, spreads, train
from recipes.he.student_data import Crops, PackedImage
from recipes.he.student_teacher import Teacher

pytest.importorskip("openvino")
WEIGHTS = find_bundle("he-v2").parent


def real(side):
    return np.ascontiguousarray(he_image()[:side, :side])


def light(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def teacher():
    return Teacher(WEIGHTS).eval()


@pytest.fixture(scope="module")
def lean():
    torch.manual_seed(0)
    return lean_copy(WEIGHTS, [light(real(192))]).eval()


def test_a_convolution_fitted_to_another_s_output_is_that_one():
    torch.manual_seed(0)
    maps = [torch.rand(1, 4, 24, 24) for _ in range(3)]
    conv = torch.nn.Conv2d(4, 5, 3, padding=1)
    with torch.no_grad():
        found = fitted(maps, [conv(x) for x in maps])
        assert torch.allclose(found(maps[0]), conv(maps[0]), atol=2e-3)


def test_filters_go_where_little_is_lost_and_the_trunk_keeps_its_width(lean, teacher):
    for level, shares in enumerate(KEPT):
        blocks = lean.net.down[level], teacher.net.down[level]
        for block, old, share in zip(*blocks, shares, strict=True):
            assert block.first.conv.out_channels == round(old.first.conv.out_channels * share)
            assert block.second.conv.out_channels == old.second.conv.out_channels
    assert lean.net.marker[0].conv.inner.out_channels == FEW["marker.0"]
    assert [lean.net.up[i].conv.inner.out_channels for i in (1, 2)] == [FEW["up.1"], FEW["up.2"]]
    assert lean.context.out.out_channels == HIDDEN


def test_four_points_are_read_from_what_lies_around_each_of_them():
    torch.manual_seed(0)
    x, weight = torch.rand(1, 2, 12, 16), torch.rand(3, 2, 3, 3)
    conv = FourPointConv(2, 3)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        with torch.no_grad():
            conv.weight.zero_()
            conv.weight[:, :, dy : dy + 3, dx : dx + 3] = weight
            conv.bias.zero_()
            whole = F.conv2d(x, weight, padding=1)
            torch.testing.assert_close(conv(x), whole[..., dy::2, dx::2])


def test_before_it_has_learned_it_says_nearly_what_its_teacher_says(lean, teacher):
    x = light(real(192))
    with torch.no_grad():
        found, lesson = lean(x), teacher(x)
    prob = found.prob.sigmoid()
    # What ten times fewer numbers leave of one image, which they were fitted to.
    assert np.corrcoef(prob.ravel(), lesson.prob.ravel())[0, 1] > 0.9
    inside = lesson.prob[0] > 0.7
    assert (found.dist - lesson.dist)[0, :, inside].abs().mean() < 2.5


@pytest.mark.parametrize("bundle", ["he-v1-fast", "he-v2"])
def test_its_graph_says_what_the_network_says(bundle, lean, tmp_path):
    state = {k: v.numpy() for k, v in lean.state_dict().items()}
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "lean.safetensors")
    numbers = lean_weights(tmp_path / "lean.safetensors", bundle)
    of = {"he-v1-fast": {}, "he-v2": {"marker_features": True}}
    config = StarDistConfig(
        encoder="resnet", n_filter_base=32, n_depth=3, n_blocks=3, n_conv_after_unet=96,
        batch_norm=False, n_markers=1, n_marker_context=128, **of[bundle],
    )  # fmt: skip
    weights = load_file(find_bundle(bundle) / "stardist.safetensors")
    pixels = real(128)
    graph = CpuGraph(build_graph(config, weights, numbers), "fp32")
    prob, dist, marker, *seen = graph(pixels[None])
    with torch.no_grad():
        told = lean(light(pixels))
    # Weights are kept in halves.
    assert np.abs(prob[:, 0] - told.prob.numpy()).max() < 0.15
    dist = F.pixel_shuffle(torch.from_numpy(dist), 2).numpy()
    assert np.abs(dist - told.dist.numpy()).max() < 0.15
    if seen:
        features = seen[0].transpose(0, 3, 1, 2)
        assert np.abs(features - told.near.numpy()).max() < 0.02 * np.abs(features).max()
    else:
        there = F.interpolate(told.marker, prob.shape[2:], mode="bilinear").numpy()
        assert np.abs(marker - there).max() < 0.1


@pytest.mark.slow
def test_its_loss_is_what_it_lacks_of_its_teacher_and_a_run_ends_in_weights(lean, teacher):
    from copy import deepcopy

    pixels = np.dstack([real(256), np.full((256, 256), 255, np.uint8)])
    crops = Crops([PackedImage("consep/one", pixels)], 128, torch.device("cpu"), 0)
    pool = make_pool(teacher, crops, 16)
    spread = spreads(pool["near"].float(), teacher.reader)
    student = deepcopy(lean)

    def loss(say):
        from recipes.he.student_teacher import Lesson

        batch = {k: v.float() for k, v in pool.items()}
        with torch.no_grad():
            said = say(batch.pop("pixels").div(255))
            return sum(losses(said, Lesson(**batch), teacher.reader, spread).values())

    # In halves the teacher's own words are nearly nothing off; the copy's are further.
    assert loss(teacher.logits) < 0.1 * loss(lean)
    average, steps = train(student, pool, teacher.reader, 3, 1e-6)
    assert steps >= 1
    assert abs(loss(average) - loss(lean)) < 0.05 * loss(lean)
