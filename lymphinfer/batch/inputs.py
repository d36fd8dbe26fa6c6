"""What a user points at: a slide, a folder of slides, a pattern, or a list."""

from __future__ import annotations

import glob
import logging
import os
from pathlib import Path

from lymphinfer.batch.job import Job
from lymphinfer.batch.lists import read_list
from lymphinfer.batch.ownership import assign_folders
from lymphinfer.batch.search import Search
from lymphinfer.cells.naming import default_out, file_name, mirrored, slide_stem
from lymphinfer.errors import SlideError
from lymphinfer.slides import SLIDE_SUFFIXES
from lymphinfer.slides.grouping import group_files, slide_of
from lymphinfer.slides.remote import remote_address
from lymphinfer.slides.zarr_reader import is_zarr
from lymphinfer.textfiles import shown

log = logging.getLogger(__name__)

LIST_SUFFIXES = (".csv", ".tsv")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_TOLD = 10


def results_root(source: Path, out: Path | None = None) -> Path:
    """Root of the results of a source: `out`, or ``<stem>.lymphinfer`` beside the source.

    Those of an address go to the current folder.
    """
    if out is not None:
        return out
    return default_out(_base(source) if remote_address(source) is None else Path(file_name(source)))


def is_single(source: Path) -> bool:
    """Whether a source names one slide, not several."""
    if _is_one(source):
        return True
    return not (_is_dir(source) or _is_pattern(source) or source.suffix.lower() in LIST_SUFFIXES)


def find_jobs(source: Path, out: Path | None = None) -> list[Job]:
    """Slides of a source, each with its result folder ``OUT/<relative path without suffix>``.

    Parameters
    ----------
    source : Path
        A slide or its address; a folder that is searched with its subfolders by known suffixes,
        where hidden files, result folders and the folders of MIRAX slides are passed over, and
        links to folders are followed once; a pattern such as ``slides/**/*.svs``; or a csv or tsv
        list, see `lymphinfer.batch.lists.read_list`.
    out : Path, optional
        Root of the results; by default ``<stem>.lymphinfer`` beside the source.

    Returns
    -------
    list of Job
        In the order of their paths, or of the list; each file once, in a result folder that is no
        other slide's. A folder that is called like a slide is among
        them: it fails with its reason when it is opened.

    Raises
    ------
    SlideError
        The source is missing, holds no slide, or is a list with bad rows.
    """
    out = results_root(source, out)
    if _is_one(source):
        (folder,) = assign_folders([source], [out / slide_stem(source)])
        return [Job(source, folder)]
    if _is_dir(source) or _is_pattern(source):
        base = _base(source)
        search = Search(base, out)
        found = search.below() if _is_dir(source) else search.matching(source)
        slides = [slide.path for slide in group_files(found)]
        _tell(search.left_out)
        suffixes = ", ".join(SLIDE_SUFFIXES)
        if not slides and _is_dir(source):
            raise SlideError(f"{source}: no slide found in this folder; looked for {suffixes}")
        if not slides:
            raise SlideError(f"{source}: no slide matches this pattern; looked for {suffixes}")
        return _mirrored(slides, base, out)
    if not os.path.lexists(source):
        raise SlideError(f"{source}: no such file or folder")
    if source.suffix.lower() in LIST_SUFFIXES:
        return _once(read_list(source, out))
    if source.suffix.lower() in _SHEETS:
        raise SlideError(
            f"{source}: a spreadsheet; a list of slides is a csv or tsv file: save it as CSV UTF-8"
        )
    (folder,) = assign_folders([source], [out / slide_stem(source)])
    return [Job(source, folder)]


def _is_one(source: Path) -> bool:
    """Whether a source is an address or a folder that is one slide."""
    return remote_address(source) is not None or is_zarr(source)


def _once(jobs: list[Job]) -> list[Job]:
    """Jobs of a list, without the rows that name another file of a slide that stands above."""
    main = {m: group.path for group in group_files(job.slide for job in jobs)
            for m in group.members}  # fmt: skip
    first: dict[tuple[Path, str | None], Path] = {}
    kept = []
    for job in jobs:
        slide = slide_of(job.slide)
        before = first.setdefault((main.get(slide, slide), job.series), job.slide)
        if before == job.slide:
            kept.append(job)
        else:
            log.warning(
                "Left out: %s, another file of the slide %s", shown(job.slide), shown(before)
            )
    return kept


def _is_pattern(source: Path) -> bool:
    return glob.has_magic(str(source)) and not os.path.lexists(source)


def _is_dir(source: Path) -> bool:
    # Path.is_dir raises where a name is too long.
    return os.path.isdir(source)  # noqa: PTH112


def _base(source: Path) -> Path:
    """Folder from which a pattern's matches are named: all that comes before its first wildcard."""
    if not _is_pattern(source):
        return source
    fixed = []
    for part in source.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _mirrored(slides: list[Path], base: Path, out: Path) -> list[Job]:
    """Jobs whose folders mirror the tree below a folder."""
    folders = assign_folders(slides, [mirrored(slide.relative_to(base), out) for slide in slides])
    return [Job(slide, folder) for slide, folder in zip(slides, folders, strict=True)]


def _tell(left_out: list[str]) -> None:
    """Say what was passed over, the first few by name."""
    left_out = list(dict.fromkeys(left_out))
    for words in left_out[:_TOLD]:
        log.warning("Left out: %s", words)
    if len(left_out) > _TOLD:
        log.warning("Left out: %d more of this kind", len(left_out) - _TOLD)
