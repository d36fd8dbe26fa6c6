from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import Cohort, OrionSlide
from lymphinfer.orion.manifest import manifest, patient_of
from lymphinfer.orion.splits import kfold_splits, make_splits, read_splits, write_splits

NOWHERE = Path("nowhere")


def cohort(folders) -> Cohort:
    slides = [OrionSlide(f, patient_of(f), NOWHERE, NOWHERE) for f in folders]
    return Cohort(NOWHERE, tuple(slides))


ORION = cohort(row.folder for row in manifest())


@pytest.mark.parametrize("seed", range(5))
def test_orion_is_split_25_7_9_with_both_crc33_together(seed):
    splits = make_splits(ORION, seed)
    assert sorted(splits.patients) == sorted(ORION.patients)
    slides = {n: sum(splits.of(s.patient) == n for s in ORION.slides) for n in ("train", "val")}
    assert slides == {"train": 25, "val": 7}
    assert len(splits.test) == 9


def test_the_seed_decides():
    assert make_splits(ORION, 1) == make_splits(ORION, 1)
    assert make_splits(ORION, 1) != make_splits(ORION, 2)


@given(st.integers(3, 60), st.integers(0, 5))
def test_every_patient_is_in_one_split_and_no_split_is_empty(n, seed):
    splits = make_splits(cohort(f"CRC{i:02d}" for i in range(1, n + 1)), seed)
    assert len(splits.patients) == len(set(splits.patients)) == n
    assert splits.train and splits.val and splits.test
    assert len(splits.train) == pytest.approx(n * 25 / 41, abs=1.5)


def test_the_simulated_cohort_of_six_slides_has_three_patients_to_train_on():
    six = cohort(["CRC01", "CRC02", "CRC11", "CRC21", "CRC33_01", "CRC33_02"])
    splits = make_splits(six)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (3, 1, 1)
    assert splits.of("C33") == "train"


def test_one_patient_is_a_clear_error_even_with_two_slides():
    with pytest.raises(DataError, match=r"1 patient \(CRC33_01, CRC33_02\) cannot be split"):
        make_splits(cohort(["CRC33_01", "CRC33_02"]))
    two = make_splits(cohort(["CRC01", "CRC02"]))
    assert (len(two.train), len(two.val), two.test) == (1, 1, ())


@pytest.mark.parametrize("folds", [3, 5, 40])
def test_each_patient_is_tested_once_and_validated_once(folds):
    splits = kfold_splits(ORION, folds, seed=3)
    assert len(splits) == folds
    for name in ("test", "val"):
        assert sorted(p for s in splits for p in getattr(s, name)) == sorted(ORION.patients)
    for own in splits:
        assert sorted(own.patients) == sorted(ORION.patients)


@pytest.mark.parametrize("folds", [1, 2, 41])
def test_folds_that_do_not_fit_are_refused(folds):
    with pytest.raises(DataError, match="choose 3 to 40"):
        kfold_splits(ORION, folds)


def test_a_file_comes_back_and_leaves_out_whom_it_does_not_name(tmp_path):
    path = tmp_path / "splits.toml"
    splits = make_splits(ORION)
    write_splits(path, splits)
    assert read_splits(path, ORION) == splits
    path.write_text('train = ["C2", "C1"]\nval = ["C33"]\n')
    own = read_splits(path, ORION)
    assert (own.train, own.val, own.test) == (("C1", "C2"), ("C33",), ())
    assert own.of("C40") is None


def test_all_problems_of_a_splits_file_come_at_once(tmp_path):
    path = tmp_path / "splits.toml"
    path.write_text('train = ["C1", "C99", "CRC33_01"]\nval = []\ntest = ["C1"]\nfold = 3\n')
    with pytest.raises(DataError) as caught:
        read_splits(path, ORION)
    text = str(caught.value)
    for part in (
        "fold: unknown; known there: train, val, test",
        "patient C1 is named 2 times",
        "patient C99 is not in the cohort",
        "CRC33_01 is a slide: name its patient, C33",
        "val has no patient",
    ):
        assert part in text, part
    path.write_text('train = "C1"\nval = ["C2"]')
    with pytest.raises(DataError, match="train = 'C1': expected a list"):
        read_splits(path, ORION)
