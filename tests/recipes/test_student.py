"""Distillation on small made images: the pack, its crops, and a run that goes on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from recipes.he import student
from recipes.he.student import NETWORK, Teacher, Training, run
from recipes.he.student_bundle import student_of, with_student
from recipes.he.student_data import UNKNOWN, Crops, PackedImage, pack, unpack

WEIGHTS = Path(__file__).parents[2] / "weights"


def made_image(name, side=176, seed=0):
    """Dark discs on pink, with their object probability where the set is annotated."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:side, :side]
    rgb = np.full((side, side, 3), (228, 178, 205), np.float32) + rng.normal(0, 6, (side, side, 1))
    depth = np.zeros((side, side), np.float32)
    for cy, cx in rng.uniform(12, side - 12, (40, 2)):
        distance = np.hypot(yy - cy, xx - cx)
        inside = distance < 8
        rgb[inside] = (88, 58, 128)
        depth[inside] = np.maximum(depth, 1 - distance / 8)[inside]
    known = np.rint(depth * 254) if name.startswith("consep") else np.full_like(depth, UNKNOWN)
    return PackedImage(name, np.dstack([rgb.clip(0, 255), known]).astype(np.uint8))


@pytest.fixture(scope="module")
def images():
    return [made_image("consep/a", seed=1), made_image("brca/b", seed=2)]


@pytest.fixture(scope="module")
def teacher():
    return Teacher(WEIGHTS)


def crops_of(images, side=96, seed=0):
    return Crops(images, side, torch.device("cpu"), seed)


def training_of(images, teacher):
    torch.manual_seed(0)
    return Training(crops_of(images), teacher, batch=3, rate=3e-3)


def test_a_crop_s_label_lies_where_its_pixels_are_dark(images):
    pixels, known, _ = crops_of(images, side=128).draw(12)
    assert pixels.shape == (12, 3, 128, 128) and float(pixels.max()) <= 1
    annotated = (known >= 0).flatten(1).all(dim=1)
    assert 0 < int(annotated.sum()) < 12
    assert ((known >= 0).flatten(1).any(dim=1) == annotated).all()
    for image, label in zip(pixels[annotated], known[annotated], strict=True):
        nuclei, background = label > 0.3, label == 0
        assert float(image[0][nuclei].mean()) < float(image[0][background].mean()) - 0.1


def test_unchanged_crops_are_the_image_s_own_pixels(images):
    crops = crops_of(images[:1], side=128)
    crops.strength = 0.0
    whole = images[0].pixels[..., :3].astype(np.int16)
    views = [np.rot90(v, k) for v in (whole, whole[:, ::-1]) for k in range(4)]
    pixels, _, _ = crops.draw(20)
    # The first three in ten are JPEGs.
    same = 0
    for image in (pixels[6:] * 255).round().permute(0, 2, 3, 1).numpy().astype(np.int16):
        for view in views:
            # Places of a few of its pixels, then those of them where a patch is the same too.
            height, width = view.shape[0] - 24, view.shape[1] - 24
            near = np.ones((height, width), bool)
            for y, x, channel in itertools.product((0, 11, 23), (0, 23), range(3)):
                there = view[y : y + height, x : x + width, channel]
                near &= np.abs(there - image[y, x, channel]) <= 1
            places = np.argwhere(near)
            same += any(
                np.abs(view[y : y + 24, x : x + 24] - image[:24, :24]).max() <= 1 for y, x in places
            )
    assert same >= 2


def test_jpeg_on_the_device_is_close_to_that_of_pillow(images):
    import io

    crops = crops_of(images)
    crops._uniform = lambda *shape, low, high: torch.full(shape, 80.0)  # quality
    rgb = images[0].pixels[:96, :96, :3]
    ours = crops._jpeg(torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float())
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=80, subsampling=2)
    theirs = np.asarray(Image.open(buffer), np.float32)
    away = np.abs(ours[0].permute(1, 2, 0).numpy() - theirs).mean()
    lost = np.abs(rgb - theirs).mean()
    assert away < 0.5 * lost


def test_the_teacher_says_what_both_bundles_say(images, teacher):
    tile = images[0].pixels[..., :3]
    x = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].float() / 255
    lesson = teacher(x)
    for name in ("he-v2", "he-v1-fast"):
        own = load_bundle(str(WEIGHTS / name)).own_detector
        assert isinstance(own, StarDistDetector)
        dense = own.infer(tile).dense
        np.testing.assert_allclose(lesson.prob[0].numpy(), dense.prob, atol=1e-4)
        np.testing.assert_allclose(lesson.dist[0].numpy(), dense.dist, atol=1e-3)
        if name == "he-v2":
            np.testing.assert_allclose(lesson.near[0].numpy(), dense.marker_features, atol=1e-3)
        else:
            marker = torch.from_numpy(dense.marker_logit).sigmoid().numpy()
            np.testing.assert_allclose(lesson.marker[0].numpy(), marker, atol=1e-4)


@pytest.mark.slow
def test_the_loss_falls_and_a_stopped_run_goes_on(images, teacher, tmp_path):
    state = tmp_path / "state.pt"
    first = training_of(images, teacher)
    rows = run(first, tmp_path / "run", seconds=1e6, steps=14, state=state, look_every=2)
    assert rows[-1]["step"] == 14
    assert rows[-1]["total"] < 0.6 * rows[0]["total"]
    again = training_of(images, teacher)
    rows = run(again, tmp_path / "run", seconds=1e6, steps=16, state=state, look_every=2)
    assert [r["step"] for r in rows] == [16]
    written = json.loads((tmp_path / "run" / student.LOG).read_text())
    assert written["rows"][-1]["step"] == 16
    net = student_of(tmp_path / "run" / student.WEIGHTS)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for kept, average in zip(net(x), again.average(x), strict=True):
            torch.testing.assert_close(kept, average, atol=1e-3, rtol=1e-3)


def test_the_rate_ends_at_zero():
    assert student.rate_at(1.0) == pytest.approx(0, abs=1e-9)
    assert student.rate_at(0.03) == pytest.approx(1)
    assert student.rate_at(0.0) < 0.1


@pytest.mark.parametrize("name", ["he-v1-fast", "he-v2"])
def test_a_bundle_with_a_student_is_read(name, tmp_path):
    from dataclasses import replace

    from lymphinfer.nuclei.stardist.network import build_network

    torch.manual_seed(0)
    net = build_network(replace(NETWORK, batch_norm=False)).eval()
    decoding = {"prob_threshold": 0.45, "nms_threshold": 0.3, "refine_at": [0.3, 0.6]}
    with_student(WEIGHTS / name, tmp_path / "small", net, decoding)
    bundle = load_bundle(str(tmp_path / "small"))
    own = bundle.own_detector
    assert isinstance(own, StarDistDetector)
    assert own.prob_threshold == 0.45 and own.net.config.encoder == "compact"
    tile = made_image("brca/x", side=96).pixels[..., :3]
    found = bundle.detector.decode(bundle.detector.infer(tile))
    assert (found.near is not None) == (name == "he-v2")
    assert found.marker_logits is not None


@pytest.mark.slow
def test_the_pack_holds_training_images_only(shared_data, tmp_path):
    counts = pack(shared_data, tmp_path / "student.npz")
    assert counts == {"consep": 24, "brca": 75, "c01": 37, "cmu": 1}
    images = unpack(tmp_path / "student.npz")
    names = {i.name for i in images}
    assert not names & {"consep/train_8", "consep/train_16", "consep/train_22"}
    assert all(not n.split("/")[1].startswith(("test", "val")) for n in names)
    first = next(i for i in images if i.name.startswith("consep/"))
    assert first.pixels.shape == (769, 769, 4)
    dark = first.pixels[..., 0][first.pixels[..., 3] > 120].mean()
    assert dark < first.pixels[..., 0][first.pixels[..., 3] == 0].mean() - 20
