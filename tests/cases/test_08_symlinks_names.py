"""Links are followed once; a name that cannot be written is written under another one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.single import predict_slide
from lymphinfer.cells.files import check_writable
from lymphinfer.cells.naming import LONGEST_SUFFIX, slide_stem
from lymphinfer.export.results import open_result
from lymphinfer.export.views import VIEWS, write_view

from ..batch.made_batch import settings
from .shared_scripts import make_case

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other names and links")


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return make_case(8, tmp_path_factory.mktemp("case08"))


def names(jobs) -> list[str]:
    return [job.slide.name for job in jobs]


def test_linked_folders_are_searched(case, tmp_path):
    assert names(find_jobs(case / "linked_folders", tmp_path)) == ["S1.tif", "S2.tif", "own.tif"]
    assert names(find_jobs(case / "only_links", tmp_path)) == ["S1.tif"]


def test_a_file_that_two_ways_lead_to_is_one_slide_and_what_is_left_out_is_told(
    case, tmp_path, caplog
):
    jobs = find_jobs(case, tmp_path)
    there = [job.slide for job in jobs if job.slide.exists()]
    assert len({path.resolve() for path in there}) == len(there) == 2 + 1 + 18
    assert case / "store" / "batch1" / "S1.tif" in there
    assert "linked_folders/batch1 leads to" in caplog.text
    assert "P001.tif is the same file as" in caplog.text
    # A link to nothing fails with its reason, as any missing slide.
    assert {"P003.tif", "loop.tif"} <= set(names(jobs))


def test_pseudonyms_are_slides_under_their_own_names(case, tmp_path):
    jobs = {job.slide.name: job.folder for job in find_jobs(case / "pseudonyms", tmp_path)}
    assert jobs["P001.tif"] == tmp_path / "P001"
    assert jobs["P002.tif"] == tmp_path / "P002"


@pytest.mark.parametrize("pattern", ["**/S*.tif", "*/batch*/S*.tif"])
def test_a_pattern_names_each_file_once(case, tmp_path, pattern):
    assert names(find_jobs(case / pattern, tmp_path)) == ["S1.tif", "S2.tif"]


def test_every_twin_has_a_result_folder_of_its_own_that_can_be_written(case, tmp_path):
    jobs = find_jobs(case / "twins", tmp_path)
    assert len({str(job.folder).casefold() for job in jobs}) == len(jobs) == 18
    for job in jobs:
        check_writable(job.folder, f"{slide_stem(job.slide)}{LONGEST_SUFFIX}")
    assert jobs == find_jobs(case / "twins", tmp_path)


def test_a_name_of_255_bytes_is_predicted_and_exported(case, disc_bundle, tmp_path):
    (job,) = (j for j in find_jobs(case / "twins", tmp_path) if j.slide.name.startswith("mmm"))
    assert len(os.fsencode(job.slide.name)) == 255
    result = predict_slide(job.slide, job.folder, settings=settings(disc_bundle))
    assert result.file.is_file() and result.file.name.startswith("mmm")
    opened = open_result(job.folder)
    assert opened.name == job.slide.name
    for view in VIEWS.keys() - {
        "geojson-types",
        "spatialdata",
        "anndata",
        "labels",
        "regions-geojson",
    }:
        assert write_view(opened, view).is_file()
