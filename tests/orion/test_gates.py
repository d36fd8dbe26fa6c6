import tomllib
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.gates import AfCorrection, Gate, Gates, SlideGates
from lymphinfer.orion.gates_file import read_gates, write_gates

GATE = Gate(100.0, 150.5, 9000.0, "me", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC))
WITH_AF = replace(GATE, af=AfCorrection(0.5, -12.5))


def gates() -> Gates:
    both = {"CD45": GATE, "CD3e": WITH_AF}
    return Gates({"CRC01": SlideGates(both, 2000.0), "CRC33_01": SlideGates(both)})


def test_a_file_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "gates.toml"
    write_gates(path, gates())
    assert read_gates(path) == gates()
    assert read_gates(path).sha256() == gates().sha256()
    text = path.read_text()
    assert text.startswith("# Gates of LymphInfer")
    assert tomllib.loads(text)["slides"]["CRC01"]["CD3e"]["af"] == {"lambda": 0.5, "beta": -12.5}


def test_the_digest_follows_what_decides_labels_and_nothing_else():
    slides = gates().slides

    def with_gate(gate):
        return Gates({**slides, "CRC01": SlideGates({"CD45": gate, "CD3e": WITH_AF}, 2000.0)})

    digest = gates().sha256()
    assert with_gate(replace(GATE, set_by="another", set_at=datetime.now(UTC))).sha256() == digest
    for changed in (replace(GATE, positive_min=151.0), replace(GATE, af=WITH_AF.af)):
        assert with_gate(changed).sha256() != digest
    assert Gates({**slides, "CRC01": SlideGates(slides["CRC01"].markers)}).sha256() != digest


def test_correction_takes_autofluorescence_away_and_ends_at_zero():
    raw, af = np.array([300.0, 200.0]), np.array([100.0, 400.0])
    assert AfCorrection(0.5, -12.5).apply(raw, af).tolist() == [237.5, 0.0]


@pytest.mark.parametrize(
    ("thresholds", "part"),
    [
        ((200, 100, 300), "overlap"),
        ((100, 300, 300), "no positive range"),
        ((100, float("nan"), 300), "finite"),
    ],
)
def test_wrong_thresholds_are_told(thresholds, part):
    (problem,) = Gate(*thresholds).problems()
    assert part in problem


def test_touching_thresholds_leave_no_uncertain_range_and_are_fine():
    assert Gate(100, 100, 300).problems() == []


def test_all_problems_of_a_file_come_at_once(tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text(
        """
format = "lymphinfer-gates"
version = 1
[slides.CRC01]
blank_max = "high"
[slides.CRC01.CD45]
negative_max = 200
positive_min = 100
overexposure_min = 50
[slides.CRC01.CD3e]
negative_max = true
positive_min = 100
colour = 3
[slides.CRC01.CD4]
negative_max = 1
positive_min = 2
overexposure_min = 3
set_at = "yesterday"
[slides.CRC01.CD4.af]
lambda = 1
[slides.CRC02.CD45]
negative_max = 1
positive_min = 2
overexposure_min = 3
"""
    )
    with pytest.raises(DataError) as caught:
        read_gates(path, ["CRC01", "CRC02", "CRC03"], ["CD45", "CD3e", "CD4", "CD8a"])
    lines = str(caught.value).splitlines()
    for part in (
        "[slides.CRC01] blank_max = 'high': expected a number",
        "slide CRC01, CD45: negative_max 200 and positive_min 100 overlap",
        "slide CRC01, CD45: positive_min 100 and overexposure_min 50 leave no positive range",
        "[slides.CRC01.CD3e] negative_max = True: expected a number",
        "[slides.CRC01.CD3e] overexposure_min is missing",
        "[slides.CRC01.CD3e] colour: unknown; known there: negative_max",
        "[slides.CRC01.CD4] set_at = 'yesterday': expected a date with time",
        "[slides.CRC01.CD4.af] beta is missing",
        "slide CRC01: no gate for CD8a",
        "slide CRC02: no gate for CD3e, CD4, CD8a",
        "no gates for slide CRC03",
    ):
        assert sum(part in line and str(path) in line for line in lines) == 1, part
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("text", "part"),
    [("a = ", "cannot be read"), ("version = 2", "not a gates file of this version")],
)
def test_foreign_files_are_refused(tmp_path, text, part):
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=part):
        read_gates(path)
    with pytest.raises(DataError, match="gate propose"):
        read_gates(tmp_path / "none.toml")
