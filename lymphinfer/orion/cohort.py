"""A local cohort: which slides it has and where their files are."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lymphinfer.errors import DataError, PixelSizeError
from lymphinfer.orion.manifest import KINDS, PATTERNS, patient_of
from lymphinfer.slides import Slide, open_slide

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
    """

    folder: str
    patient: str
    he: Path
    cells: Path
    mask: Path | None = None
    if_: Path | None = None
    markers_csv: Path | None = None
    truth: Path | None = None

    def open_he(self, mpp: float = ORION_MPP) -> Slide:
        """Open the H&E image.

        The pixel size comes from the OME-XML; where it states none, or one that cannot be, it is
        `mpp` (µm/px). A disagreement of over 1 % is logged as a warning.

        Raises
        ------
        SlideError
            The file cannot be opened.
        """
        try:
            slide = open_slide(self.he)
        except PixelSizeError as error:
            logger.warning("%s: taken as %g µm/px (%s)", self.he, mpp, error)
            return open_slide(self.he, mpp=mpp)
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
        return Cohort(self.root, tuple(s for s in self.slides if s.folder in folders))


def find_files(root: str | os.PathLike[str]) -> tuple[dict[Path, dict[str, Path]], list[str]]:
    """Find the slide folders of a cohort and their files.

    A slide's files lie in ``root/<folder>/`` or ``root/data/<folder>/`` and are told by pattern,
    never by a name built from the slide's number. A partial download, H&E and cell table alone, is
    whole.

    Parameters
    ----------
    root : str or path-like
        The cohort folder, or one slide's folder.

    Returns
    -------
    files : dict of Path to dict of str to Path
        By slide folder and kind of file; what is missing or ambiguous is left out.
    problems : list of str
        A sentence for every missing or ambiguous file; empty if there are none.
    """
    root = Path(root)
    if not root.is_dir():
        return {}, [f"{root}: no such folder. Check the path."]
    folders = [root] if _is_slide_folder(root) else _slide_folders(root)
    if not folders:
        return {}, [
            f"{root}: no slide folders. A cohort holds folders such as CRC01, each with a "
            f"{PATTERNS['he']} and a {PATTERNS['cells']}; get them with "
            "`lymphinfer orion download`."
        ]
    files, problems = {}, []
    for folder in folders:
        files[folder], wrong = _find(folder)
        problems += wrong
    times = Counter(folder.name for folder in folders)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        problems.append(
            f"{root}: {', '.join(twice)} both here and under data/. Keep one of the two."
        )
    return files, problems


def scan_cohort(root: str | os.PathLike[str]) -> tuple[Cohort, list[str]]:
    """Find the slides of a folder, and what is wrong with it; see `find_files`.

    A simulated cohort's truth lies in ``truth/<folder>.parquet``.

    Returns
    -------
    cohort : Cohort
        The slides that have both files that are needed, each found once.
    problems : list of str
        As `find_files` returns them.
    """
    files, problems = find_files(root)
    slides = [
        OrionSlide(
            folder.name,
            patient_of(folder.name),
            found["he"],
            found["cells"],
            found.get("mask"),
            found.get("if"),
            found.get("markers"),
            _truth(Path(root), folder.name),
        )
        for folder, found in files.items()
        if all(kind in found for kind in NEEDED)
    ]
    return Cohort(Path(root), tuple(sorted(slides, key=lambda s: s.folder))), problems


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


def _slide_folders(root: Path) -> list[Path]:
    parents = [root, root / "data"]
    return [
        folder
        for parent in parents
        if parent.is_dir()
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and (folder.name.startswith("CRC") or _is_slide_folder(folder))
    ]


def _names(folder: Path) -> list[str]:
    # Dot files are what file managers and archivers leave behind.
    return sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _is_slide_folder(folder: Path) -> bool:
    return any(fnmatchcase(name, PATTERNS[kind]) for name in _names(folder) for kind in NEEDED)


def _find(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Files of a slide's folder by kind, and what is wrong with them."""
    found, problems = {}, []
    names = _names(folder)
    for kind in KINDS:
        hits = [name for name in names if fnmatchcase(name, PATTERNS[kind])]
        if len(hits) == 1:
            found[kind] = folder / hits[0]
        elif hits:
            problems.append(
                f"{folder}: {len(hits)} files match {PATTERNS[kind]} ({', '.join(hits)}). "
                "Leave the one that belongs to this slide."
            )
        elif kind in NEEDED:
            problems.append(
                f"{folder}: no file matches {PATTERNS[kind]}. Get it with "
                f"`lymphinfer orion download --slides {folder.name} --only {kind}`."
            )
    return found, problems


def _truth(root: Path, folder: str) -> Path | None:
    for base in (root, root / "data", root.parent):
        path = base / TRUTH / f"{folder}.parquet"
        if path.is_file():
            return path
    return None
