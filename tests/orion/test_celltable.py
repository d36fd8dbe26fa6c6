import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import (
    COLUMNS,
    cell_problems,
    load_cells,
    missing_columns,
    read_cells,
)
from tests.orion.made_cohort import make_slide, write_table


@pytest.fixture
def table(tmp_path):
    return next(make_slide(tmp_path, "CRC01").glob("*.csv"))


def test_columns_agree_with_pandas(table):
    cells = read_cells(table, ["CD45", "AF1"])
    frame = pd.read_csv(table)
    assert np.array_equal(cells.cell_id, frame["CellID"]) and cells.cell_id.dtype == np.int64
    assert np.array_equal(cells.x, frame["X_centroid"])
    assert np.array_equal(cells.y, frame["Y_centroid"])
    assert set(cells.intensities) == {"CD45", "AF1"}
    assert np.allclose(cells.intensities["CD45"], frame["CD45"], rtol=1e-15)


def test_missing_columns_are_all_named(tmp_path):
    path = tmp_path / "P1_S1.csv"
    path.write_text("CellID,X_centroid,CD45\n1,2,3\n")
    assert missing_columns(path, ["CD45", "CD4", "AF1"]) == ["CD4", "AF1"]
    with pytest.raises(DataError, match="no column Y_centroid, CD4"):
        read_cells(path, ["CD45", "CD4"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("CellID,X_centroid,Y_centroid\n", "no rows"),
        ("CellID,X_centroid,Y_centroid\n1,2\n", "damaged or was not downloaded whole"),
        ("CellID,X_centroid,Y_centroid\n1,2,tree\n", "damaged or was not downloaded whole"),
        ("CellID,X_centroid,Y_centroid\n1.5,2,3\n", "no whole number"),
        ("CellID,X_centroid,Y_centroid\n,2,3\n", "no whole number"),
    ],
)
def test_damaged_tables_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "P1_S1.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_cells(path, [])
    assert str(path) in str(caught.value)


def test_every_kind_of_bad_row_is_reported_at_once(tmp_path):
    path = tmp_path / "P1_S1.csv"
    write_table(
        path,
        {
            "CellID": np.array([1, 3, 2, 4, 5]),
            "X_centroid": np.array([1, 2, 3, 99, np.nan]),
            "Y_centroid": np.array([1, 2, 3, 4, 5]),
            "CD45": np.array([1, np.nan, 2, np.inf, 3]),
        },
    )
    problems = cell_problems(read_cells(path, ["CD45"]), (10, 10))
    assert len(problems) == 4
    text = "\n".join(problems)
    for part in (
        "does not rise from row to row in 1 places, first from 3 to 2",
        "1 cells have no centroid, first CellID 5",
        "1 of 5 centroids lie outside the image of 10 x 10 px, first CellID 4",
        "2 cells have no finite CD45 intensity, first CellID 3",
    ):
        assert part in text
    with pytest.raises(DataError, match="CellID does not rise"):
        load_cells(path, ["CD45"], (10, 10))


def test_centroids_on_the_border_lie_inside(tmp_path):
    path = tmp_path / "P1_S1.csv"
    columns = {"CellID": [1, 2], "X_centroid": [-0.5, 9.5], "Y_centroid": [0, 9.5]}
    write_table(path, {k: np.array(v) for k, v in columns.items()})
    assert cell_problems(read_cells(path, []), (10, 10)) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_table_of_orions_size_is_read_within_two_gigabytes(tmp_path):
    path = tmp_path / "P1_S1.csv"
    rows = pd.DataFrame(np.random.default_rng(0).random((20_000, 29)).round(4), columns=COLUMNS)
    rows["CellID"] = np.arange(20_000)
    body = rows.to_csv(index=False, header=False)
    with path.open("w") as file:
        file.write(",".join(COLUMNS) + "\n")
        for _ in range(81):
            file.write(body)
    code = (
        "import re, sys; from pathlib import Path;"
        "from lymphinfer.orion.celltable import read_cells;"
        "c = read_cells(Path(sys.argv[1]), ['CD45', 'CD3e', 'CD4', 'CD8a', 'AF1']);"
        # Not ru_maxrss, which begins with the memory of the process that started this one.
        "print(len(c), re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    n, kib = (int(value) for value in out.stdout.split())
    assert n == 1_620_000
    assert kib < 2 * 2**20
