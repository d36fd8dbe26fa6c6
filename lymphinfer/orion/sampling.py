"""Which cells of a patient are learned from and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.labels import NEGATIVE, POSITIVE, Labels
from lymphinfer.panel import Panel

Rows = NDArray[np.intp]

CELLS_PER_PATIENT = 20_000
MARKER_SHARE = 0.25
"""Least share of each marker's positives in the positive half of a training sample."""


@dataclass(frozen=True)
class Sample:
    """The sampled cells of one patient.

    Attributes
    ----------
    patient : str
    split : str
    rows : tuple of ndarray of intp
        One a slide: rows of its cell table, ascending.
    requested : int
        Cells asked for.
    positives : tuple of int
        Positive labels among the sampled cells, by marker.
    short : tuple of str
        Markers with fewer positives than the quota, since the patient has no more.
    """

    patient: str
    split: str
    rows: tuple[Rows, ...]
    requested: int
    positives: tuple[int, ...]
    short: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)


def balanced_rows(labels: Labels, n: int, rng: np.random.Generator) -> Rows:
    """Sample for training and validation, by the paper's rule.

    Half of the cells are positive for no marker. Of the other half at least a quarter is positive
    for each marker: quotas are filled from the marker with the fewest positives to the one with
    the most, a cell counting for every marker that it is positive for; what is left is drawn from
    all positive cells at random. Cells without any label are left out.

    Where a marker has fewer positives than its quota, all of them are taken. Where positive cells,
    or cells positive for none, do not fill their half, all of them are taken and the sample is
    smaller: the other half does not grow.

    Parameters
    ----------
    labels : ndarray of int8, (N, M)
        1, 0 or -1.
    n : int
        Cells wanted.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of intp, (at most n,)
        Rows, ascending.
    """
    positive = labels == POSITIVE
    any_positive = positive.any(axis=1)
    negatives = np.flatnonzero(~any_positive & (labels == NEGATIVE).any(axis=1))
    half = n // 2
    quota = int(np.ceil(MARKER_SHARE * half))
    taken = np.zeros(len(labels), bool)
    for column in np.argsort(positive.sum(axis=0), kind="stable"):
        room = min(quota - int(positive[taken, column].sum()), half - int(taken.sum()))
        taken[_draw(np.flatnonzero(positive[:, column] & ~taken), room, rng)] = True
    rest = np.flatnonzero(any_positive & ~taken)
    taken[_draw(rest, half - int(taken.sum()), rng)] = True
    taken[_draw(negatives, n - half, rng)] = True
    return np.flatnonzero(taken)


def random_rows(n_cells: int, n: int, rng: np.random.Generator) -> Rows:
    """Sample for testing: any cells, labelled or not, at the real distribution; rows ascending."""
    return np.sort(_draw(np.arange(n_cells), n, rng))


def sample_patient(
    patient: str,
    split: str,
    labels: Sequence[Labels],
    panel: Panel,
    *,
    n: int = CELLS_PER_PATIENT,
    seed: int = 0,
) -> Sample:
    """Sample the cells of one patient from all of the patient's slides together.

    Parameters
    ----------
    patient : str
    split : str
        ``"train"`` and ``"val"`` are balanced (`balanced_rows`), ``"test"`` is random.
    labels : sequence of ndarray of int8, (N_i, M)
        One a slide.
    panel : Panel
    n : int
        Cells wanted.
    seed : int
        With the patient's name it decides the draw, whatever other patients there are.

    Returns
    -------
    Sample
    """
    joined = np.concatenate(list(labels))
    rng = np.random.default_rng([seed, *patient.encode()])
    if split == "test":
        rows = random_rows(len(joined), n, rng)
        short: tuple[str, ...] = ()
    else:
        rows = balanced_rows(joined, n, rng)
    positives = (joined[rows] == POSITIVE).sum(axis=0)
    if split != "test":
        quota = int(np.ceil(MARKER_SHARE * (n // 2)))
        short = tuple(m for m, k in zip(panel.names, positives, strict=True) if k < quota)
    ends = np.cumsum([len(part) for part in labels])
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    starts = ends - [len(part) for part in labels]
    return Sample(
        patient,
        split,
        tuple(part - start for part, start in zip(parts, starts, strict=True)),
        n,
        tuple(int(k) for k in positives),
        short,
    )


def check_positives(samples: Sequence[Sample], panel: Panel) -> None:
    """Make sure that every marker can be learned and validated.

    Raises
    ------
    DataError
        Naming every marker without a positive cell, by split.
    """
    problems = []
    for split in ("train", "val"):
        own = [sample for sample in samples if sample.split == split]
        total = np.sum([sample.positives for sample in own], axis=0) if own else np.ones(len(panel))
        for name, count in zip(panel.names, total, strict=True):
            if count == 0:
                problems.append(
                    f"{name} has no positive cell among the {split} patients "
                    f"({', '.join(sample.patient for sample in own)}): look at its gates with "
                    "`lymphinfer gate show`, or choose other patients with a splits file."
                )
    if problems:
        raise DataError("\n".join(problems))


def _draw(rows: Rows, n: int, rng: np.random.Generator) -> Rows:
    if n <= 0:
        return rows[:0]
    return rows if n >= len(rows) else rng.choice(rows, n, replace=False, shuffle=False)
