"""What a marker's table in bundle.toml may say, and what a reader is told of it."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from lymphinfer.bundles.evidence import Evidence, MarkerSpec, OperatingPoint
from lymphinfer.bundles.manifest_file import read_marker
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.errors import BundleError
from tests.bundles.test_bundles import edit, folder  # noqa: F401

POINTS = """
[marker.points.balanced]
threshold = 0.4
precision = 0.7
recall = 0.75

[marker.points.precise]
threshold = 0.8
precision = 0.9
recall = 0.4

[marker.points.sensitive]
threshold = 0.2
"""
STAIN = MarkerSpec("CD45", Evidence.STAIN, "made", auroc=0.925, auroc_interval=(0.91, 0.94))


@pytest.fixture
def pointed(folder):  # noqa: F811
    edit(folder, "\nthreshold = 0.5\n", "\n")
    edit(folder, "    0.95,\n]\n", f"    0.95,\n]\n{POINTS}")
    return folder


@pytest.mark.parametrize(
    ("patients", "words"),
    [(1, "stain, one patient, AUROC 0.925 (0.910-0.940): made"),
     (34, "stain, 34 patients, "), (None, "stain, number of patients not stated, ")],
)  # fmt: skip
def test_a_stain_says_how_many_patients_stand_behind_it(patients, words):
    assert replace(STAIN, patients=patients).statement.startswith(words)


def test_a_marker_without_threshold_or_points_is_expected_and_never_called():
    assert not STAIN.called and "does not carry a call" in STAIN.statement
    assert replace(STAIN, threshold=0.5).called
    assert replace(STAIN, points={"precise": OperatingPoint(0.9)}).called
    assert not MarkerSpec("CD4", Evidence.BASE_RATE, "made", threshold=0.5, rate=0.5).called


def test_the_points_of_a_bundle_decide_from_where_it_calls(pointed):
    manifest = read_manifest(pointed)
    thresholds = {
        name: [None if at is None else at.threshold for at in manifest.calls_at(name)]
        for name in ("precise", "balanced", "sensitive")
    }
    assert thresholds == {
        "precise": [0.8, None, None, None],
        "balanced": [0.4, None, None, None],
        "sensitive": [0.2, None, None, None],
    }
    told = manifest.calling("balanced")
    assert told["statement"] == "balanced: CD45 from 0.40 (precision 0.70, recall 0.75)"
    assert told["markers"] == {"CD45": {"threshold": 0.4, "precision": 0.7, "recall": 0.75}}
    assert list(manifest.evidence["CD45"]["points"]) == ["precise", "balanced", "sensitive"]


def test_a_bundle_of_thresholds_has_these_and_no_other_point(folder):  # noqa: F811
    manifest = read_manifest(folder)
    assert manifest.calling()["name"] == "threshold"
    with pytest.raises(BundleError, match="--operating-point precise: bundle tiny has none; it st"):
        manifest.calls_at("precise")


def test_a_point_that_a_bundle_lacks_is_named_beside_those_it_has(pointed):
    edit(
        pointed,
        POINTS[POINTS.index("[marker.points.precise]") : POINTS.index("[marker.points.s")],
        "",
    )
    with pytest.raises(BundleError, match="its points are balanced, sensitive"):
        read_manifest(pointed).calls_at("precise")


def test_what_is_written_reads_back_with_its_points_and_conditionals(pointed, tmp_path):
    from lymphinfer.bundles.writing import marker_table

    spec = replace(
        STAIN, patients=1, conditional=True,
        points={"precise": OperatingPoint(0.8, 0.9, 0.4), "balanced": OperatingPoint(0.4)},
    )  # fmt: skip
    assert read_marker(marker_table(spec), problems := []) == spec and not problems
    assert spec.is_conditional and not STAIN.is_conditional


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [('"morphology"', '"measured"', 'write "stain" and patients = N'),
     ("threshold = 0.4", "threshold = 0.9", "precise >= balanced >= sensitive must not rise"),
     ("recall = 0.75", "recall = 75", r"\[marker.CD45.points.balanced\] recall = 75: exp"),
     ("points.precise", "points.exact", "'exact' is none of precise, balanced, sensitive")],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_what_to_write(pointed, old, new, words):
    edit(pointed, old, new)
    with pytest.raises(BundleError, match=words):
        read_manifest(pointed)


def test_a_child_that_is_called_where_its_parent_is_not_is_refused(pointed):
    edit(pointed, 'name = "CD3e"\nevidence = "base-rate"',
         'name = "CD3e"\nevidence = "stain"\npoints = {precise = {threshold = 0.7}}')  # fmt: skip
    read_manifest(pointed)
    edit(pointed, 'name = "CD4"\nevidence = "base-rate"',
         'name = "CD4"\nevidence = "stain"\nthreshold = 0.5')  # fmt: skip
    with pytest.raises(BundleError, match="CD4: called at balanced, but its parent CD3e is not"):
        read_manifest(pointed)


@pytest.mark.parametrize("name", ["he-v1", "he-v1-fast", "he-v2", "crc01-paper-v1", "sim-orion-v1"])
def test_no_shipped_bundle_claims_a_stain_that_it_has_not_seen(name):
    markers = tomllib.loads((find_bundle(name) / "bundle.toml").read_text())["marker"]
    words = {m["name"]: m["evidence"] for m in markers}
    if name == "sim-orion-v1":
        assert set(words.values()) == {"simulated"}
    elif name in ("he-v2", "crc01-paper-v1"):
        assert set(words.values()) == {"stain"}
        assert {m["patients"] for m in markers} == {1}
        assert "One patient" in (find_bundle(name) / "CARD.md").read_text()
    else:
        assert words == {"CD45": "morphology"} | dict.fromkeys(("CD3e", "CD4", "CD8a"), "base-rate")
        assert "0.78" in (find_bundle(name) / "CARD.md").read_text()
