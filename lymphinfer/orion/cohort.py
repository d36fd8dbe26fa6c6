"""A local cohort: which slides it has and where their files are."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from lymphinfer.errors import DataError, PixelSizeError, SlideError
from lymphinfer.orion.align import Affine, AlignedPlanes, read_transform
from lymphinfer.orion.cohort_file import SlideEntry
from lymphinfer.orion.layout import (
    FILE,
    MEASURED,
    Layout,
    TableFormat,
    find_layout,
    orion_layout,
)
from lymphinfer.orion.manifest import KINDS, patient_of
from lymphinfer.slides import Slide, open_slide
from lymphinfer.slides.pixel_size import KnownSize

logger = logging.getLogger(__name__)

ORION_MPP = 0.325
"""Level-0 pixel size of ORION's images, µm/px."""

MPP_TOLERANCE = 0.01
NEEDED = ("he", "cells")
TRUTH = "truth"


@dataclass(frozen=True)
class OrionSlide:
    """The files of one slide.

    Attributes
    ----------
    folder : str
        Its name in the cohort, ``"CRC33_01"``.
    patient : str
        ``"C33"``.
    he : Path
        Registered H&E, OME-TIFF.
    cells : Path
        Cell table, CSV.
    mask, if_, markers_csv : Path or None
        Cell mask, immunofluorescence and channel names; not needed for training.
    truth : Path or None
        What is known of each cell; only a simulated cohort has it.
    layout : Layout
        The cohort's.
    mpp : float or None
        Pixel size of the H&E, µm/px, where the cohort's file says one for this slide.
    if_mpp : float or None
        Pixel size of the immunofluorescence, µm/px, where the cohort's file says one.
    to_if : Affine or None
        From the H&E's level-0 px to the immunofluorescence's; None where they share one frame.
    """

    folder: str
    patient: str
    he: Path
    cells: Path
    mask: Path | None = None
    if_: Path | None = None
    markers_csv: Path | None = None
    truth: Path | None = None
    layout: Layout = field(default_factory=orion_layout)
    mpp: float | None = None
    to_if: Affine | None = None
    if_mpp: float | None = None

    @property
    def table_format(self) -> TableFormat:
        """How its cell table is written."""
        return self.layout.table_format(self.mpp or self.layout.file.mpp)

    def open_if(self) -> AlignedPlanes:
        """Open the immunofluorescence, in the H&E's frame.

        Raises
        ------
        SlideError
            There is none, or it cannot be read.
        """
        if self.if_ is None:
            raise SlideError(f"{self.folder}: there is no immunofluorescence image.")
        return AlignedPlanes(self.if_, self.to_if)

    def open_he(self, mpp: float | None = None) -> Slide:
        """Open the H&E image.

        The pixel size comes from the OME-XML; where it states none, or one that cannot be, it is
        `mpp` (µm/px), or what the cohort's file says. A disagreement of over 1 % is logged as a
        warning. A pixel size that the cohort's file states for the slide itself is taken.

        Raises
        ------
        SlideError
            The file cannot be opened.
        """
        if self.mpp is not None:
            return open_slide(self.he, mpp=KnownSize(self.mpp))
        mpp = self.layout.file.mpp if mpp is None else mpp
        try:
            slide = open_slide(self.he)
        except PixelSizeError as error:
            same = error.stated is not None and all(
                abs(stated / mpp - 1) <= MPP_TOLERANCE for stated in error.stated
            )
            if not same:
                logger.warning("%s: taken as %g µm/px (%s)", self.he, mpp, error)
            return open_slide(self.he, mpp=KnownSize(mpp))
        if abs(slide.mpp / mpp - 1) > MPP_TOLERANCE:
            logger.warning(
                "%s: its %s says %.4g µm/px, where %g is expected; the file is believed",
                self.he,
                slide.mpp_source,
                slide.mpp,
                mpp,
            )
        return slide


@dataclass(frozen=True)
class Cohort:
    """The slides of a cohort folder, sorted by name."""

    root: Path
    slides: tuple[OrionSlide, ...]
    layout: Layout = field(default_factory=orion_layout)

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients, each once, in the order of their first slide."""
        return tuple(dict.fromkeys(slide.patient for slide in self.slides))

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the slides."""
        return tuple(slide.folder for slide in self.slides)

    def of_patient(self, patient: str) -> tuple[OrionSlide, ...]:
        """Slides of a patient; empty if there are none."""
        return tuple(slide for slide in self.slides if slide.patient == patient)

    def only(self, folders: tuple[str, ...]) -> Cohort:
        """Keep the named slides; DataError names those that are not there."""
        missing = sorted(set(folders) - set(self.folders))
        if missing:
            raise DataError(
                f"{self.root}: no slide {', '.join(missing)}. It has {', '.join(self.folders)}."
            )
        chosen = tuple(s for s in self.slides if s.folder in folders)
        return Cohort(self.root, chosen, self.layout)


def find_files(
    root: str | os.PathLike[str], layout: Layout | None = None
) -> tuple[dict[Path, dict[str, Path]], list[str]]:
    """Find the slide folders of a cohort and their files.

    A slide's files lie in ``root/<folder>/`` or ``root/data/<folder>/`` and are told by pattern,
    never by a name built from the slide's number. A partial download, H&E and cell table alone, is
    whole.

    Parameters
    ----------
    root : str or path-like
        The cohort folder, or one slide's folder.
    layout : Layout, optional
        With the patterns; ORION's where None.

    Returns
    -------
    files : dict of Path to dict of str to Path
        By slide folder and kind of file; what is missing or ambiguous is left out.
    problems : list of str
        A sentence for every missing or ambiguous file; empty if there are none.
    """
    root = Path(root)
    patterns = (orion_layout() if layout is None else layout).file.files.patterns()
    if not root.is_dir():
        return {}, [f"{root}: no such folder. Check the path."]
    folders = [root] if _is_slide_folder(root, patterns) else _slide_folders(root, patterns)
    if not folders:
        return {}, [
            f"{root}: no slide folders. A cohort holds folders such as CRC01, each with a "
            f"{patterns['he']} and a {patterns.get('cells', 'cell table')}; get them with "
            f"`lymphinfer orion download`, or describe your own data in {FILE}."
        ]
    files, problems = {}, []
    for folder in folders:
        files[folder], wrong = _find(folder, patterns)
        problems += wrong
    times = Counter(folder.name for folder in folders)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        problems.append(
            f"{root}: {', '.join(twice)} both here and under data/. Keep one of the two."
        )
    return files, problems


def scan_cohort(root: str | os.PathLike[str], *, measured: bool = True) -> tuple[Cohort, list[str]]:
    """Find the slides of a folder, and what is wrong with it; see `find_files`.

    A simulated cohort's truth lies in ``truth/<folder>.parquet``.

    Parameters
    ----------
    root : str or path-like
        The cohort's folder.
    measured : bool
        Cell tables that `lymphinfer cohort quantify` makes must be there.

    Returns
    -------
    cohort : Cohort
        The slides that have both files that are needed, each found once.
    problems : list of str
        As `find_files` returns them.
    """
    root = Path(root)
    try:
        layout = find_layout(root)
    except DataError as error:
        return Cohort(root, ()), [str(error)]
    if layout.file.slide:
        return _listed(root, layout, measured)
    files, problems = find_files(root, layout)
    slides = [
        OrionSlide(
            folder.name,
            patient_of(folder.name),
            found["he"],
            found["cells"],
            found.get("mask"),
            found.get("if"),
            found.get("markers"),
            _truth(root, folder.name),
            layout,
        )
        for folder, found in files.items()
        if all(kind in found for kind in NEEDED)
    ]
    return Cohort(root, tuple(sorted(slides, key=lambda s: s.folder)), layout), problems


def open_cohort(root: str | os.PathLike[str]) -> Cohort:
    """Open a cohort folder; see `scan_cohort`.

    Raises
    ------
    DataError
        Listing every missing or ambiguous file.
    """
    cohort, problems = scan_cohort(root)
    if problems:
        raise DataError("\n".join(problems))
    return cohort


def _listed(root: Path, layout: Layout, measured: bool) -> tuple[Cohort, list[str]]:
    """The slides that a cohort's file lists."""
    problems: list[str] = []
    slides = []
    for entry in layout.file.slide:
        slide, wrong = _listed_slide(root, layout, entry, measured)
        slides.append(slide)
        problems += wrong
    return Cohort(root, tuple(sorted(slides, key=lambda s: s.folder)), layout), problems


def _listed_slide(
    root: Path, layout: Layout, entry: SlideEntry, must_be: bool
) -> tuple[OrionSlide, list[str]]:
    measured = layout.file.cells.source == "measure"
    cells = root / MEASURED / f"{entry.name}.csv" if measured else root / entry.cells
    named = {"he": entry.he, "if": entry.if_, "mask": entry.mask, "transform": entry.transform}
    paths = {kind: root / name for kind, name in named.items() if name}
    problems = [
        f"{path}: no such file, which {layout.path} names for slide {entry.name}."
        for path in (*paths.values(), *(() if measured else (cells,)))
        if not path.is_file()
    ]
    if measured and must_be and not cells.is_file():
        problems.append(
            f"{cells}: slide {entry.name} has not been measured. Run `lymphinfer cohort quantify "
            f"{root}`."
        )
    to_if = None
    if "transform" in paths and paths["transform"].is_file():
        try:
            to_if = read_transform(paths["transform"])
        except DataError as error:
            problems.append(str(error))
    slide = OrionSlide(
        entry.name,
        entry.patient or entry.name,
        paths["he"],
        cells,
        paths.get("mask"),
        paths.get("if"),
        None,
        None,
        layout,
        entry.mpp,
        to_if,
        entry.if_mpp,
    )
    return slide, problems


def _slide_folders(root: Path, patterns: dict[str, str]) -> list[Path]:
    parents = [root, root / "data"]
    return [
        folder
        for parent in parents
        if parent.is_dir()
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and (folder.name.startswith("CRC") or _is_slide_folder(folder, patterns))
    ]


def _names(folder: Path) -> list[str]:
    # Dot files are what file managers and archivers leave behind.
    return sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _is_slide_folder(folder: Path, patterns: dict[str, str]) -> bool:
    needed = [patterns[kind] for kind in NEEDED if kind in patterns]
    return any(fnmatchcase(name, pattern) for name in _names(folder) for pattern in needed)


def _find(folder: Path, patterns: dict[str, str]) -> tuple[dict[str, Path], list[str]]:
    """Files of a slide's folder by kind, and what is wrong with them."""
    found, problems = {}, []
    names = _names(folder)
    for kind in (kind for kind in KINDS if kind in patterns):
        hits = [name for name in names if fnmatchcase(name, patterns[kind])]
        if len(hits) == 1:
            found[kind] = folder / hits[0]
        elif hits:
            problems.append(
                f"{folder}: {len(hits)} files match {patterns[kind]} ({', '.join(hits)}). "
                "Leave the one that belongs to this slide."
            )
        elif kind in NEEDED:
            problems.append(
                f"{folder}: no file matches {patterns[kind]}. Get it with "
                f"`lymphinfer orion download --slides {folder.name} --only {kind}`."
            )
    return found, problems


def _truth(root: Path, folder: str) -> Path | None:
    for base in (root, root / "data", root.parent):
        path = base / TRUTH / f"{folder}.parquet"
        if path.is_file():
            return path
    return None
