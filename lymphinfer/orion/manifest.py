"""What the ORION cohort consists of: 41 slides of 40 patients, their files, sizes and batches.

Source: Lin et al. 2023 (Nature Cancer, doi 10.1038/s43018-023-00576-1), bucket
``s3://lin-2023-orion-crc/data/``. The two tables are shipped as package data.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lymphinfer.errors import DataError
from lymphinfer.orion.layout import orion_layout

KINDS = ("he", "cells", "mask", "if", "markers")
"""Kinds of file: H&E, cell table, cell mask, immunofluorescence, channel names."""

PATTERNS = orion_layout().file.files.patterns()
"""By what a folder's file of each kind is found; exactly one must match."""

CHANNELS = orion_layout().channels
"""Channels of the immunofluorescence, in order."""

_GIB, _MIB = 1 << 30, 1 << 20
_MARKERS_CSV_BYTES = 300
_UNITS = {"KiB": 1 << 10, "MiB": _MIB, "GiB": _GIB}


@dataclass(frozen=True)
class ManifestFile:
    """A file of the cohort.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    name : str
        File name in the slide's folder.
    approximate_bytes : int
        Size, as the release notes round it.
    """

    kind: str
    name: str
    approximate_bytes: int


@dataclass(frozen=True)
class ManifestRow:
    """A slide of the cohort.

    Attributes
    ----------
    folder : str
        ``"CRC01"`` to ``"CRC40"``, with ``"CRC33_01"`` and ``"CRC33_02"``.
    patient : str
        ``"C1"`` to ``"C40"``.
    batch : int
        Staining batch, 1 to 4.
    files : dict of str to ManifestFile
        By kind.
    """

    folder: str
    patient: str
    batch: int
    files: dict[str, ManifestFile]


@dataclass(frozen=True)
class SlideMeans:
    """What the data's authors found on a slide.

    Attributes
    ----------
    patient : str
    means : dict of str to float
        Mean raw intensity by channel, camera counts.
    fractions : dict of str to float
        The authors' positive fraction by marker.
    """

    patient: str
    means: dict[str, float]
    fractions: dict[str, float]


@cache
def manifest() -> tuple[ManifestRow, ...]:
    """Read the 41 slides, in the order of their folders."""
    return tuple(_row(row) for row in _table("manifest.csv"))


@cache
def slide_means() -> dict[str, SlideMeans]:
    """Read the authors' means and positive fractions by patient; C33 is one row."""
    result = {}
    for row in _table("slide_marker_means.csv"):
        patient = f"C{int(row['slide'].removeprefix('C'))}"
        means = {k.removeprefix("mean_"): float(v) for k, v in row.items() if k[:5] == "mean_"}
        means.pop("area_px2")
        fractions = {
            k.removeprefix("fraction_"): float(v) for k, v in row.items() if k[:9] == "fraction_"
        }
        result[patient] = SlideMeans(patient, means, fractions)
    return result


def patient_of(folder: str) -> str:
    """Patient of a folder: by the manifest, else the folder without a trailing ``_<number>``.

    Examples
    --------
    >>> patient_of("CRC33_01"), patient_of("CRC33_02"), patient_of("CRC07"), patient_of("SIM2_01")
    ('C33', 'C33', 'C7', 'SIM2')
    """
    stem = re.sub(r"_\d+$", "", folder)
    number = re.fullmatch(r"CRC(\d+)", stem)
    return f"C{int(number[1])}" if number else stem


def batch_of(patient: str) -> int | None:
    """Staining batch of an ORION patient: C1-7, 9, 10; C11-20; C8, C21-30; C31-40."""
    return next((row.batch for row in manifest() if row.patient == patient), None)


def select(slides: Iterable[str] | None = None) -> tuple[ManifestRow, ...]:
    """Rows of chosen slides.

    Parameters
    ----------
    slides : iterable of str, optional
        Folders or patients, in any order; all where None.

    Returns
    -------
    tuple of ManifestRow
        In manifest order, each once.

    Raises
    ------
    DataError
        Names that ORION does not have, all of them.
    """
    rows = manifest()
    if slides is None:
        return rows
    wanted = {name.strip() for name in slides if name.strip()}
    known = {row.folder for row in rows} | {row.patient for row in rows}
    if wanted - known or not wanted:
        raise DataError(
            f"not a slide of ORION: {', '.join(sorted(wanted - known)) or '(none named)'}. "
            "Slides are CRC01 to CRC40 (CRC33_01 and CRC33_02 for CRC33); patients C1 to C40."
        )
    return tuple(row for row in rows if {row.folder, row.patient} & wanted)


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Order kinds as in `KINDS`; DataError names the unknown ones."""
    wanted = {kind.strip() for kind in kinds if kind.strip()}
    if wanted - set(KINDS) or not wanted:
        raise DataError(
            f"unknown kind of file: {', '.join(sorted(wanted - set(KINDS))) or '(none named)'}. "
            f"Choose among {','.join(KINDS)}."
        )
    return tuple(kind for kind in KINDS if kind in wanted)


def _table(name: str) -> list[dict[str, str]]:
    text = (files("lymphinfer.orion") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _row(row: dict[str, str]) -> ManifestRow:
    sizes = {
        "if": float(row["if_size"]) * _GIB,
        "he": _bytes(row["he_size"]),
        "mask": float(row["mask_size"]) * _MIB,
        # MiB, but for the tables of over 1000 MiB, which the release notes give in GiB: no table
        # of ORION is below 100 MiB.
        "cells": float(row["cells_size"]) * (_GIB if float(row["cells_size"]) < 10 else _MIB),
        "markers": _MARKERS_CSV_BYTES,
    }
    found = {
        kind: ManifestFile(kind, row.get(kind, "markers.csv"), round(sizes[kind])) for kind in KINDS
    }
    return ManifestRow(row["folder"], row["patient"], _batch(row["patient"]), found)


def _bytes(text: str) -> float:
    value, unit = text.split()
    return float(value) * _UNITS[unit]


def _batch(patient: str) -> int:
    number = int(patient.removeprefix("C"))
    if number == 8:
        return 3
    return 1 if number <= 10 else 2 if number <= 20 else 3 if number <= 30 else 4
