from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from stardist.matching import matching
from torch.utils.data import DataLoader, IterableDataset

from lymphinfer.errors import DataError
from lymphinfer.nuclei.augment import (
    Augmentation,
    Crop,
    change_contrast,
    draw_veil,
    paint_melanin,
    perturb_stain,
    random_crop,
)
from lymphinfer.nuclei.datasets import read_annotated, read_folder, split_touching
from lymphinfer.nuclei.metrics import score_segmentation
from lymphinfer.nuclei.stardist.network import StarDistConfig
from lymphinfer.nuclei.stardist.targets import object_probability
from lymphinfer.training.detectors.hovernet import CropDataset as HoVerNetCrops
from lymphinfer.training.detectors.hovernet import HoVerNetTraining
from lymphinfer.training.detectors.stardist import (
    CropDataset,
    TrainConfig,
    Trainer,
    pool_over_instances,
)
from lymphinfer.training.detectors.trainer import learning_rate_factor, use_one_thread

STILL = Augmentation(scale=(1, 1), rotate=0, stain=0, stain_vectors=0, brightness=0, blur=0, jpeg=0,
                     noise=0, contrast=0, sharpen=0)  # fmt: skip


def write_image(folder, name="a", size=96):
    yy, xx = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    labels[(yy - 30) ** 2 + (xx - 30) ** 2 < 80] = 7
    labels[(yy - 60) ** 2 + (xx - 64) ** 2 < 100] = 9
    image = np.where(labels[..., None] > 0, (90, 50, 130), (230, 190, 210)).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}.png")
    np.savez(folder / f"{name}.npz", inst_map=labels, nucleus_id=np.array([7, 9]),
             class7=np.array([2, 4]))  # fmt: skip
    return folder / f"{name}.png"


def test_labels_become_consecutive_and_keep_their_class(tmp_path):
    item = read_annotated(write_image(tmp_path))
    assert item.n_nuclei == 2
    assert item.leukocyte.tolist() == [-1, 1, 0]
    assert item.instances[30, 30] == 1 and item.instances[60, 64] == 2


def test_an_image_without_labels_or_of_another_size_is_named(tmp_path):
    path = write_image(tmp_path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(DataError, match="no labels beside it"):
        read_annotated(path)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "a_mask.png")
    with pytest.raises(DataError, match="differ in size"):
        read_annotated(path)
    with pytest.raises(DataError, match="no annotated image"):
        read_folder(tmp_path / "nothing")


def test_two_touching_discs_are_cut_apart_and_a_lone_one_is_not():
    yy, xx = np.mgrid[:80, :120]
    mask = np.zeros((80, 120), bool)
    for cx, cy in ((25, 40), (47, 40), (95, 40)):
        mask |= (xx - cx) ** 2 + (yy - cy) ** 2 <= 13**2
    labels = split_touching(mask)
    assert labels.max() == 3
    assert len({labels[40, 25], labels[40, 47], labels[40, 95]}) == 3
    assert ((labels > 0) == mask).all()


def test_image_and_labels_stay_together_under_augmentation(tmp_path):
    item = read_annotated(write_image(tmp_path))
    source = Crop(item.image, item.instances, object_probability(item.instances))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(20):
        crop = random_crop(source, size_px=64, zoom=1.0, rng=rng, augmentation=Augmentation())
        assert crop.image.shape == (64, 64, 3)
        inside = crop.prob > 0.4
        assert (crop.instances[inside] > 0).all()
        if inside.any():
            hits += 1
            assert crop.image[inside][:, 0].mean() < 150
    assert hits > 5


def test_stain_perturbation_at_zero_strength_changes_nothing_and_white_stays_bright():
    rng = np.random.default_rng(0)
    image = rng.integers(30, 255, (32, 32, 3), dtype=np.uint8)
    same = perturb_stain(image, rng, STILL)
    assert np.abs(same.astype(int) - image).max() <= 1
    np.testing.assert_array_equal(change_contrast(image, 1.0), image)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert perturb_stain(white, rng, Augmentation(brightness=0)).min() >= 250


def test_more_contrast_darkens_nuclei_and_brightens_stroma():
    image = np.array([[[60, 30, 110], [235, 190, 215], [255, 255, 255]]], np.uint8)
    changed = change_contrast(image, 1.5).astype(int)
    nucleus, stroma, glass = changed[0] - image[0].astype(int)
    assert (nucleus < -10).all()
    assert (stroma > 5).all()
    assert (glass == 0).all()


def test_a_veil_darkens_smoothly_and_no_colour_more_than_green():
    rng = np.random.default_rng(3)
    image = np.full((96, 128, 3), 230, np.uint8)
    veiled = draw_veil(image, rng)
    assert veiled.shape == image.shape and veiled.dtype == np.uint8
    density = -np.log(veiled.mean(axis=(0, 1)) / 230)
    assert density[1] == density.max() and 0.01 < density[1] < 0.6
    steps = np.abs(np.diff(veiled.astype(int), axis=1))
    assert steps.max() <= 10


def test_melanin_is_brown_and_lies_on_and_around_the_nuclei_that_are_painted():
    yy, xx = np.mgrid[:120, :120]
    nucleus = (yy - 30) ** 2 + (xx - 30) ** 2 < 64
    image = np.full((120, 120, 3), 220, np.uint8)
    painted = paint_melanin(image, nucleus, np.random.default_rng(0))
    change = image.astype(int) - painted
    near = (yy - 30) ** 2 + (xx - 30) ** 2 < 144
    far = (yy - 90) ** 2 + (xx - 90) ** 2 < 400
    red, green, blue = change[near].mean(axis=0)
    assert 0 < red < green < blue
    assert change[nucleus].mean() > 0
    assert (change[far] == 0).all()
    nothing = np.zeros_like(nucleus)
    np.testing.assert_array_equal(paint_melanin(image, nothing, np.random.default_rng(0)), image)


def test_leukocytes_are_never_painted(tmp_path):
    item = read_annotated(write_image(tmp_path, size=96))
    config = TrainConfig(network=StarDistConfig(n_rays=8), mpp=0.25, crop_px=48, augmentation=STILL)
    plain = CropDataset({"a": [item]}, config)
    brown = CropDataset({"a": [item]}, replace(config, augmentation=replace(STILL, melanin=1.0)))
    # Stain and optics draw other numbers after the paint: one still image each.
    changed = {0: 0.0, 1: 0.0}
    for seed in range(30):
        before, after = (d.sample(np.random.default_rng(seed)) for d in (plain, brown))
        assert torch.equal(before["prob"], after["prob"])
        difference = (before["image"].int() - after["image"].int()).sum(dim=0)[::2, ::2]
        for label in changed:
            chosen = (before["marker"][0] == label) & (before["prob"] > 0.6)
            if chosen.any():
                changed[label] = max(changed[label], float(difference[chosen].max()))
    assert changed[0] > 20
    assert changed[1] < 6


def test_crops_of_hovernet_are_painted_too(tmp_path):
    item = read_annotated(write_image(tmp_path, size=160))
    config = HoVerNetTraining(crop_px=80, augmentation=STILL)
    brown = replace(config, augmentation=replace(STILL, melanin=1.0))
    seeds = range(4)
    plain, painted = (
        [HoVerNetCrops([item], c).sample(np.random.default_rng(s))["image"].int() for s in seeds]
        for c in (config, brown)
    )
    assert max(int((a - b).max()) for a, b in zip(plain, painted, strict=True)) > 10


def test_pooling_over_instances_is_the_mean_over_each_label():
    values = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    instances = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
    pooled = pool_over_instances(values, instances, 3)
    assert pooled[:2, 0].tolist() == [2.5, 12.5]
    assert np.isnan(pooled[2, 0])


def test_scores_are_the_means_of_stardists_own_over_images():
    truth = [np.kron(np.arange(16).reshape(4, 4), np.ones((9, 9), int)) for _ in range(2)]
    predicted = [np.roll(t, shift, axis=1) for t, shift in zip(truth, (1, 4), strict=True)]
    score = score_segmentation(truth, predicted)
    rows = [matching(t, p, thresh=0.5) for t, p in zip(truth, predicted, strict=True)]
    assert score.pq == pytest.approx(np.mean([r.panoptic_quality for r in rows]))
    assert score.f1_by_image == pytest.approx(np.mean([r.f1 for r in rows]))
    perfect = score_segmentation(truth, truth)
    assert (perfect.f1, perfect.pq, perfect.dice) == pytest.approx((1, 1, 1))


def test_the_rate_warms_up_and_ends_at_zero():
    factors = [learning_rate_factor(s, 200) for s in range(201)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == pytest.approx(1)
    assert factors[-1] == pytest.approx(0, abs=1e-9)


def test_a_run_goes_on_from_its_folder_and_learns(tmp_path):
    for i in range(2):
        write_image(tmp_path / "data", f"i{i}", size=160)
    images = read_folder(tmp_path / "data")
    config = TrainConfig(
        network=StarDistConfig(n_rays=8, n_filter_base=4, n_depth=2, n_conv_after_unet=8,
                               batch_norm=True, n_markers=1),
        mpp=0.325, crop_px=64, batch_size=2, steps=4, validate_every=2, bf16=False,
    )  # fmt: skip

    class Stopped(Trainer):
        def losses(self, batch):
            if self.step == 3:
                raise KeyboardInterrupt
            return super().losses(batch)

    with pytest.raises(KeyboardInterrupt):
        Stopped(config, tmp_path / "run").fit({"a": images}, images)
    resumed = Trainer(config, tmp_path / "run")
    assert resumed.step == 2
    net = resumed.fit({"a": images}, images)
    assert not net.config.batch_norm
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    assert not list((tmp_path / "run").glob("*.pt"))
    last, earlier = resumed.look(4).state_dict(), resumed.look(2).state_dict()
    assert all(torch.equal(last[name], value) for name, value in net.state_dict().items())
    assert any(not torch.equal(earlier[name], value) for name, value in last.items())


def test_crops_carry_targets_on_the_output_grid(tmp_path):
    write_image(tmp_path, size=200)
    config = TrainConfig(network=StarDistConfig(n_rays=8, n_markers=1), crop_px=64)
    batch = CropDataset({"a": read_folder(tmp_path)}, config).sample(np.random.default_rng(3))
    assert batch["image"].shape == (3, 64, 64)
    assert batch["prob"].shape == (32, 32) and batch["dist"].shape == (8, 32, 32)
    assert set(np.unique(batch["marker"].numpy())) <= {-1.0, 0.0, 1.0}


def test_a_run_keeps_the_looks_it_is_asked_for(tmp_path):
    write_image(tmp_path / "data", size=160)
    images = read_folder(tmp_path / "data")
    config = TrainConfig(
        network=StarDistConfig(n_rays=8, n_filter_base=4, n_depth=2, n_conv_after_unet=8,
                               n_markers=1, encoder="resnet"),
        mpp=0.325, crop_px=64, batch_size=2, steps=4, validate_every=100, bf16=False,
    )  # fmt: skip
    trainer = Trainer(config, tmp_path / "run", looks=(3,), workers=0)
    after = trainer.fit({"a": images}, []).state_dict()
    looked = trainer.look(3).state_dict()
    assert not torch.equal(looked["marker.1.weight"], after["marker.1.weight"])
    with pytest.raises(FileNotFoundError):
        trainer.look(2)


class Threads(IterableDataset):
    """How many threads each OpenMP library of this process would start."""

    def __iter__(self):
        import stardist.lib.stardist2d  # noqa: F401
        from threadpoolctl import threadpool_info

        yield torch.tensor([i["num_threads"] for i in threadpool_info()])


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: one thread anyway")
def test_a_process_that_cuts_crops_starts_one_thread():
    import stardist.lib.stardist2d  # noqa: F401

    plain = next(iter(DataLoader(Threads(), num_workers=1)))
    limited = next(iter(DataLoader(Threads(), num_workers=1, worker_init_fn=use_one_thread)))
    assert plain.max() > 1
    assert limited.max() == 1
