"""Which patients are for training, which for validation, which for testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import Cohort
from lymphinfer.textfiles import read_toml
from lymphinfer.validation import table, validated

FORMAT, VERSION = "lymphinfer-splits", 1
NAMES = ("train", "val", "test")
PAPER_SLIDES = (25, 7, 9)
"""Slides for training, validation and testing that the paper makes of ORION's 41, by patient."""


@dataclass(frozen=True)
class Splits:
    """Patients of each split; no patient is in two.

    Attributes
    ----------
    train, val, test : tuple of str
        Sorted.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, patient: str) -> str | None:
        """Name the split of a patient: ``"train"``, ``"val"``, ``"test"``, None for left out."""
        return next((name for name in NAMES if patient in getattr(self, name)), None)

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients of all splits."""
        return (*self.train, *self.val, *self.test)


_Patients = tuple[Annotated[str, Field(strict=True, min_length=1)], ...]


@table
@dataclass(frozen=True)
class _SplitsFile:
    """The file's entries."""

    train: _Patients = ()
    val: _Patients = ()
    test: _Patients = ()
    format: str = FORMAT
    version: int = VERSION


def make_splits(cohort: Cohort, seed: int = 0) -> Splits:
    """Split a cohort by patient in the paper's proportions, 25 : 7 : 9.

    Which patients go where is drawn by `seed`, with one exception: patients with several slides are
    for training as far as there is room, which gives exactly 25, 7 and 9 slides of ORION's 41 (the
    two of CRC33 among the 25). From three patients on every split has at least one; two patients
    are for training and validation, with none to test on.

    Parameters
    ----------
    cohort : Cohort
    seed : int

    Returns
    -------
    Splits

    Raises
    ------
    DataError
        Fewer than two patients.
    """
    slides = _slides_per_patient(cohort)
    shuffled = _shuffled(cohort, seed)
    # A stable sort: among patients with as many slides the drawn order stays.
    ordered = sorted(shuffled, key=lambda patient: slides[patient] == 1)
    n_train, n_val, _ = _apportion(len(ordered))
    return _sorted(
        ordered[:n_train], ordered[n_train : n_train + n_val], ordered[n_train + n_val :]
    )


def kfold_splits(cohort: Cohort, folds: int, seed: int = 0) -> tuple[Splits, ...]:
    """Split a cohort by patient into folds, each the test set once.

    The next fold validates, the others train, so every patient is tested once and validated once.

    Parameters
    ----------
    cohort : Cohort
    folds : int
        3 or more, at most the number of patients.
    seed : int

    Returns
    -------
    tuple of Splits
        One a fold.

    Raises
    ------
    DataError
        The number of folds does not fit the cohort.
    """
    shuffled = _shuffled(cohort, seed)
    if not 3 <= folds <= len(shuffled):
        raise DataError(
            f"{cohort.root}: {folds} folds of {len(shuffled)} patients: choose 3 to "
            f"{len(shuffled)}; a fold each is for testing, validation and the rest for training."
        )
    parts = [shuffled[fold::folds] for fold in range(folds)]
    result = []
    for fold in range(folds):
        val = (fold + 1) % folds
        train = [p for i, part in enumerate(parts) if i not in (fold, val) for p in part]
        result.append(_sorted(train, parts[val], parts[fold]))
    return tuple(result)


def read_splits(path: Path, cohort: Cohort) -> Splits:
    """Read a splits file; patients of the cohort that it does not name are left out.

    Parameters
    ----------
    path : Path
        TOML with the lists ``train``, ``val`` and ``test`` of patients.
    cohort : Cohort

    Returns
    -------
    Splits

    Raises
    ------
    DataError
        With every problem: unknown patients, one in two splits, nobody to train or validate on.
    """
    try:
        document = read_toml(path, DataError, "the splits file")
    except OSError as error:
        raise DataError(f"{path}: the splits file cannot be read ({error}).") from error
    problems = _file_problems(document, cohort)
    if problems:
        raise DataError("\n".join(f"{path}: {problem}." for problem in problems))
    return _sorted(*(document.get(name, []) for name in NAMES))


def write_splits(path: Path, splits: Splits) -> None:
    """Write a splits file, whole or not at all; ResultError if it cannot be."""
    import tomli_w

    document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    document |= {name: list(getattr(splits, name)) for name in NAMES}
    text = "# Patients (not slides) of each split; a patient named nowhere is left out.\n"
    with atomic_write(path) as file:
        file.write((text + tomli_w.dumps(document)).encode())


def _slides_per_patient(cohort: Cohort) -> Counter[str]:
    return Counter(slide.patient for slide in cohort.slides)


def _shuffled(cohort: Cohort, seed: int) -> list[str]:
    patients = sorted(cohort.patients)
    if len(patients) < 2:
        raise DataError(
            f"{cohort.root}: a cohort of {len(patients)} patient"
            f"{'' if patients else 's'} ({', '.join(cohort.folders) or 'no slides'}) cannot be "
            "split: training, validation and testing need slides of different patients. Add at "
            "least two more patients."
        )
    return [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]


def _apportion(patients: int) -> tuple[int, int, int]:
    """Numbers of patients by largest remainders; at least one each from three on."""
    if patients == 2:
        return 1, 1, 0
    shares = [patients * n / sum(PAPER_SLIDES) for n in PAPER_SLIDES]
    counts = [int(share) for share in shares]
    order = sorted(range(3), key=lambda i: counts[i] - shares[i])
    for i in order[: patients - sum(counts)]:
        counts[i] += 1
    for i in (1, 2):
        if counts[i] == 0:
            counts[i] += 1
            counts[0] -= 1
    return counts[0], counts[1], counts[2]


def _sorted(train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> Splits:
    return Splits(tuple(sorted(train)), tuple(sorted(val)), tuple(sorted(test)))


def _file_problems(document: dict[str, Any], cohort: Cohort) -> list[str]:
    problems: list[str] = []
    if document.get("version", VERSION) != VERSION or document.get("format", FORMAT) != FORMAT:
        problems.append("not a splits file of this version")
    validated(_SplitsFile, document, problems)
    read = {name: validated(_Patients, document.get(name, []), [], (name,)) for name in NAMES}
    lists = {name: value for name, value in read.items() if value is not None}
    times = Counter(patient for value in lists.values() for patient in value)
    patient_of = {slide.folder: slide.patient for slide in cohort.slides}
    for patient, count in times.items():
        if patient in patient_of and patient not in cohort.patients:
            problems.append(f"{patient} is a slide: name its patient, {patient_of[patient]}")
        elif patient not in cohort.patients:
            problems.append(f"patient {patient} is not in the cohort ({cohort.root})")
        if count > 1:
            problems.append(f"patient {patient} is named {count} times")
    problems += [f"{name} has no patient" for name in ("train", "val") if not lists.get(name, [1])]
    return problems
