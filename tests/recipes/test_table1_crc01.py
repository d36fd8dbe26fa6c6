"""Table 1 on CRC01: trained on a small made slide, measured, and written as tables."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.evidence import Evidence
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.markers.patches import cut_patches
from lymphinfer.panel import PANELS
from lymphinfer.predict.settings import PredictSettings
from recipes.he.crc01 import read_slide
from recipes.orion_crc01 import bundle, cells, plan, table1, table1_gpu
from recipes.orion_crc01.bundle import make_bundle
from recipes.orion_crc01.device_slide import DeviceSlide, change_stain
from recipes.orion_crc01.plan import Kind, Row
from recipes.orion_crc01.table1 import RESULT, measure_run
from recipes.orion_crc01.tables import PAGE, paper_row, tables_of, with_tables
from tests.predict.conftest import disc_bundle, disc_slide
from tests.recipes.made_slide import write_slide

__all__ = ["disc_bundle", "disc_slide"]

TINY = "test_resnet"
FAR = {"bundle": "far", "markers": {"CD20": {"auroc": [0.9, 0.8, 0.95], "positive": 3,
                                             "negative": 9}}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table1")
    write_slide(folder / "slide", columns=3)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "TEST_COLUMNS", (2,))
        patch.setattr(cells, "VAL_COLUMNS", (1,))
        patch.setitem(plan.KINDS, TINY, Kind(16, (3e-3, 3e-3), 1, 1, 1, 200, 200))
        patch.setitem(plan.TITLES, TINY, "tiny")
        rows = (
            Row("bundle", "bundle", TINY, 1),
            *plan._table(TINY),
            Row("size-14px", "size", TINY, 1, patch_px=14, pretrained=False),
            Row("panel-immune", "panel", TINY, 1, panel="immune"),
        )
        patch.setattr(table1_gpu, "ROWS", rows)
        # As small as it is cut: what costs is the enlarged picture.
        for module in (plan, table1_gpu, bundle):
            patch.setattr(module, "INPUT_PX", 28)
        yield


@pytest.fixture(scope="module")
def run(folder):
    words = ["--slide", folder / "slide", "--out", folder / "run", "--device", "cpu"]
    table1_gpu.run(
        table1_gpu.parse(
            [str(w) for w in (*words, "--steps", "3", "--cells", "60", "--batch", "8")]
        )
    )
    return folder / "run"


@pytest.fixture(scope="module")
def results(folder, run):
    return measure_run(read_slide(folder / "slide"), run / "table1.npz", replicates=20)


def test_patches_on_the_device_are_those_that_a_slide_is_predicted_from(folder):
    slide = read_slide(folder / "slide")
    index = np.r_[0:40, len(slide.xy) - 40 : len(slide.xy)]
    here = DeviceSlide.load(slide.he, slide.xy, torch.device("cpu"))
    cut = here.cut(torch.from_numpy(index), 28)
    known = cut_patches(slide.he, slide.xy[index], 28)
    assert np.array_equal((cut * 255).round().byte().permute(0, 2, 3, 1).numpy(), known)


def test_a_turned_patch_has_the_same_pixels_and_another_stain_the_same_shape(folder):
    slide = read_slide(folder / "slide")
    here = DeviceSlide.load(slide.he, slide.xy, torch.device("cpu"))
    index, generator = torch.arange(50), torch.Generator().manual_seed(1)
    plain, turned = here.cut(index, 28), here.cut(index, 28, generator)
    assert not torch.equal(plain, turned)
    assert torch.equal(plain.flatten(1).sort().values, turned.flatten(1).sort().values)
    changed = change_stain(plain, generator)
    assert changed.shape == plain.shape and changed.min() >= 0 and changed.max() <= 1
    different = (changed - plain).abs().mean(dim=(1, 2, 3)) > 1e-3
    assert 0 < different.sum() < 50


def test_no_patch_of_a_training_cell_shows_a_held_out_column(folder):
    slide = read_slide(folder / "slide")
    split = cells.split_of(slide)
    assert set(slide.column[split == "test"]) == {2} and set(slide.column[split == "val"]) == {1}
    assert slide.xy[split == "train", 0].max() < 1024 - 56


def test_every_row_is_trained_measured_and_in_a_table(results):
    assert [row["key"] for row in results["rows"]] == [r.key for r in table1_gpu.ROWS]
    assert not any("failed" in row for row in results["rows"])
    for row in results["rows"]:
        assert set(row["metrics"]) == set(PANELS[row["panel"]].names)
        assert all(f["steps"] == 3 for f in row["fits"])
        assert len(row["fits"]) == (1 if row["multitask"] else 4)
    tables = tables_of(results, FAR)
    # Three steps are too few to say anything.
    assert tables["table-1"].count("| tiny |") == 4 and "→" not in tables["wbce"]
    for row in results["rows"]:
        row["fits"] = [{**fit, "steps": 40} for fit in row["fits"]]
    assert tables_of(results, FAR)["wbce"].count("→") == 8
    assert "CD163" in tables["panels"] and "| 18 | 14 |" in tables["sizes"]


def test_the_weights_of_the_row_that_ships_come_back_whole(run, results):
    weights = load_file(run / "weights.safetensors")
    own = sum(t.numel() for n, t in weights.items() if n.startswith("paper."))
    assert own >= results["rows"][0]["parameters"]


def test_a_row_that_fails_does_not_take_the_others_with_it(folder, monkeypatch):
    train = table1_gpu.Run.train

    def fails(self, row):
        if row.group == "size":
            raise torch.cuda.OutOfMemoryError("no memory")
        train(self, row)

    monkeypatch.setattr(table1_gpu.Run, "train", fails)
    words = ["--slide", folder / "slide", "--out", folder / "failed", "--device", "cpu"]
    state = table1_gpu.run(
        table1_gpu.parse(
            [str(w) for w in (*words, "--steps", "1", "--cells", "60", "--rows", "size,panel")]
        )
    )
    assert ["failed" in row for row in state.rows] == [True, False]
    assert "failed" in tables_of({"rows": state.rows[:1]}, FAR)["training"]


def test_the_paper_has_twelve_of_the_rows():
    table = [row for row in plan.ROWS if row.group == "table"]
    found = [paper_row(vars(row)) for row in table]
    assert len(table) == 16 and len({p.key for p in found if p is not None}) == 12


def test_the_page_has_the_tables_of_the_measured_rows():
    results, far = (json.loads(path.read_text("utf-8")) for path in (RESULT, table1.FAR))
    page = PAGE.read_text("utf-8")
    assert with_tables(page, tables_of(results, far)) == page


def test_a_run_becomes_a_bundle_that_predicts_with_the_detector_that_it_names(
    folder, run, disc_bundle, disc_slide, tmp_path, monkeypatch
):
    monkeypatch.setenv("LYMPHINFER_WEIGHTS", str(disc_bundle.parent))
    slide = read_slide(folder / "slide")
    made = make_bundle(slide, run, tmp_path / "paper", detector=disc_bundle.name)
    assert {(m.evidence, m.patients) for m in made.markers} == {(Evidence.STAIN, 1)}
    card = (tmp_path / "paper" / "CARD.md").read_text("utf-8")
    assert "**One patient**" in card and disc_bundle.name in card and "28 px at 1.3" in card
    found = predict_slide(
        disc_slide[0], tmp_path / "out",
        settings=PredictSettings(bundle=str(tmp_path / "paper"), device="cpu"),
    )  # fmt: skip
    assert found.n_nuclei > 100 and set(found.summary["markers"]) == set(made.panel.names)
    assert found.summary["bundle"]["detector"]["name"] == disc_bundle.name
    assert any(f"detector of {disc_bundle.name}" in text for text in found.summary["warnings"])


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_one_command_gives_each_step_what_it_knows(tmp_path):
    told = tmp_path / "told.txt"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{told}"\n')
    python.chmod(0o755)
    (tmp_path / "slide" / "CD45").mkdir(parents=True)
    script = Path(table1.__file__).with_name("run.sh")
    words = [script, tmp_path / "slide", tmp_path / "run", tmp_path / "made", "cpu", "60"]
    subprocess.run(list(map(str, words)), check=True, env={**os.environ, "PYTHON": str(python)})
    steps = [line.split() for line in told.read_text().splitlines()]
    assert [s[1].rpartition(".")[2] for s in steps] == [
        "table1_gpu", "table1", "bundle", "figures", "lymphinfer",
    ]  # fmt: skip
    for _, module, *rest in steps[:-1]:
        source = Path(importlib.util.find_spec(module).origin).read_text("utf-8")
        assert all(f'"{word}"' in source for word in rest if word.startswith("--"))
    assert steps[-1][2:] == ["weights", "info", str(tmp_path / "made")]


def test_the_bundle_that_ships_is_of_the_paper_s_form_and_says_what_it_rests_on():
    manifest = read_manifest(find_bundle("crc01-paper-v1"))
    network = manifest.classifier["network"]
    assert network["patch_px"] * network["enlarge"] == 112 and not network["independent"]
    assert network["patch_px"] * manifest.patch_mpp == pytest.approx(36, abs=1)
    row = next(r for r in json.loads(RESULT.read_text("utf-8"))["rows"] if r["key"] == "bundle")
    for marker in manifest.markers:
        known = row["metrics"][marker.name]["auroc"]
        assert (marker.auroc, *marker.auroc_interval) == pytest.approx(known, abs=0.004)
