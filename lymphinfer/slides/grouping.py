"""One slide, many files: which files of a folder belong together."""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.slides.dicom import DicomFile, looks_like_dicom, read_dicom_file

_INDEXED = (".vms", ".vmu")


@dataclass(frozen=True)
class SlideFiles:
    """The files of one slide.

    Attributes
    ----------
    path : Path
        The one to open.
    members : tuple of Path
        Those among the given paths that belong to the slide, `path` too; sorted.
    """

    path: Path
    members: tuple[Path, ...]


def group_files(paths: Iterable[Path]) -> list[SlideFiles]:
    """Group paths into slides.

    DICOM files of a folder are grouped by their series, and labels, overviews, thumbnails and
    localizers left out; a series of nothing else is no slide. The pictures that a Hamamatsu `.vms`
    or `.vmu` names, and those in the folder of a MIRAX slide or a Zarr store, belong to it. Every
    other file is a slide of its own. Files are read as little as that takes.

    Parameters
    ----------
    paths : iterable of Path
        Files that are called like slides, in any order.

    Returns
    -------
    list of SlideFiles
        In the order of their `path`.
    """
    given = sorted(dict.fromkeys(paths))
    owner = _owners(given)
    members: dict[Path, list[Path]] = {}
    series: dict[tuple[Path, str], list[tuple[Path, DicomFile]]] = {}
    for path in given:
        dicom = read_dicom_file(path) if looks_like_dicom(path) else None
        if dicom is not None and dicom.series:
            series.setdefault((path.parent, dicom.series), []).append((path, dicom))
        else:
            members.setdefault(owner.get(path, path), []).append(path)
    for files in series.values():
        scans = [path for path, dicom in files if dicom.is_scan]
        if scans:
            members[scans[0]] = [path for path, _ in files]
    return [SlideFiles(path, tuple(members[path])) for path in sorted(members)]


def dicom_series(path: Path) -> list[Path]:
    """Files of the scan of a DICOM slide, sorted; the file alone where it names no series.

    Parameters
    ----------
    path : Path
        Any file of the slide.
    """
    wanted = read_dicom_file(path)
    if wanted is None or not wanted.series:
        return [path]
    beside = sorted(file for file in path.parent.iterdir() if looks_like_dicom(file))
    read = [(file, read_dicom_file(file)) for file in beside]
    found = [f for f, dicom in read if dicom and dicom.series == wanted.series and dicom.is_scan]
    return found or [path]


def slide_of(path: Path) -> Path:
    """The file to open of the slide that a file belongs to; the file itself where it stands alone.

    A single path that a user has named is looked at together with its neighbours: any file of a
    DICOM slide stands for the whole.
    """
    if not looks_like_dicom(path) or not path.is_file():
        return path
    return dicom_series(path)[0]


def _owners(given: Sequence[Path]) -> dict[Path, Path]:
    """The slide of each path that is part of another one."""
    owner: dict[Path, Path] = {}
    there = set(given)
    folders = {path.parent / path.stem: path for path in given if path.suffix.lower() == ".mrxs"}
    stores = {path for path in given if path.suffix.lower() == ".zarr"}
    for path in given:
        for above in path.parents:
            if above in folders:
                owner[path] = folders[above]
            elif above in stores:
                owner[path] = above
    for index in given:
        if index.suffix.lower() in _INDEXED:
            names = {name.lower() for name in _named_pictures(index)}
            for path in there:
                if path.parent == index.parent and path.name.lower() in names:
                    owner[path] = index
    return owner


def _named_pictures(index: Path) -> set[str]:
    """Names of the files that a Hamamatsu index lists."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(index.read_text("utf-8", errors="replace"))
    except (OSError, configparser.Error):
        return set()
    return {
        value.replace("\\", "/").rpartition("/")[2].strip()
        for section in parser.sections()
        for value in parser[section].values()
        if "." in value
    }
