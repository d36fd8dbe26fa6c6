"""What a user points at: a slide, a folder of slides, or a list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import SlideError
from lymphinfer.predict.slide import default_out, slide_stem
from lymphinfer.slides import SLIDE_SUFFIXES


@dataclass(frozen=True)
class Job:
    """A slide and the folder of its results."""

    slide: Path
    folder: Path


def find_jobs(source: Path, out: Path | None = None) -> list[Job]:
    """Slides of a source, each with its result folder ``OUT/<relative path without suffix>``.

    Parameters
    ----------
    source : Path
        A slide, or a folder that is searched with its subfolders by known suffixes; hidden files
        and result folders are passed over.
    out : Path, optional
        Root of the results; by default ``<stem>.lymphinfer`` beside the source.

    Returns
    -------
    list of Job
        In the order of their paths.

    Raises
    ------
    SlideError
        The source is missing, or the folder holds no slide.
    """
    out = out if out is not None else default_out(source)
    if not source.is_dir():
        if not source.exists():
            raise SlideError(f"{source}: no such file or folder")
        return [Job(source, out / slide_stem(source))]
    slides = sorted(
        p
        for p in source.rglob("*")
        if p.suffix.lower() in SLIDE_SUFFIXES
        and not any(
            part.startswith(".") or part.endswith(".lymphinfer")
            for part in p.relative_to(source).parts
        )
        and not p.is_relative_to(out)
        and not p.is_dir()
    )
    if not slides:
        raise SlideError(
            f"{source}: no slide found in this folder; looked for {', '.join(SLIDE_SUFFIXES)}"
        )
    names: dict[Path, int] = {}
    jobs = []
    for slide in slides:
        folder = out / slide.relative_to(source).parent / slide_stem(slide)
        # Two slides that differ in their suffix alone keep apart.
        names[folder] = names.get(folder, 0) + 1
        if names[folder] > 1:
            folder = folder.with_name(slide.name)
        jobs.append(Job(slide, folder))
    return jobs
