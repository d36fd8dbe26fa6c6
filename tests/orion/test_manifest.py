import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.manifest import (
    KINDS,
    batch_of,
    check_kinds,
    manifest,
    patient_of,
    select,
    slide_means,
)

GIB = 1 << 30


def test_the_cohort_has_41_slides_of_40_patients_and_205_files():
    rows = manifest()
    assert len(rows) == 41
    assert len({row.patient for row in rows}) == 40
    assert sum(len(row.files) for row in rows) == 205


def test_patients_by_rule_agree_with_the_manifest():
    assert all(patient_of(row.folder) == row.patient for row in manifest())


def test_sizes_are_read_in_their_units():
    total = {kind: sum(r.files[kind].approximate_bytes for r in manifest()) for kind in KINDS}
    assert 50 * GIB < total["he"] + total["cells"] < 75 * GIB
    assert 3500 * GIB < total["if"] < 4500 * GIB
    # CRC17's table, "1.7", is in GiB although its fellows are in MiB.
    tables = [row.files["cells"].approximate_bytes for row in manifest()]
    assert min(tables) > 0.1 * GIB and max(tables) < 1.8 * GIB


def test_the_swapped_names_of_crc33_are_kept():
    names = {row.folder: row.files["he"].name for row in manifest()}
    assert names["CRC33_01"].endswith("160715-2-registered.ome.tif")
    assert names["CRC33_02"].endswith("160715-registered.ome.tif")


def test_batches_are_the_imaging_rounds():
    assert [batch_of(f"C{i}") for i in (1, 7, 8, 9, 10, 11, 20, 21, 30, 31, 40)] == (
        [1, 1, 3, 1, 1, 2, 2, 3, 3, 4, 4]
    )
    assert batch_of("SIM1") is None


def test_authors_fractions_average_to_the_published_ones():
    means = slide_means()
    assert set(means) == {row.patient for row in manifest()}
    for marker, expected in {"CD45": 0.30, "CD3e": 0.114, "CD4": 0.067, "CD8a": 0.051}.items():
        mean = sum(m.fractions[marker] for m in means.values()) / 40
        assert mean == pytest.approx(expected, abs=0.006)


def test_slides_are_chosen_by_folder_or_patient():
    assert [r.folder for r in select(["C33", " CRC02"])] == ["CRC02", "CRC33_01", "CRC33_02"]
    with pytest.raises(DataError, match="CRC41, CRC99"):
        select(["CRC01", "CRC99", "CRC41"])


def test_unknown_kinds_are_named():
    assert check_kinds(["cells", "he"]) == ("he", "cells")
    with pytest.raises(DataError, match="dapi"):
        check_kinds(["he", "dapi"])
