"""Cell tables as spreadsheets, R and pandas leave them: read, or all problems told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import CellTable, load_cells
from lymphinfer.orion.check import check_cohort

from ..orion.made_cohort import make_slide
from .shared_scripts import make_case

CHANNELS = ("CD45", "CD3e", "CD4", "CD8a", "AF1")


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    cohort = tmp_path_factory.mktemp("cohort15")
    make_slide(cohort, "CRC01", n=60)
    return make_case(15, tmp_path_factory.mktemp("case15"), cohort)


def table(case: Path, name: str) -> Path:
    return next((case / name).rglob("P*_S*.csv"))


@pytest.fixture(scope="module")
def plain(case) -> CellTable:
    return load_cells(table(case, "bom_crlf"), CHANNELS)


@pytest.mark.parametrize(
    "name",
    ["spaces", "trailing_space", "index_column", "quoted", "bom_crlf", "semicolon",
     "semicolon_comma", "upper", "float_ids", "comment", "latin1_extra", "scientific"],
)  # fmt: skip
def test_a_table_that_can_be_understood_has_the_same_cells(case, plain, name):
    cells = load_cells(table(case, name), CHANNELS)
    assert np.array_equal(cells.cell_id, plain.cell_id)
    assert np.allclose(cells.x, plain.x) and np.allclose(cells.y, plain.y)
    for channel in CHANNELS:
        assert np.allclose(cells.intensities[channel], plain.intensities[channel], rtol=1e-5)
    assert not check_cohort(case / name).errors


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", ["1 cells have no finite CD4", "1 cells have no finite CD45"]),
        ("inf", ["1 cells have no finite CD4 intensity, first CellID 1"]),
        ("duplicate_id", ["does not rise from row to row in 1 places"]),
        ("twice_column", ["column CD45 stands there twice"]),
    ],
)
def test_any_other_is_refused_with_all_that_is_wrong(case, name, words):
    with pytest.raises(DataError) as caught:
        load_cells(table(case, name), CHANNELS)
    told = "\n".join(check_cohort(case / name).errors)
    for word in words:
        assert word in str(caught.value) and word in told
