"""The far scale's training on a small made slide: crops, labels, and a run that goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes.he import far
from recipes.he.crc01 import MARKERS, hard_labels, read_channel, read_slide, soft_labels
from recipes.he.far_data import CHANNELS, FarData
from recipes.he.far_images import (
    brought_down,
    pack_others,
    read_brca,
    read_consep,
    read_others,
)

from .made_slide import write_others, write_slide

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    xy = write_slide(root / "slide")
    write_others(root)
    return root, xy


@pytest.fixture(scope="module")
def data(folders):
    root, _ = folders
    slide = read_slide(root / "slide")
    light = np.stack([read_channel(root / "slide" / m, slide.he.shape[:2]) for m in MARKERS])
    others = read_brca(root / "brca-m2c" / "train") + read_consep(root / "consep" / "train")
    return FarData(slide, [2], light, others, np.full((1, 3), 0.4), crops=4, plain=1.0)


def test_a_crop_s_nuclei_lie_where_its_pixels_show_them(data):
    seen = 0
    for _ in range(4):
        batch = data.batch()
        own = batch.crop < data.crops
        x, y = batch.where[own].round().long().clamp(0, data.side_px - 1).T
        grey = batch.x.mean(dim=1)
        dots = torch.stack(
            [grey[batch.crop[own], (y + dy).clamp(0, 159), (x + dx).clamp(0, 159)]
             for dy in (-1, 0) for dx in (-1, 0)]
        ).amin(dim=0)  # fmt: skip
        assert dots.median() < grey.median() - 0.2
        assert (dots < grey.median() - 0.1).float().mean() > 0.97
        seen += len(x)
    assert seen > 500


def test_light_lies_on_positive_nuclei_and_on_no_other(data):
    batch = data.batch()
    own = batch.crop < data.crops
    x, y = (batch.where[own] / 2).long().clamp(0, data.side_px // 2 - 1).T
    light = batch.fluorescence[batch.crop[own], 0, y, x]
    positive = batch.label[own, 0] == 1
    assert light[positive].mean() > 0.2
    assert light[~positive].mean() < 0.05


def test_nothing_of_a_held_out_column_is_seen(data):
    assert (data.slide.column[data.any] != 2).all()
    for _ in range(20):
        x, _ = data._place()
        assert x + 192 <= 2 * 1024


def test_other_laboratories_say_cd45_and_nothing_else(data):
    batch = data.batch()
    other = batch.crop >= data.crops
    assert other.any()
    assert (batch.weight[other, 0] > 0).all()
    assert (batch.weight[other, 1:] == 0).all()
    assert set(batch.label[other, 0].tolist()) == {0.0, 1.0}


def test_labels_have_three_ranges_and_no_child_without_its_parent(folders):
    slide = read_slide(folders[0] / "slide")
    slide.values["CD45"][:6] = [0, 3, 4, 24, 25, 0]
    slide.values["CD3e"][:6] = [0, 0, 0, 0, 0, 99]
    hard, soft = hard_labels(slide, CHANNELS), soft_labels(slide, CHANNELS)
    assert hard[:5, 0].tolist() == [0, 0, -1, -1, 1]
    assert hard[5, 1] == -1
    assert 0 < soft[2, 0] < soft[3, 0] < 1


def test_an_image_brought_down_keeps_its_points():
    image = np.full((400, 400, 3), 255, np.uint8)
    image[200:208, 304:312] = 0
    small, points = brought_down(image, 0.325, np.array([[308.0, 204.0]]))
    assert small.shape[:2] == (100, 100)
    np.testing.assert_allclose(points, [[77.0, 51.0]])
    assert small[50:52, 76:78].mean() < 60


def run(folders, out, *options):
    root, _ = folders
    command = ["far", "--slide", str(root / "slide"), "--data", str(root), "--out", str(out),
               "--crops", "2", "--others", "1", "--hold-out", "2", "--looks", "1",
               *options]  # fmt: skip
    old, sys.argv = sys.argv, command
    try:
        far.main()
    finally:
        sys.argv = old


@pytest.mark.slow
def test_a_run_ends_in_weights_and_scores_and_another_begins_from_them(folders, tmp_path):
    run(folders, tmp_path / "a", "--steps", "3", "--precision", "fp32")
    net = far.load_trained(tmp_path / "a").net
    assert net.config.outputs[0] == "CD45" and len(net.config.outputs) == 19
    look = json.loads((tmp_path / "a" / "looks.jsonl").read_text().splitlines()[-1])
    assert look["step"] == 3 and look["columns"] == [2] and len(look["CD45"]) == 2
    assert json.loads((tmp_path / "a" / "settings.json").read_text())["held_out"] == [2]
    # All is done: the same command does no further step.
    run(folders, tmp_path / "a", "--steps", "3", "--precision", "fp32")
    again = far.load_trained(tmp_path / "a").net
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    run(folders, tmp_path / "b", "--steps", "1", "--initial", str(tmp_path / "a"))
    assert (tmp_path / "b" / "far.safetensors").exists()
    run(folders, tmp_path / "c", "--steps", "2", "--teacher", str(tmp_path / "a"),
        str(tmp_path / "b"), "--widths", "16,24", "--blocks", "1,1", "--side", "128",
        "--workers", "1", "--drop", "0.1")  # fmt: skip
    assert far.load_trained(tmp_path / "c").net.config.widths == (16, 24)
    run(folders, tmp_path / "d", "--steps", "1", "--initial", str(WEIGHTS / "he-v2"))
    shipped = load_file(WEIGHTS / "he-v2" / "far.safetensors")["tell.0.weight"].float()
    begun = far.load_trained(tmp_path / "d").net.tell[0].weight
    assert (begun - shipped).abs().max() < 0.1 * shipped.abs().max()


def test_packed_images_are_those_of_the_folder(folders, tmp_path):
    root, _ = folders
    pack_others(root, tmp_path / "others.npz")
    for one, other in zip(read_others(root, 300), read_others(tmp_path / "others.npz", 300),
                          strict=True):  # fmt: skip
        assert torch.equal(one.pixels, other.pixels) and min(one.pixels.shape[1:]) >= 300
        np.testing.assert_array_equal(one.xy, other.xy)
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_array_equal(one.weight, other.weight)


def test_plans_drawn_by_other_processes_make_the_same_kind_of_batch(data):
    batches = data.batches(workers=1)
    first, second = next(batches), next(batches)
    assert first.x.shape == second.x.shape == data.batch().x.shape
    assert not torch.equal(first.x, second.x)


def test_soft_labels_of_a_teacher_are_the_optimum():
    told = torch.rand(50, len(far.OUTPUTS), generator=torch.Generator().manual_seed(0))
    best = far.taught(torch.logit(told), told)
    for change in (-0.3, 0.3):
        assert far.taught(torch.logit(told) + change, told) > best


def test_the_rate_rises_and_falls():
    rates = [far.rate_at(p / 100, 1.0) for p in range(101)]
    assert rates[0] < 0.1 and rates[100] < 1e-3
    assert max(rates) == pytest.approx(1, abs=1e-3) and rates.index(max(rates)) == 8
