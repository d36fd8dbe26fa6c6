"""The summary's numbers, counted again by hand."""

import errno
import json
import os

import numpy as np
import pytest

from lymphinfer.errors import ResultError
from lymphinfer.export.summary import Counts, summarise, write_summary
from lymphinfer.panel import TCELL_PANEL
from tests.cells.nuclei_made import nuclei, outlines

CALLS = np.array([0, 0, 0, 1, 2, 3, 3, 4])
PROBABILITIES = np.tile([[0.8, 0.4, 0.2, 0.1]], (8, 1))


def summary(table, tissue_mm2=2.0, **changes):
    values = {
        "tissue_mm2": tissue_mm2,
        "slide": {"name": "lung.svs", "identity": "abc", "mpp": 0.25, "mpp_source": "metadata"},
        "bundle": {"name": "he-v1", "sha256": "ab" * 32},
        "evidence": {"CD45": {"kind": "stain", "auroc": 0.9}, "CD4": {"kind": "base-rate"}},
        "arguments": {"device": "cpu"},
        "seconds": {"detect": 1.23456},
        "warnings": ["simulated"],
    }
    return summarise(Counts(TCELL_PANEL).add_all([table]), **{**values, **changes})


@pytest.fixture
def table():
    return nuclei(outlines(8), calls=CALLS, probabilities=PROBABILITIES)


def test_each_nucleus_counts_once_among_the_calls(table):
    calls = summary(table)["calls"]
    assert {name: call["count"] for name, call in calls.items()} == {
        "Other": 3,
        "CD45": 1,
        "CD45: CD3e": 1,
        "CD45: CD3e: CD4": 2,
        "CD45: CD3e: CD8a": 1,
    }
    assert calls["CD45: CD3e: CD4"]["per_mm2"] == 1.0
    assert calls["CD45"]["color"] == list(TCELL_PANEL.color("CD45"))


def test_a_nucleus_counts_for_every_marker_of_its_lineage(table):
    markers = summary(table)["markers"]
    assert [markers[name]["positive"] for name in TCELL_PANEL.names] == [5, 4, 2, 1]
    assert markers["CD45"]["positive_per_mm2"] == 2.5


def test_expected_counts_are_sums_of_probabilities(table):
    markers = summary(table)["markers"]
    assert [markers[n]["expected"] for n in TCELL_PANEL.names] == [6.4, 3.2, 1.6, 0.8]
    assert markers["CD45"]["expected_per_mm2"] == 3.2
    assert markers["CD8a"]["mean_probability"] == 0.1


@pytest.mark.parametrize("tissue_mm2", [0.0, None])
def test_no_tissue_gives_no_densities(table, tissue_mm2):
    found = summary(table, tissue_mm2)
    assert found["nuclei"] == 8
    assert found["nuclei_per_mm2"] is None
    assert found["markers"]["CD45"]["expected_per_mm2"] is None


def test_a_slide_without_nuclei_has_zeros_and_no_means():
    found = summary(nuclei(np.empty((0, 32, 2))))
    assert (found["nuclei"], found["nuclei_per_mm2"]) == (0, 0.0)
    assert found["mean_area_um2"] is None
    assert found["markers"]["CD3e"]["mean_probability"] is None


def test_counting_in_pieces_gives_the_same_as_at_once(table):
    pieces = Counts(TCELL_PANEL).add_all([table.slice(0, 3), table.slice(3)])
    whole = Counts(TCELL_PANEL).add_all([table])
    assert pieces.calls.tolist() == whole.calls.tolist()
    assert pieces.expected("CD45") == pytest.approx(whole.expected("CD45"))


def test_missing_probabilities_do_not_count_in_the_mean():
    probabilities = np.array([[0.4, np.nan, 0, 0], [0.6, 0.5, 0, 0]])
    markers = summary(nuclei(outlines(2), probabilities=probabilities))["markers"]
    assert markers["CD3e"]["mean_probability"] == 0.5
    assert markers["CD45"]["mean_probability"] == 0.5


def test_the_summary_says_what_made_it_and_how_sure_it_is(table, tmp_path):
    write_summary(tmp_path / "summary.json", summary(table))
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert found["slide"]["mpp_source"] == "metadata"
    assert found["bundle"]["sha256"] == "ab" * 32
    assert found["markers"]["CD45"]["evidence"]["auroc"] == 0.9
    assert found["markers"]["CD3e"]["evidence"] is None
    assert found["seconds"] == {"detect": 1.235}
    assert found["warnings"] == ["simulated"]
    assert {"lymphinfer", "python", "numpy", "torch", "stardist"} <= set(found["versions"])


def test_a_full_disk_is_named(table, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match=r"summary\.json .*disk is full"):
        write_summary(tmp_path / "summary.json", summary(table))
    assert not list(tmp_path.iterdir())
