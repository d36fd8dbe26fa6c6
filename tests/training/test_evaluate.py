"""An evaluation leaves predictions, numbers and pictures, and says what it could not do."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from lymphinfer.errors import DataError
from lymphinfer.paper.figure4 import draw_figures
from lymphinfer.training import metrics
from lymphinfer.training.evaluate import evaluate, find_stores
from lymphinfer.training.results import METRICS_JSON, METRICS_MD, PREDICTIONS


@pytest.fixture(scope="module")
def written(case, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    result = evaluate(
        trained.bundle.folder,
        trained.work,
        out,
        device="cpu",
        precision="no",
        replicates=20,
        cohort=case.cohort,
        draw=draw_figures,
    )
    return out, result


def test_a_bundle_is_measured_as_it_was_when_it_was_made(written, trained):
    _, result = written
    for one, other in zip(result.markers, trained.evaluation.markers, strict=True):
        np.testing.assert_allclose(one.auroc.value, other.auroc.value, atol=1e-6)
        np.testing.assert_allclose(one.threshold, other.threshold)


def test_the_numbers_follow_from_the_predictions_file(written):
    out, result = written
    table = pq.read_table(out / PREDICTIONS)
    for row in result.markers:
        key = row.marker.lower()
        labels = table[f"label_{key}"].to_numpy(zero_copy_only=False)
        labels = np.nan_to_num(labels.astype(float), nan=-1).astype(int)
        own = metrics.auroc(labels, table[f"p_{key}"].to_numpy())
        np.testing.assert_allclose(own, row.auroc.value)
    assert (table["p_cd3e"].to_numpy() <= table["p_cd45"].to_numpy() + 1e-6).all()


def test_files_and_pictures_are_there(written):
    out, result = written
    document = json.loads((out / METRICS_JSON).read_text())
    assert [m["marker"] for m in document["markers"]] == ["CD45", "CD3e", "CD4", "CD8a"]
    assert document["best_possible_auroc"]["CD45"] > 0.9
    assert result.best_possible == document["best_possible_auroc"]
    assert "Best possible AUROC" in (out / METRICS_MD).read_text()
    figures = list(out.glob("figure_*.png"))
    assert len(figures) == len(result.by_slide)
    batches = document["auroc_by_batch"]
    assert batches and all(name.startswith("batch ") for name in batches)
    assert len(batches) <= len(result.by_slide)
    assert "| batch " in (out / METRICS_MD).read_text()
    for name in ("roc.png", "precision_recall.png", "calibration.png"):
        with Image.open(out / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_figure_without_fluorescence_is_left_out_in_words(case, trained, tmp_path, caplog):
    cohort = tmp_path / "cohort"
    shutil.copytree(case.cohort, cohort, ignore=shutil.ignore_patterns("*-zlib.ome.tiff"))
    out = tmp_path / "out"
    options = {"device": "cpu", "replicates": 5, "draw": draw_figures}
    evaluate(trained.bundle.folder, trained.work, out, cohort=cohort, **options)
    assert not list(out.glob("figure_*.png"))
    assert "--only if" in caplog.text
    with pytest.raises(DataError, match="--cohort"):
        evaluate(trained.bundle.folder, trained.work, out, **options)


def test_a_training_run_can_be_measured_too(trained, tmp_path):
    run = next(trained.work.glob("train-*"))
    result = evaluate(run, trained.work, tmp_path, split="val", device="cpu", replicates=5)
    assert math.isnan(result.markers[0].threshold)
    assert result.markers[0].balanced_accuracy_chosen.reason
    with pytest.raises(DataError, match="neither a bundle"):
        evaluate(tmp_path, trained.work, tmp_path, device="cpu")


def test_what_there_is_not_is_named(trained, tmp_path):
    with pytest.raises(DataError, match=r"no patch store of dev at 32 px; found: .*of train at 32"):
        evaluate(trained.bundle.folder, trained.work, tmp_path, split="dev", device="cpu")


def test_an_unfinished_store_is_named_by_its_slide_where_it_matters(trained, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(trained.work, work, ignore=shutil.ignore_patterns("train-*"))
    stores = {split: find_stores(work, split, 32) for split in ("train", "test")}
    zarr.open_group(stores["train"][0], mode="r+").attrs["complete"] = False
    assert find_stores(work, "test", 32) == stores["test"]
    slide = stores["train"][0].stem
    with pytest.raises(DataError, match=rf"the patches of {slide} are unfinished.*retrain"):
        evaluate(trained.bundle.folder, work, tmp_path / "out", split="train", device="cpu")


def test_a_feature_bundle_cannot_be_measured_on_patches(base_bundle, trained, tmp_path):
    with pytest.raises(DataError, match="features, not patches"):
        evaluate(base_bundle, trained.work, tmp_path, device="cpu")
