"""DICOM slides as archives give them: a folder of files a slide, label and overview among them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.slides import open_slide

from .reading import assert_is_reference, predict, run_case

NAME = "16_dicom_folder"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return run_case(NAME, tmp_path_factory.mktemp(NAME)) / "dicom"


def test_ten_files_are_two_slides(case, tmp_path):
    jobs = find_jobs(case, tmp_path)
    assert [job.slide.relative_to(case).parts[0] for job in jobs] == ["case_A", "case_B"]
    pattern = find_jobs(case / "*" / "*.dcm", tmp_path)
    assert [job.slide for job in pattern] == [job.slide for job in jobs]


def test_a_list_of_every_file_is_two_slides(case, tmp_path):
    files = sorted(case.rglob("*.dcm"))
    rows = tmp_path / "list.csv"
    rows.write_text("slide\n" + "\n".join(map(str, files)))
    assert len(files) == 10
    assert len(find_jobs(rows, tmp_path / "out")) == 2


def test_any_file_opens_the_slide_with_its_levels(case):
    identities = set()
    for file in sorted((case / "case_A").iterdir()):
        with open_slide(file) as slide:
            assert slide.level_dimensions == ((1200, 900), (600, 450), (300, 225))
            identities.add(slide.identity())
    assert len(identities) == 1


@pytest.mark.slow
def test_the_numbers_are_those_of_the_slide(case, tmp_path):
    (first, _) = find_jobs(case, tmp_path)
    # JPEG of quality 95 moves the expected number by some 4 %.
    assert_is_reference(predict(first.slide, first.folder), 0.06)


def test_a_slide_whose_full_size_is_missing_says_so(case, tmp_path):
    files = sorted((case / "case_A").iterdir(), key=lambda path: path.stat().st_size)
    *rest, finest = [shutil.copy(file, tmp_path) for file in files]
    with open_slide(finest) as slide:
        assert not slide.warnings
    Path(finest).unlink()
    with open_slide(rest[-1]) as slide:
        assert "resampled copy" in slide.warnings[0]
