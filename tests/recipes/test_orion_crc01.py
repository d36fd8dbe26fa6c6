from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.gates_file import read_gates
from lymphinfer.orion.planes import Planes
from recipes.orion_crc01.cohort import disc_mask, write_cohort
from tests.recipes.made_slide import write_slide


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
    assert "nothing wrong" in run("cohort", "check", cohort)
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
    assert all(name in told for name in ("CD20", "CD68", "CD163"))
