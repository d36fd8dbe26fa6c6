"""What a user points at: a slide, a folder of slides, a pattern, or a list."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lymphinfer.errors import SlideError
from lymphinfer.predict.naming import default_out, slide_stem
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import SLIDE_SUFFIXES
from lymphinfer.slides.grouping import group_files, slide_of
from lymphinfer.slides.remote import remote_address, remote_name
from lymphinfer.slides.zarr_reader import is_zarr

log = logging.getLogger(__name__)

LIST_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class Job:
    """A slide and the folder of its results.

    Attributes
    ----------
    slide, folder : Path
    mpp : float or None
        The slide's own pixel size, over the settings' one.
    bundle : str or None
        The slide's own bundle, over the settings' one.
    roi : str or None
        The slide's own file of annotations, over the settings' one.
    series : str or None
        The image to read, over the settings' one.
    """

    slide: Path
    folder: Path
    mpp: float | None = None
    bundle: str | None = None
    roi: str | None = None
    series: str | None = None

    def settings(self, common: PredictSettings) -> PredictSettings:
        """Settings of this slide."""
        return replace(
            common,
            mpp=common.mpp if self.mpp is None else self.mpp,
            bundle=self.bundle or common.bundle,
            roi=self.roi or common.roi,
            series=self.series or common.series,
        )


def results_root(source: Path, out: Path | None = None) -> Path:
    """Root of the results of a source: `out`, or ``<stem>.lymphinfer`` beside the source.

    Those of an address go to the current folder.
    """
    if out is not None:
        return out
    address = remote_address(source)
    return default_out(_base(source) if address is None else Path(remote_name(address)))


def is_single(source: Path) -> bool:
    """Whether a source names one slide, not several."""
    if _is_one(source):
        return True
    return not (source.is_dir() or _is_pattern(source) or source.suffix.lower() in LIST_SUFFIXES)


def find_jobs(source: Path, out: Path | None = None) -> list[Job]:
    """Slides of a source, each with its result folder ``OUT/<relative path without suffix>``.

    Parameters
    ----------
    source : Path
        A slide; a folder that is searched with its subfolders by known suffixes, where hidden
        files, result folders and the folders of MIRAX slides are passed over; a pattern such as
        ``slides/**/*.svs``; or a csv or tsv list, see `lymphinfer.predict.lists.read_list`.
    out : Path, optional
        Root of the results; by default ``<stem>.lymphinfer`` beside the source.

    Returns
    -------
    list of Job
        In the order of their paths, or of the list. A folder that is called like a slide is among
        them: it fails with its reason when it is opened.

    Raises
    ------
    SlideError
        The source is missing, holds no slide, or is a list with bad rows.
    """
    out = results_root(source, out)
    if _is_one(source):
        address = remote_address(source)
        name = source if address is None else Path(remote_name(address))
        return [Job(source, out / slide_stem(name))]
    if source.is_dir():
        slides = _slides_in(source, source.rglob("*"), out)
        if not slides:
            raise SlideError(
                f"{source}: no slide found in this folder; looked for {', '.join(SLIDE_SUFFIXES)}"
            )
        return _mirrored(slides, source, out)
    if _is_pattern(source):
        base = _base(source)
        found = glob.glob(str(source), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute
        slides = _slides_in(base, map(Path, found), out)
        if not slides:
            raise SlideError(
                f"{source}: no slide matches this pattern; looked for {', '.join(SLIDE_SUFFIXES)}"
            )
        return _mirrored(slides, base, out)
    if not source.exists():
        raise SlideError(f"{source}: no such file or folder")
    if source.suffix.lower() in LIST_SUFFIXES:
        from lymphinfer.predict.lists import read_list

        return _once(read_list(source, out))
    return [Job(source, out / slide_stem(source))]


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
            log.warning("%s: left out, another file of the slide %s", job.slide, before)
    return kept


def _is_pattern(source: Path) -> bool:
    return glob.has_magic(str(source)) and not source.exists()


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


def _slides_in(base: Path, paths: Iterable[Path], out: Path) -> list[Path]:
    """Slides among paths below a folder, sorted, each once whatever its files."""
    results = out.absolute()
    slides = []
    for path in paths:
        inner = path.relative_to(base).parts
        if path.suffix.lower() not in SLIDE_SUFFIXES or path.absolute().is_relative_to(results):
            continue
        if any(part.startswith(".") or part.endswith(".lymphinfer") for part in inner):
            continue
        above = [base.joinpath(*inner[:n]) for n in range(1, len(inner))]
        # The pixels of a MIRAX slide lie in a folder of its name.
        if not any(folder.with_name(f"{folder.name}.mrxs").is_file() for folder in above):
            slides.append(path)
    return [slide.path for slide in group_files(slides)]


def _mirrored(slides: list[Path], base: Path, out: Path) -> list[Job]:
    """Jobs whose folders mirror the tree below a folder."""
    taken: set[Path] = set()
    jobs = []
    for slide in slides:
        folder = out / slide.relative_to(base).parent / slide_stem(slide)
        # Two slides that differ in their suffix alone keep apart.
        if folder in taken:
            folder = folder.with_name(slide.name)
        taken.add(folder)
        jobs.append(Job(slide, folder))
    return jobs
