"""Detectors computed in bytes: nearly the same nuclei, said plainly, refused where it cannot be."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import fields

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.numpy import load_file, save
from scipy.spatial import cKDTree
from torch.nn import functional as F

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import MANIFEST
from lymphinfer.compute import torch_type
from lymphinfer.downloading import sha256_of
from lymphinfer.engine import Engine, choose_engine
from lymphinfer.errors import BundleError, LymphinferError
from lymphinfer.layers import Layers
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.runtime import CpuGraph
from tests.predict.conftest import write_svs

pytest.importorskip("openvino")
INT8 = Engine("cpu", "int8", "openvino")


def test_a_layer_in_bytes_is_the_rounded_layer_of_torch():
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, 8).astype(np.float32)
    scale = (np.abs(weight).max(axis=(1, 2, 3)) / 63).astype(np.float32)
    said = {"pixels.top": np.ones(1), "a.scale": scale, "a.bias": bias + 1, "a.top": np.full(1, 2)}
    net = Layers({"a.weight": weight, "a.bias": bias}, said)
    given, x = net.pixels()
    graph = CpuGraph(net.model(given, [net.conv(x, "a", 8, relu=True)]), "int8")
    pixels = rng.integers(0, 256, (1, 24, 24, 3), dtype=np.uint8)
    (found,) = graph(pixels)

    whole = torch.from_numpy(np.rint(weight / scale[:, None, None, None]))
    light = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    exact = F.conv2d(light, whole * torch.from_numpy(scale)[:, None, None, None], padding=1)
    exact = F.relu(exact + torch.from_numpy(bias + 1)[:, None, None])
    steps = (exact.clamp(max=2) / 2 * 255).round() * 2 / 255
    # A value in the middle between two steps may go to either.
    assert np.abs(found - steps.numpy()).max() <= 2 / 255 + 1e-5
    assert np.mean(np.abs(found - steps.numpy()) > 1e-5) < 0.01


@pytest.fixture(scope="module")
def real_tissue(tmp_path_factory):
    from stardist.data import test_image_he_2d

    pixels = np.ascontiguousarray(test_image_he_2d()[:400, :400])
    return write_svs(tmp_path_factory.mktemp("real") / "real.svs", pixels)


def predicted(slide, folder, precision):
    settings = PredictSettings(device="cpu", precision=precision, runtime="openvino")
    result = predict_slide(slide, folder, settings=settings)
    (file,) = (folder / "parts").glob("*.parquet")
    import pyarrow.parquet as pq

    return result.summary, pq.read_table(file)


def test_real_tissue_has_nearly_the_same_nuclei_and_the_result_says_how(real_tissue, tmp_path):
    summary, bytes_ = predicted(real_tissue, tmp_path / "a", "int8")
    plain, floats = predicted(real_tissue, tmp_path / "b", "fp32")
    assert summary["arguments"]["precision"] == "int8"
    assert plain["arguments"]["precision"] == "fp32"
    assert abs(len(bytes_) - len(floats)) <= 0.03 * len(floats)
    ours, theirs = (np.column_stack([t["x"], t["y"]]) for t in (bytes_, floats))
    distance, index = cKDTree(theirs).query(ours)
    met = distance < 3
    assert met.mean() > 0.96
    for name in ("p_cd45", "p_cd3e", "p_cd4", "p_cd8a"):
        apart = np.abs(bytes_[name].to_numpy() - floats[name].to_numpy()[index])[met]
        # CD45 moves by 0.028 on this picture.
        assert apart.mean() < 0.04, name


def test_the_far_scale_in_bytes_says_nearly_the_same():
    from stardist.data import test_image_he_2d

    pixels = np.ascontiguousarray(test_image_he_2d()[:256, :384])
    places = np.random.default_rng(0).uniform(16, 240, (200, 2))
    said = [
        load_bundle("he-v2", engine=Engine("cpu", precision, "openvino"), trainable=False)
        .markers.far.infer(pixels, (0, 0))
        .at(places)
        for precision in ("fp32", "int8")
    ]
    apart = np.abs(said[1] - said[0])
    assert 0 < apart.mean() < 0.1 * said[0].std()


def test_a_layer_through_few_channels_is_two_layers():
    rng = np.random.default_rng(0)
    inner = rng.normal(0, 0.3, (2, 3, 3, 3)).astype(np.float32)
    outer = rng.normal(0, 0.3, (8, 2, 1, 1)).astype(np.float32)
    said = {"a.inner.weight": inner, "a.inner.bias": np.ones(2), "a.weight": outer}
    # What the shipped network has under these names is not computed.
    shipped = {"a.weight": np.ones((8, 3, 3, 3)), "a.bias": np.full(8, 0.5)}
    net = Layers(shipped, said)
    given, x = net.pixels()
    graph = CpuGraph(net.model(given, [net.conv(x, "a", 8, relu=True)]), "fp32")
    pixels = rng.integers(0, 256, (1, 20, 28, 3), dtype=np.uint8)
    light = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    few = F.relu(F.conv2d(light, torch.from_numpy(inner), torch.ones(2), padding=1))
    wanted = F.relu(F.conv2d(few, torch.from_numpy(outer), torch.full((8,), 0.5)))
    np.testing.assert_allclose(graph(pixels)[0], wanted.numpy(), atol=1e-5)


def test_a_probability_s_weights_are_rounded_twice_and_hold_in_bytes():
    rng = np.random.default_rng(0)
    weights = {
        "prob.weight": rng.normal(0, 1, (4, 3, 1, 1)).astype(np.float32),
        "prob.bias": np.full(4, 0.25, np.float32),
    }

    def logits(said):
        net = Layers(weights, said)
        given, x = net.pixels()
        return CpuGraph(net.model(given, [net.in_two_parts(x, "prob", 4)]), "int8")(pixels)[0]

    pixels = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    plain = logits({})
    small = logits({"pixels.top": np.ones(1), "prob.scale": np.full(4, 0.05)})
    assert plain.shape == (1, 4, 16, 16)
    assert small.shape == (1, 8, 16, 16)
    assert np.abs(small[:, :4] + small[:, 4:] - plain).max() < 0.003
    assert np.abs(small[:, :4] - plain).max() > 0.003


def test_outputs_leave_as_bytes_of_which_each_means_a_part_of_the_top():
    rng = np.random.default_rng(0)
    weights = {"a.weight": rng.normal(0, 1, (2, 3, 1, 1)).astype(np.float32)}

    def told(said):
        net = Layers(weights, said)
        given, x = net.pixels()
        y = net.as_bytes(net.conv(x, "a", 2, kernel=1, bias=False), "a")
        return CpuGraph(net.model(given, [y]), "int8")(pixels)[0]

    pixels = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    numbers = told({})
    assert numbers.dtype == np.float32
    for top in (np.full(1, 0.5), np.array([0.25, 1.0])):
        found = told({"a.top": top})
        assert found.dtype == np.uint8
        step = top.reshape(1, -1, 1, 1) / 255
        assert np.abs(found * step - numbers.clip(0, 255 * step)).max() <= 0.51 * step.max()


def test_tiles_are_read_with_narrower_margins_in_bytes():
    margins = [
        load_bundle("he-v1-fast", engine=engine, trainable=False).halo_px
        for engine in (INT8, Engine("cpu", "fp32", "openvino"))
    ]
    assert margins == [64, 128]


def test_a_bundle_that_does_not_say_how_is_computed_in_numbers_and_refuses_bytes():
    with pytest.raises(BundleError, match="sim-orion-v1: precision int8 is not possible"):
        load_bundle("sim-orion-v1", engine=INT8, trainable=False)
    willing = Engine("cpu", "fp32", "openvino", bytes_preferred=True)
    assert load_bundle("sim-orion-v1", engine=willing, trainable=False).engine.precision == "fp32"
    assert load_bundle("he-v1-fast", engine=willing, trainable=False).engine.precision == "int8"
    # To be trained further: in numbers.
    assert load_bundle("he-v1-fast", engine=willing).engine.precision == "fp32"


def test_what_has_no_graph_is_computed_in_float32_beside_bytes():
    assert torch_type(INT8.precision) is None


def test_bytes_are_refused_where_nothing_computes_them():
    with pytest.raises(LymphinferError, match="precision int8: OpenVINO computes it on the CPU"):
        choose_engine("cpu", "int8", "torch")
    assert choose_engine("cpu", "int8", "openvino") == INT8


def test_a_damaged_file_of_bytes_is_named(tmp_path):
    folder = tmp_path / "he-v1-fast"
    shutil.copytree(find_bundle("he-v1-fast"), folder)
    table = tomllib.loads((folder / MANIFEST).read_text("utf-8"))
    name = table["detector"]["int8"]
    numbers = load_file(folder / name)
    (folder / name).write_bytes(save({**numbers, "stem.0.conv.scale": np.ones(3, np.float32)}))
    table["files"][name] = sha256_of(folder / name)
    (folder / MANIFEST).write_bytes(tomli_w.dumps(table).encode())
    with pytest.raises(
        BundleError, match=rf"{name}: .*stem\.0\.conv\.scale is \(3,\), not \(32,\)"
    ):
        load_bundle(folder, engine=INT8, trainable=False)


def test_what_a_prediction_takes_by_itself_is_measured(monkeypatch):
    from lymphinfer import engine

    for faster in (True, False):
        monkeypatch.setattr(engine, "prefers_int8", lambda faster=faster: faster)
        found = choose_engine("cpu", "auto", "openvino")
        assert found.bytes_preferred is faster
        loaded = load_bundle("he-v1-fast", engine=found, trainable=False)
        assert (loaded.engine.precision == "int8") is faster
    assert not choose_engine("cpu", "fp32", "openvino").bytes_preferred


def test_what_is_taught_in_bytes_holds_in_bytes(tmp_path):
    from stardist.data import test_image_he_2d

    from lymphinfer.markers.calibration import Calibration
    from lymphinfer.teaching.learning import Quality, Taught
    from lymphinfer.teaching.teachable import Change, teachable
    from lymphinfer.teaching.writing import write_taught

    pixels = np.ascontiguousarray(test_image_he_2d()[:256, :256])

    def logits(bundle):
        return bundle.detector.decode(bundle.detector.infer(pixels))

    base = load_bundle("he-v1-fast", engine=INT8, trainable=False)
    layer = teachable(base)
    before = logits(base).marker_logits[:, 0]
    seen = layer.read(logits(layer.bundle))
    np.testing.assert_allclose(layer.logits(seen)[:, 0], before, atol=1e-3)

    lower = Change(0.5, np.zeros(seen.shape[1]), -1.0)
    quality = Quality(*((0.5, 0.4, 0.6) for _ in fields(Quality)))
    learned = Taught(
        "CD45", lower, Calibration(1.0, 0.0), {}, 1.0, 20, 20, 2, 0.5, True, quality, quality,
        (0.0, 0.0, 0.0),
    )  # fmt: skip
    said = {"counts": "40", "slides": 1, "by": "slide", "notes": [], "command": "teach"}
    write_taught(tmp_path / "mine", layer, [learned], **said)
    for engine in (INT8, Engine("cpu", "fp32", "openvino")):
        taught = load_bundle(tmp_path / "mine", engine=engine, trainable=False)
        after = logits(taught).marker_logits[:, 0]
        if engine is INT8:
            np.testing.assert_allclose(after, 0.5 * before - 1, atol=1e-2)
        else:
            assert after.mean() == pytest.approx(0.5 * before.mean() - 1, abs=0.3)


def test_numbers_of_another_network_are_refused():
    net = Layers({"a.weight": np.ones((1, 3, 1, 1), np.float32)}, {"b.scale": np.ones(1)})
    given, x = net.pixels()
    with pytest.raises(ValueError, match=r"b\.scale belong to no layer"):
        net.model(given, [net.conv(x, "a", 1, kernel=1, bias=False)])
