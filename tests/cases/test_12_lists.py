"""Lists as Excel, R and Windows write them: read, or refused with the cause at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.errors import SlideError

from .shared_scripts import make_case

ONE = [("s1.tif", 0.25)]
BOTH = [*ONE, ("sub/s2.tif", 0.25)]
COMMA = "Müller, Anna.tif"


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return make_case(12, tmp_path_factory.mktemp("case12"))


@pytest.mark.parametrize(
    ("name", "slides"),
    [
        ("bom_crlf", BOTH),
        ("semicolon_comma", BOTH),
        ("sep_line", ONE),
        ("backslash", BOTH[1:]),
        ("utf16", ONE),
        ("latin1", [(COMMA, 0.25)]),
        ("comma_in_name", [(COMMA, None)]),
        ("comma_quoted", [(COMMA, 0.25)]),
        ("header_case_spaces", ONE),
        ("quoted_header", ONE),
        ("r_rownames", BOTH),
        ("na", [("s1.tif", None)]),
        ("microns_unit", ONE),
        ("mac_cr", ONE),
        ("trailing_blank", ONE),
        ("only_header_semicolon_names", [("a;b.tif", None)]),
        ("mpp_text_col_missing_value", [("s1.tif", None)]),
    ],
)
def test_a_list_that_can_be_understood_is_read(case, tmp_path, name, slides):
    jobs = find_jobs(case / f"{name}.csv", tmp_path)
    assert [(job.slide.relative_to(case).as_posix(), job.mpp) for job in jobs] == slides
    assert all(job.slide.is_file() for job in jobs)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("drive", ["line 2", "a path of Windows"]),
        ("twice", ["line 3", "the same slide", "as line 2"]),
        ("filename_header", ["no column `slide`", "filename,mpp"]),
    ],
)
def test_any_other_is_refused_with_the_cause_and_its_line(case, tmp_path, name, words):
    with pytest.raises(SlideError) as caught:
        find_jobs(case / f"{name}.csv", tmp_path)
    for word in words:
        assert word in str(caught.value)
