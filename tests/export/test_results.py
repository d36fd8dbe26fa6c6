"""Opening what predict has left, and saying what is wrong with it."""

import json

import numpy as np
import pytest

from lymphinfer.errors import ResultError
from lymphinfer.export.results import find_results, open_result
from tests.export.results_made import BALANCED, STAIN, made_nuclei, made_result, spread_centers


@pytest.fixture
def table():
    return made_nuclei(spread_centers(30), np.linspace(0, 1, 30))


def test_a_root_gives_every_slide_below_it_and_a_slide_gives_itself(tmp_path, table):
    a = made_result(tmp_path / "a", [table]).folder
    b = made_result(tmp_path / "sub" / "b", [table]).folder
    assert find_results(tmp_path) == [a, b]
    assert find_results(a) == find_results(a / "summary.json") == [a]


def test_a_folder_without_results_says_what_it_wants(tmp_path):
    with pytest.raises(ResultError, match=r"no results in this folder.*summary\.json"):
        find_results(tmp_path)
    with pytest.raises(ResultError, match="no such folder"):
        find_results(tmp_path / "gone")


def test_files_have_the_stem_that_predict_gave(tmp_path, table):
    assert made_result(tmp_path / "a", [table], name="lung.v1.svs").stem == "lung.v1"


def test_parts_of_another_run_are_passed_over_and_missing_ones_are_told(tmp_path, table):
    result = made_result(tmp_path, [table])
    (tmp_path / "parts" / "shard-0000-0000.parquet").unlink()
    with pytest.raises(ResultError, match=r"counts 30 nuclei but parts is empty"):
        open_result(tmp_path)
    with pytest.raises(ResultError, match=r"0 nuclei where summary.json counts 30.*predict again"):
        list(result.tables())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"panel": "unknown"}', '{"panel": []}'])
def test_a_foreign_summary_is_told_with_the_fix(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ResultError, match="predict again"):
        open_result(tmp_path)


def test_evidence_says_which_markers_were_learned(tmp_path, table):
    result = made_result(tmp_path, [table])
    assert [result.is_learned(name) for name in result.panel.names] == [True, False, False, False]
    assert not result.is_simulated


def test_a_learned_marker_may_be_one_that_is_never_called(tmp_path, table):
    result = made_result(tmp_path / "a", [table], evidence=STAIN, point=BALANCED)
    assert [result.is_called(name) for name in result.panel.names] == [True, True, True, False]
    assert result.is_learned("CD8a") and result.word("CD8a") == "stain"
    assert result.provenance["operating_point"] == BALANCED


def test_a_result_with_the_older_word_is_still_one_that_was_learned(tmp_path, table):
    old = {name: {"evidence": "measured"} for name in STAIN}
    result = made_result(tmp_path, [table], evidence=old)
    assert result.is_learned("CD45") and result.is_called("CD45") and not result.operating_point


def test_provenance_is_that_of_the_geojson_that_predict_writes(tmp_path, table):
    provenance = made_result(tmp_path, [table]).provenance
    assert list(provenance) == [
        "software", "bundle", "bundle_version", "bundle_sha256", "slide_identity", "mpp",
        "mpp_source", "hierarchy", "evidence", "warnings", "notice",
    ]  # fmt: skip
    assert json.loads(json.dumps(provenance)) == provenance
