"""The published architecture, whole and with fewer channels, passed in pieces."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch

from lymphinfer.errors import BundleError
from lymphinfer.nuclei.hovernet.infer import predict_maps, windows
from lymphinfer.nuclei.hovernet.network import (
    GEOMETRY,
    HoVerNetConfig,
    build_network,
    config_of,
    run_network,
)

REASON = "TIAToolbox is not installed (extra hovernet)"


def small(mode="fast", types=("A", "B")):
    pytest.importorskip("tiatoolbox", reason=REASON)
    torch.manual_seed(0)
    config = HoVerNetConfig(mode, types, divisor=8)
    return build_network(config).eval(), config


@pytest.mark.parametrize(("mode", "side"), [("fast", 256), ("original", 270)])
def test_the_pass_is_that_of_tiatoolbox(mode, side):
    net, config = small(mode)
    x = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        expected = net(x * 255)
        found = run_network(net, x, config.geometry)
    for name, values in (("np", found.nucleus), ("hv", found.distance), ("tp", found.kind)):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(values, expected[name], atol=1e-5 * scale, rtol=1e-4)
    assert values.shape[-1] == side - config.geometry.lost_px == {"fast": 164, "original": 80}[mode]
    assert sum(f.shape[1] for f in found.features) == config.n_features


@pytest.mark.parametrize("mode", ["fast", "original"])
def test_pieces_leave_no_trace(mode):
    net, config = small(mode, types=("A",))
    image = np.random.default_rng(0).integers(0, 255, (136, 120, 3)).astype(np.uint8)
    whole = predict_maps(net, config, image, piece_px=4096, cell_px=4)
    parts = predict_maps(net, config, image, piece_px=64, cell_px=4)
    for name in ("nucleus", "distance", "features"):
        expected = getattr(whole, name)
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(getattr(parts, name), expected, atol=1e-4 * scale)
    assert whole.features.shape == (24, 34, 30)


def test_windows_cover_an_axis_once_and_begin_on_the_stride():
    config = HoVerNetConfig("original")
    found = list(windows(1000, 256, config))
    assert [(w.start, w.stop) for w in found] == [(0, 256), (256, 512), (512, 768), (768, 1000)]
    for w in found:
        assert w.input_start % 8 == 0
        assert (w.input_stop - w.input_start) % 8 == 6
        assert w.input_start + GEOMETRY["original"].lost_px // 2 <= w.start
        assert w.input_stop - GEOMETRY["original"].lost_px // 2 >= w.stop


@pytest.mark.parametrize("mode", ["fast", "original"])
@pytest.mark.parametrize("types", [(), ("A", "B", "C")])
def test_the_shape_is_read_off_the_weights(mode, types):
    net, config = small(mode, types)
    assert config_of(net.state_dict(), types) == config
    assert config_of(net.state_dict()).n_types == config.n_types
    with pytest.raises(BundleError, match="types are named"):
        config_of(net.state_dict(), ("X",) * 7)


def test_other_weights_are_refused():
    with pytest.raises(BundleError, match="not the weights"):
        config_of({"fc.weight": torch.zeros(1)})


def test_the_extra_is_named_where_tiatoolbox_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiatoolbox.models.architecture", None)
    with pytest.raises(BundleError, match=r"lymphinfer\[hovernet\]"):
        build_network(HoVerNetConfig())


def test_importing_tiatoolbox_leaves_logging_as_it_was():
    handlers = list(logging.getLogger().handlers)
    small()
    assert logging.getLogger().handlers == handlers
