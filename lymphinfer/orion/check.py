"""Everything that is wrong with a local cohort, in one report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import COLUMNS, cell_problems, read_cells
from lymphinfer.orion.cohort import MPP_TOLERANCE, OrionSlide, find_files, scan_cohort
from lymphinfer.orion.image_check import ImageFacts, channel_problems, inspect_image
from lymphinfer.orion.layout import Layout, TableFormat, find_layout
from lymphinfer.orion.manifest import patient_of
from lymphinfer.orion.table_header import read_header

_ALSO = {"mask": ("uint8", "uint16", "int64", "uint64"), "if": ("uint8", "float32")}
"""Types of pixels that a cohort other than ORION may have, too."""


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
    errors: list[str] = []
    warnings: list[str] = []
    found = _slides(Path(root), errors, warnings)
    facts = []
    for done, slide in enumerate(found, start=1):
        facts.append(_check_slide(slide, errors, warnings))
        if progress is not None:
            progress(slide.folder, done, len(found))
    return CheckReport(tuple(facts), tuple(errors), tuple(dict.fromkeys(warnings)))


@dataclass(frozen=True)
class _Found:
    """A slide to check: the files that are there, and the cohort's layout."""

    folder: str
    patient: str
    files: Mapping[str, Path]
    layout: Layout
    mpp: float
    own_frame: bool = False

    @property
    def form(self) -> TableFormat:
        return self.layout.table_format(self.mpp)


def _slides(root: Path, errors: list[str], warnings: list[str]) -> list[_Found]:
    try:
        layout = find_layout(root)
    except DataError as error:
        errors.append(str(error))
        return []
    mpp = layout.file.mpp
    if not layout.file.slide:
        folders, problems = find_files(root, layout)
        errors += problems
        return [_Found(f.name, patient_of(f.name), own, layout, mpp) for f, own in folders.items()]
    cohort, problems = scan_cohort(root)
    errors += problems
    if layout.caution:
        warnings.append(layout.caution)
    return [
        _Found(s.folder, s.patient, _there(s), layout, s.mpp or mpp, s.to_if is not None)
        for s in cohort.slides
    ]


def _there(slide: OrionSlide) -> dict[str, Path]:
    named = {"he": slide.he, "cells": slide.cells, "mask": slide.mask, "if": slide.if_}
    return {kind: path for kind, path in named.items() if path is not None and path.is_file()}


def _check_slide(slide: _Found, errors: list[str], warnings: list[str]) -> SlideFacts:
    folder, files = slide.folder, slide.files
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
        warnings += _mpp_warnings(he, slide)
    for kind in ("mask", "if"):
        if kind in files:
            errors += _check_fellow(kind, *inspect_image(files[kind]), he, slide)
    if "markers" in files:
        errors += channel_problems(files["markers"])
    size = None if he is None else (he.width, he.height)
    cells = _check_cells(slide, size, errors, warnings) if "cells" in files else None
    mpp = None if he is None else he.mpp
    return SlideFacts(folder, slide.patient, size, mpp, cells, tuple(files))


def _mpp_warnings(image: ImageFacts, slide: _Found) -> list[str]:
    if image.mpp is None:
        return [f"{image.path}: states no pixel size; {slide.mpp:g} µm/px is taken."]
    if abs(image.mpp / slide.mpp - 1) > MPP_TOLERANCE:
        whose = "ORION's" if slide.layout.is_orion else "the cohort's"
        return [
            f"{image.path}: its OME-XML says {image.mpp:.4g} µm/px, {slide.mpp:g} is {whose}. The "
            "file is believed; if it is wrong, cells will be seen at a wrong size."
        ]
    return []


def _check_fellow(
    kind: str, image: ImageFacts | None, wrong: list[str], he: ImageFacts | None, slide: _Found
) -> list[str]:
    """Problems of a mask or an immunofluorescence image beside its H&E."""
    problems = list(wrong)
    if image is None:
        return problems
    planes = len(slide.layout.channels)
    channels, dtypes = (1, ("int32", "uint32")) if kind == "mask" else (planes, ("uint16",))
    if not slide.layout.is_orion:
        dtypes = (*dtypes, *_ALSO[kind])
    if image.channels != channels or image.dtype not in dtypes:
        problems.append(
            f"{image.path}: {image.channels} channels of {image.dtype}, where {channels} of "
            f"{dtypes[0]} are expected. Is it the right file?"
        )
    if kind == "if" and slide.own_frame:
        return problems
    if he is not None and (image.width, image.height) != (he.width, he.height):
        problems.append(
            f"{image.path}: {image.width:,} x {image.height:,} px, but the H&E {he.path.name} has "
            f"{he.width:,} x {he.height:,}. They must be of the same section and registered: check "
            "that no file of another slide is in the folder, or register them: "
            "`lymphinfer cohort register`."
        )
    if he is not None and image.mpp and he.mpp and abs(image.mpp / he.mpp - 1) > MPP_TOLERANCE:
        problems.append(
            f"{image.path}: {image.mpp:.4g} µm/px, but the H&E {he.path.name} has {he.mpp:.4g}."
        )
    return problems


def _check_cells(
    slide: _Found, size: tuple[int, int] | None, errors: list[str], warnings: list[str]
) -> int | None:
    path, form, orion = slide.files["cells"], slide.form, slide.layout.is_orion
    own = [form.column(name) for name in form.channels]
    wanted = COLUMNS if orion else tuple(n for n in (form.id, *own, form.x, form.y) if n)
    try:
        header = read_header(path)
        places, missing, repeated = header.places(wanted)
        known = {name.casefold() for name in wanted}
        unknown = [n for n in dict.fromkeys(header.names) if n and n.casefold() not in known]
        if missing:
            fix = "Download it again." if orion else "See [cells] in cohort.toml."
            errors.append(f"{path}: no column {', '.join(missing)}. {fix}")
        if repeated:
            errors.append(f"{path}: column {', '.join(repeated)} stands there twice.")
        if unknown and orion:
            warnings.append(f"{path}: unknown column {', '.join(unknown)}, not used.")
        if repeated:
            return None
        there = [name for name in form.channels if form.column(name) in places]
        cells = read_cells(path, there, form)
    except DataError as error:
        if str(error) not in errors:
            errors.append(str(error))
        return None
    errors += cell_problems(cells, size)
    return len(cells)
