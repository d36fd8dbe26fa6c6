"""`train-detector`: annotations in, a bundle that predict takes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.cli.app import app
from lymphinfer.nuclei.datasets import read_folder
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig
from lymphinfer.nuclei.hovernet.train import CropDataset, HoVerNetTrainer, HoVerNetTraining
from tests.predict.conftest import disc_bundle as disc_bundle
from tests.predict.conftest import disc_image

REASON = "TIAToolbox is not installed (extra hovernet)"


@pytest.fixture
def annotated(tmp_path):
    folder = tmp_path / "annotated"
    folder.mkdir()
    for seed in range(3):
        image, centers = disc_image(200, 180, seed=seed)
        yy, xx = np.mgrid[:180, :200]
        labels = np.zeros(image.shape[:2], np.uint16)
        for i, (x, y) in enumerate(centers, start=1):
            labels[(xx + 0.5 - x) ** 2 + (yy + 0.5 - y) ** 2 <= 64] = i
        Image.fromarray(image).save(folder / f"{seed}.png")
        ids = np.arange(1, len(centers) + 1)
        np.savez(folder / f"{seed}.npz", inst_map=labels, nucleus_id=ids, class7=1 + ids % 2)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, ["train-detector", *map(str, arguments)])
    assert result.exit_code == 0, result.output or result.exception
    return result.output


@pytest.mark.parametrize("arch", ["hovernet", "stardist"])
def test_annotations_become_a_bundle(arch, annotated, disc_bundle, tmp_path):
    if arch == "hovernet":
        pytest.importorskip("tiatoolbox", reason=REASON)
    out = tmp_path / f"my-{arch}"
    text = run(annotated, "--arch", arch, "--out", out, "--steps", 2, "--batch", 1, "--width", 8,
               "--markers-from", disc_bundle, "--device", "cpu", "--validate-every", 2)  # fmt: skip
    assert "Held out: F1" in text
    bundle = load_bundle(out)
    assert bundle.manifest.detector["kind"] == arch
    assert bundle.manifest.name == out.name
    card = (out / "CARD.md").read_text()
    assert "2 images" in card and "train-detector" in card and "discs" in card
    if arch == "hovernet":
        assert bundle.detector.config.types == ("Other", "Leukocyte")
    refused = CliRunner().invoke(app, ["train-detector", str(annotated), "--out", str(out)])
    assert refused.exit_code != 0 and "is there already" in str(refused.exception)


def test_a_run_goes_on_where_it_stopped_and_its_loss_falls(annotated, tmp_path):
    pytest.importorskip("tiatoolbox", reason=REASON)
    images = read_folder(annotated, mpp=0.325)

    def config(steps):
        return HoVerNetTraining(
            network=HoVerNetConfig("fast", (), 8), mpp=0.5, crop_px=36, batch_size=1,
            steps=steps, validate_every=4, autocast=False,
        )  # fmt: skip

    HoVerNetTrainer(config(4), tmp_path / "run").fit(images)
    again = HoVerNetTrainer(config(8), tmp_path / "run")
    assert again.step == 4
    assert len(again.optimizer.state_dict()["state"]) > 10
    again.fit(images)
    assert again.step == 8
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(rows) == 2


def test_targets_fit_the_network_s_output(annotated):
    config = HoVerNetTraining(network=HoVerNetConfig("original"), mpp=0.325, crop_px=80)
    images = read_folder(annotated, mpp=0.325)
    sample = CropDataset(images, config).sample(np.random.default_rng(0))
    assert sample["image"].shape == (3, 270, 270)
    assert sample["nucleus"].shape == sample["kind"].shape == (80, 80)
    assert sample["distance"].shape == (2, 80, 80)
    assert set(torch.unique(sample["nucleus"]).tolist()) <= {-1, 0, 1}
    inside = sample["nucleus"] == 1
    assert (sample["kind"][inside] > 0).all()
