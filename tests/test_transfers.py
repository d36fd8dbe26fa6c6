"""Copies to and from a GPU: the same values, whether one waits for them or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lymphinfer import transfers
from lymphinfer.markers.far_scale import FarConfig, FarNet, TorchFar
from lymphinfer.markers.two_scale import FarScale
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.infer import TorchStarDist, to_input
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_an_array_may_change_after_its_copy(device):
    pixels = image(300, 400)
    wanted = pixels.copy()
    copied = transfers.to_device(pixels, device)
    pixels[:] = 0
    assert copied.device.type == device
    np.testing.assert_array_equal(copied.cpu().numpy(), wanted)


def test_what_is_fetched_is_there_once_it_was_waited_for(device):
    maps = [torch.rand(2, 3, 500, 400, device=device) for _ in range(4)]
    maps.append(maps[0].to(memory_format=torch.channels_last)[:, :, :301, :17])
    arrays, ready = transfers.fetch([values * 2 for values in maps])
    ready.wait()
    for values, array in zip(maps, arrays, strict=True):
        np.testing.assert_array_equal((values * 2).cpu().numpy(), array)


def test_the_networks_input_is_the_same_on_every_device(device):
    pixels = image(70, 90)[None]
    made = to_input(pixels, 16, device)
    assert made.device.type == device and made.shape == (1, 3, 80, 96)
    inner = made[0, :, :70, :90].permute(1, 2, 0).cpu().numpy()
    np.testing.assert_array_equal(inner, pixels[0].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(made.cpu().numpy(), to_input(pixels, 16).numpy())


def test_tiles_that_are_not_waited_for_have_the_same_nuclei(device, monkeypatch):
    torch.manual_seed(0)
    config = StarDistConfig(n_filter_base=8, n_conv_after_unet=16, n_markers=1, encoder="resnet")
    detector = StarDistDetector(
        TorchStarDist(build_network(config), device=device), mpp=0.325, working_mpp=0.325,
        prob_threshold=0.5, nms_threshold=0.3,
    )  # fmt: skip
    tiles = [image(256, 320), image(256, 256), image(192, 256)]
    ahead = [detector.infer(tile) for tile in tiles]
    found = [detector.decode(dense) for dense in ahead]
    monkeypatch.setattr(transfers, "OVERLAP", False)
    for tile, nuclei in zip(tiles, found, strict=True):
        again = detector.decode(detector.infer(tile))
        assert len(again) and len(again) == len(nuclei)
        np.testing.assert_allclose(nuclei.polygons, again.polygons, atol=1e-3)
        np.testing.assert_allclose(nuclei.probability, again.probability, atol=1e-5)


def test_far_features_are_read_while_the_device_works_on(device, monkeypatch):
    torch.manual_seed(0)
    net = FarNet(FarConfig(widths=(8, 12), blocks=(1, 1), features=8, outputs=("a", "b")))
    far = FarScale(TorchFar(net, device=device))
    pixels, nuclei = image(256, 256), np.random.default_rng(1).uniform(0, 256, (40, 2))
    seen = far.infer(pixels, (0, 0))
    later = far.infer(image(512, 512), (0, 0))
    found = seen.at(nuclei)
    monkeypatch.setattr(transfers, "OVERLAP", False)
    np.testing.assert_allclose(found, far.infer(pixels, (0, 0)).at(nuclei), atol=1e-5)
    assert later.at(nuclei).shape == (40, 2)
