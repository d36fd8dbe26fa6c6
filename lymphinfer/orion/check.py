"""Everything that is wrong with a local cohort, in one report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import COLUMNS, cell_problems, read_cells
from lymphinfer.orion.cohort import MPP_TOLERANCE, ORION_MPP, find_files
from lymphinfer.orion.image_check import ImageFacts, channel_problems, inspect_image
from lymphinfer.orion.manifest import CHANNELS, patient_of
from lymphinfer.orion.table_header import read_header


@dataclass(frozen=True)
class SlideFacts:
    """What was found of a slide; None where it could not be read.

    Attributes
    ----------
    folder, patient : str
    size_level0 : tuple of int or None
        (width, height) of the H&E, px.
    mpp : float or None
        Of the H&E, as its OME-XML says.
    cells : int or None
        Rows of the cell table.
    files : tuple of str
        Kinds that are there, once.
    """

    folder: str
    patient: str
    size_level0: tuple[int, int] | None
    mpp: float | None
    cells: int | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes
    ----------
    slides : tuple of SlideFacts
        Every slide folder.
    errors : tuple of str
        What makes data unusable or doubtful; each names the file and what to do.
    warnings : tuple of str
        What LymphInfer copes with, but you should know.
    """

    slides: tuple[SlideFacts, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def check_cohort(
    root: str | os.PathLike[str], progress: Callable[[str, int, int], None] | None = None
) -> CheckReport:
    """Check every slide of a cohort folder; nothing is changed and nothing raised.

    Missing and ambiguous files, images that are cut short or of another shape, dtype or channel
    count than their fellows, pixel sizes over 1 % from 0.325 µm/px, wrong columns, CellIDs that do
    not rise, centroids outside the image, and missing numbers. Pixels are not decoded; the cell
    tables are read whole.

    Parameters
    ----------
    root : str or path-like
        The cohort folder.
    progress : callable, optional
        Called with a slide's name, the slides done and the slides in all.

    Returns
    -------
    CheckReport
    """
    folders, errors = find_files(root)
    warnings: list[str] = []
    facts = []
    for done, (folder, files) in enumerate(folders.items(), start=1):
        facts.append(_check_slide(folder.name, files, errors, warnings))
        if progress is not None:
            progress(folder.name, done, len(folders))
    return CheckReport(tuple(facts), tuple(errors), tuple(warnings))


def _check_slide(
    folder: str, files: Mapping[str, Path], errors: list[str], warnings: list[str]
) -> SlideFacts:
    he: ImageFacts | None = None
    if "he" in files:
        he, wrong = inspect_image(files["he"])
        errors += wrong
    if he is not None:
        if he.channels != 3 or he.dtype != "uint8":
            errors.append(
                f"{he.path}: {he.channels} channels of {he.dtype}, where the H&E has 3 of uint8. "
                "Is it the right file?"
            )
        warnings += _mpp_warnings(he)
    for kind in ("mask", "if"):
        if kind in files:
            errors += _check_fellow(kind, *inspect_image(files[kind]), he)
    if "markers" in files:
        errors += channel_problems(files["markers"])
    size = None if he is None else (he.width, he.height)
    cells = _check_cells(files["cells"], size, errors, warnings) if "cells" in files else None
    mpp = None if he is None else he.mpp
    return SlideFacts(folder, patient_of(folder), size, mpp, cells, tuple(files))


def _mpp_warnings(image: ImageFacts) -> list[str]:
    if image.mpp is None:
        return [f"{image.path}: states no pixel size; {ORION_MPP} µm/px is taken."]
    if abs(image.mpp / ORION_MPP - 1) > MPP_TOLERANCE:
        return [
            f"{image.path}: its OME-XML says {image.mpp:.4g} µm/px, {ORION_MPP} is ORION's. The "
            "file is believed; if it is wrong, cells will be seen at a wrong size."
        ]
    return []


def _check_fellow(
    kind: str, image: ImageFacts | None, wrong: list[str], he: ImageFacts | None
) -> list[str]:
    """Problems of a mask or an immunofluorescence image beside its H&E."""
    problems = list(wrong)
    if image is None:
        return problems
    channels, dtypes = (1, ("int32", "uint32")) if kind == "mask" else (len(CHANNELS), ("uint16",))
    if image.channels != channels or image.dtype not in dtypes:
        problems.append(
            f"{image.path}: {image.channels} channels of {image.dtype}, where {channels} of "
            f"{dtypes[0]} are expected. Is it the right file?"
        )
    if he is not None and (image.width, image.height) != (he.width, he.height):
        problems.append(
            f"{image.path}: {image.width:,} x {image.height:,} px, but the H&E {he.path.name} has "
            f"{he.width:,} x {he.height:,}. They must be of the same section and registered: check "
            "that no file of another slide is in the folder."
        )
    if he is not None and image.mpp and he.mpp and abs(image.mpp / he.mpp - 1) > MPP_TOLERANCE:
        problems.append(
            f"{image.path}: {image.mpp:.4g} µm/px, but the H&E {he.path.name} has {he.mpp:.4g}."
        )
    return problems


def _check_cells(
    path: Path, size: tuple[int, int] | None, errors: list[str], warnings: list[str]
) -> int | None:
    try:
        header = read_header(path)
        places, missing, repeated = header.places(COLUMNS)
        known = {name.casefold() for name in COLUMNS}
        unknown = [n for n in dict.fromkeys(header.names) if n and n.casefold() not in known]
        if missing:
            errors.append(f"{path}: no column {', '.join(missing)}. Download it again.")
        if repeated:
            errors.append(f"{path}: column {', '.join(repeated)} stands there twice.")
        if unknown:
            warnings.append(f"{path}: unknown column {', '.join(unknown)}, not used.")
        if repeated:
            return None
        cells = read_cells(path, [name for name in CHANNELS if name in places])
    except DataError as error:
        if str(error) not in errors:
            errors.append(str(error))
        return None
    errors += cell_problems(cells, size)
    return len(cells)
