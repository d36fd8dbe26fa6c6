"""`train-detector`: annotations in, a bundle that predict takes out."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.cli.app import app
from lymphinfer.errors import DataError
from lymphinfer.nuclei.augment import Augmentation
from lymphinfer.nuclei.datasets import read_folder
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.training.detectors.hovernet import CropDataset, HoVerNetTrainer, HoVerNetTraining
from lymphinfer.training.detectors.stardist import TrainConfig
from lymphinfer.training.detectors.stardist import Trainer as StarDistTrainer
from tests.predict.conftest import disc_image
from tests.predict.conftest import patch_bundle as patch_bundle

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


@pytest.mark.parametrize("arch", [pytest.param("hovernet", marks=pytest.mark.slow), "stardist"])
def test_annotations_become_a_bundle(arch, annotated, patch_bundle, tmp_path):
    if arch == "hovernet":
        pytest.importorskip("tiatoolbox", reason=REASON)
    out = tmp_path / f"my-{arch}"
    given = [annotated, "--arch", arch, "--out", out, "--steps", 2, "--batch", 1, "--width", 8,
             "--markers-from", patch_bundle, "--device", "cpu", "--validate-every", 2]  # fmt: skip
    text = run(*given)
    assert "Held out: F1" in text
    bundle = load_bundle(out)
    assert bundle.manifest.detector["kind"] == arch
    assert bundle.manifest.name == out.name
    card = (out / "CARD.md").read_text()
    assert "2 images" in card and "discs" in card
    assert f"`{shlex.join(['lymphinfer', 'train-detector', *map(str, given)])}`" in card
    if arch == "hovernet":
        assert bundle.detector.config.types == ("Other", "Leukocyte")
    refused = CliRunner().invoke(app, ["train-detector", str(annotated), "--out", str(out)])
    assert refused.exit_code != 0 and "is there already" in str(refused.exception)


def test_a_run_goes_on_where_it_stopped_and_its_loss_falls(annotated, tmp_path):
    pytest.importorskip("tiatoolbox", reason=REASON)
    images = read_folder(annotated, mpp=0.325)

    config = HoVerNetTraining(
        network=HoVerNetConfig("fast", (), 8), mpp=0.5, crop_px=36, batch_size=1,
        steps=8, validate_every=4, bf16=False,
    )  # fmt: skip

    class Stopped(HoVerNetTrainer):
        def losses(self, batch):
            if self.step == 6:
                raise KeyboardInterrupt
            return super().losses(batch)

    with pytest.raises(KeyboardInterrupt):
        Stopped(config, tmp_path / "run").fit(images)
    again = HoVerNetTrainer(config, tmp_path / "run")
    assert again.step == 4
    assert len(again.optimizer.state_dict()["state"]) > 10
    again.fit(images)
    assert again.step == 8
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(rows) == 2


@pytest.fixture
def begun(annotated, tmp_path):
    """A small run of two steps, and what it was made with."""
    images = read_folder(annotated, mpp=0.325)
    network = StarDistConfig(n_filter_base=4, n_depth=1, n_conv_after_unet=8, n_rays=8)
    config = TrainConfig(network=network, mpp=0.5, crop_px=32, batch_size=1, steps=2,
                         validate_every=2, bf16=False)  # fmt: skip
    StarDistTrainer(config, tmp_path / "run", workers=0).fit({"own": images}, [])
    return images, config, tmp_path / "run"


def test_a_finished_run_is_taken_as_it_is_by_the_same_settings_and_images(begun):
    images, config, folder = begun
    again = StarDistTrainer(replace(config, validate_every=1), folder, workers=0)
    assert again.step == 2
    again.fit({"own": images}, [])
    assert len((folder / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 5e-4}, r"learning_rate was 0.001, is 0.0005"),
        ({"seed": 7}, "seed was 0, is 7"),
        ({"steps": 3}, "steps was 2, is 3"),
        ({"augmentation": replace(Augmentation(), rotate=0.5)}, r"augmentation.rotate was "),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(begun, change, words):
    """Its card would name what it was not made of."""
    _, config, folder = begun
    written = (folder / "config.json").read_bytes()
    with pytest.raises(DataError, match=words + r"(?s:.*)choose another folder \(--work\)"):
        StarDistTrainer(replace(config, **change), folder, workers=0)
    assert (folder / "config.json").read_bytes() == written


def test_a_run_does_not_go_on_with_other_images_or_from_other_weights(begun):
    images, config, folder = begun
    other = images[0].image.copy()
    other[0, 0] ^= 1
    changed = [replace(images[0], image=other), *images[1:]]
    for data in (changed, images[:2], [replace(i, mpp=0.3) for i in images]):
        with pytest.raises(DataError, match=r"images\.own was 3 images"):
            StarDistTrainer(config, folder, workers=0).fit({"own": data}, [])
    weights = build_network(config.network).state_dict()
    with pytest.raises(DataError, match="initial weights was"):
        StarDistTrainer(config, folder, initial=weights, workers=0)


def test_a_state_that_does_not_say_what_it_was_begun_with_is_refused(begun):
    _, config, folder = begun
    save_file(load_file(folder / "state.safetensors"), folder / "state.safetensors")
    with pytest.raises(DataError, match="not a checkpoint of this version"):
        StarDistTrainer(config, folder, workers=0)


@pytest.mark.slow
def test_train_detector_names_what_differs_and_what_to_do(annotated, patch_bundle, tmp_path):
    out = tmp_path / "mine"
    given = [annotated, "--out", out, "--batch", 1, "--markers-from", patch_bundle,
             "--device", "cpu", "--steps"]  # fmt: skip
    run(*given, 2)
    shutil.rmtree(out)
    result = CliRunner().invoke(app, ["train-detector", *map(str, [*given, 4])])
    assert "steps was 2, is 4" in str(result.exception) and not out.exists()


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
