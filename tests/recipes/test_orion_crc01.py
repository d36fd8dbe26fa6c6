from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.cli.app import app
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.gates_file import read_gates
from lymphinfer.panel import PANELS
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides.planes import Planes
from recipes.he.crc01 import read_slide
from recipes.orion_crc01.cohort import disc_mask, write_cohort
from recipes.orion_crc01.gates import report
from recipes.orion_crc01.quantified import rank_correlations
from tests.predict.conftest import disc_bundle, disc_slide
from tests.recipes.made_slide import write_slide
from tests.training.training_made import retrain_config

__all__ = ["disc_bundle", "disc_slide"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crc01")
    write_slide(folder / "tiles")
    write_cohort(folder / "tiles", folder / "cohort")
    return folder / "cohort"


def run(*words):
    done = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_pixel_between_two_nuclei_is_the_nearer_ones():
    mask = disc_mask(np.array([[10, 10], [14, 10]]), (20, 30))
    assert mask[10, 11] == 1 and mask[10, 13] == 2
    assert (mask == 1).sum() + (mask == 2).sum() == (mask > 0).sum() and mask[10, 6] == 0


def test_the_cohort_passes_its_check_and_says_that_it_is_one_patient(cohort):
    told = run("cohort", "check", cohort)
    assert "nothing wrong" in told and "One patient" in told
    opened = open_cohort(cohort)
    assert opened.layout.file.one_patient and "one patient" in opened.layout.file.about
    assert opened.slides[0].open_he().mpp == pytest.approx(1.3)


def test_images_and_table_share_a_frame(cohort):
    slide = open_cohort(cohort).slides[1]
    rows = np.loadtxt(slide.cells, delimiter=",", skiprows=1)
    with Planes(slide.mask) as mask:
        labels = mask.read_plane(0, 0, 0, *mask.size)
    for number, x, y in rows[:50, [0, -2, -1]].astype(int):
        assert labels[y, x] == number


@pytest.mark.slow
def test_gates_are_proposed_where_most_cells_lie_at_the_floor_of_eight_bits(cohort, tmp_path):
    run("gate", "propose", cohort, "--gates", tmp_path / "gates.toml")
    run("gate", "show", cohort, "--gates", tmp_path / "gates.toml", "--out", tmp_path / "show")
    run("gate", "apply", cohort, "--gates", tmp_path / "gates.toml", "--out", tmp_path / "labels")
    gates = read_gates(tmp_path / "gates.toml")
    for slide in gates.slides.values():
        assert slide.blank_max is None
        for gate in slide.markers.values():
            assert 0 < gate.negative_max <= gate.positive_min <= 120 < gate.overexposure_min
    assert len(list((tmp_path / "show").glob("*.png"))) == 3


def test_another_panel_of_the_same_cohort_is_gated_by_its_name(cohort, tmp_path):
    words = (cohort, "--gates", tmp_path / "gates.toml", "--panel", "b-cell-macrophage")
    run("gate", "propose", *words)
    told = run("gate", "apply", *words)
    assert "One patient" in told
    assert all(name in told for name in ("CD20", "CD68", "CD163"))


def test_the_report_has_the_published_share_beside_the_proposed_one(cohort):
    lines = report(read_slide(cohort.parent / "tiles"), "t-cell")
    first = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    # Every third of the made nuclei is positive; a few lie over one another.
    assert first[0] == "CD45" and float(first[3]) == pytest.approx(1 / 3, abs=0.01)
    assert first[4] == "0.192" and len(lines) == 6


@pytest.mark.slow
def test_another_panel_is_learned_bundled_as_one_patient_and_predicted(
    cohort, tmp_path, disc_bundle, disc_slide
):
    gates = tmp_path / "gates.toml"
    run("gate", "propose", cohort, "--gates", gates, "--panel", "b-cell-macrophage")
    made = retrain_config(disc_bundle)
    data = replace(
        made.data, panel="b-cell-macrophage", mpp=1.3, splits=str(cohort / "splits.toml")
    )
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(replace(made, data=data).to_dict()))
    words = ("--cohort", cohort, "--gates", gates, "--config", config, "--device", "cpu")
    run("retrain", *words, "--out", tmp_path / "mine")
    bundle = read_manifest(tmp_path / "mine")
    assert bundle.panel is PANELS["b-cell-macrophage"]
    assert [m.patients for m in bundle.markers] == [1] * 4
    assert bundle.mpp == read_manifest(disc_bundle).mpp and bundle.classifier["mpp"] == 1.3
    card = (tmp_path / "mine" / "CARD.md").read_text("utf-8")
    assert "**one patient**" in card and "parts of one patient's slides" in card
    run("evaluate", tmp_path / "mine", "--work", tmp_path / "mine.work", "--out", tmp_path / "eval",
        "--cohort", cohort, "--figure", "--bootstrap", 5, "--device", "cpu")  # fmt: skip
    assert list((tmp_path / "eval").glob("figure_*.png"))
    found = predict_slide(
        disc_slide[0], tmp_path / "out",
        settings=PredictSettings(bundle=str(tmp_path / "mine"), device="cpu"),
    )  # fmt: skip
    assert set(found.summary["markers"]) == set(bundle.panel.names) and found.n_nuclei > 100


def test_measured_nuclei_are_ranked_as_in_the_table(cohort):
    found = rank_correlations(cohort, "column-01")
    assert min(found[name] for name in ("CD45", "CD3e", "CD4", "CD8a")) > 0.8
