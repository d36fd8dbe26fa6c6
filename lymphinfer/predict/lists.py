"""A list of slides as csv or tsv."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from lymphinfer.errors import SlideError
from lymphinfer.predict.inputs import Job
from lymphinfer.predict.naming import slide_stem
from lymphinfer.slides.remote import remote_address, remote_name

COLUMNS = ("slide", "mpp", "bundle", "out", "roi", "series")


def read_list(path: Path, out: Path) -> list[Job]:
    """Read a csv or tsv with the columns ``slide[, mpp, bundle, out, roi, series]``, and any other.

    Parameters
    ----------
    path : Path
        With a header line; ``;`` may stand for the comma. A relative ``slide`` or ``roi``, and a
        ``bundle`` that is a folder, are taken from the list's own folder. ``out`` is the slide's
        result folder, from the results root; without it, the slide's path from the list's folder,
        or its whole path where it lies elsewhere, so that it does not depend on the other rows.
    out : Path
        Results root.

    Returns
    -------
    list of Job
        In the order of the list. A slide that is missing is among them: it fails with its reason.

    Raises
    ------
    SlideError
        The list cannot be read, or rows are wrong: each is named with its line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SlideError(f"{path}: not a readable list ({error}); save it as UTF-8") from error
    header, _, _ = text.partition("\n")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(header)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, restval="")
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    if "slide" not in names:
        raise SlideError(
            f"{path}: no column `slide` in its first line {header.strip()!r}; a list has the "
            f"columns {', '.join(COLUMNS)}, of which `slide` is needed"
        )
    reader.fieldnames = names
    jobs: list[Job] = []
    problems: list[str] = []
    lines: dict[Path, int] = {}
    for row in reader:
        values = {name: (row.get(name) or "").strip() for name in COLUMNS}
        if not any(values.values()):
            continue
        try:
            job = _job(values, path.parent, out)
            first = lines.setdefault(job.folder, reader.line_num)
            if first != reader.line_num:
                raise ValueError(f"the same result folder {job.folder} as line {first}")
        except ValueError as error:
            problems.append(f"line {reader.line_num}: {error}")
        else:
            jobs.append(job)
    if problems:
        raise SlideError(f"{path}: {len(problems)} bad rows. " + "; ".join(problems))
    if not jobs:
        raise SlideError(f"{path}: the list has no rows")
    return jobs


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _job(values: Mapping[str, str], base: Path, out: Path) -> Job:
    if not values["slide"]:
        raise ValueError("no slide")
    address = remote_address(values["slide"])
    slide = base / values["slide"] if address is None else Path(address)
    mpp = None
    if values["mpp"]:
        try:
            mpp = float(values["mpp"])
        except ValueError:
            raise ValueError(f"mpp {values['mpp']!r} is not a number") from None
        if not 0 < mpp < float("inf"):
            raise ValueError(f"mpp {values['mpp']} is not above 0")
    bundle = values["bundle"]
    if bundle and (base / bundle).is_dir():
        bundle = str(base / bundle)
    folder = out / values["out"] if values["out"] else out / _tree(slide, base)
    roi = str(base / values["roi"]) if values["roi"] else None
    return Job(slide, folder, mpp, bundle or None, roi, values["series"] or None)


def _tree(slide: Path, base: Path) -> Path:
    """Result folder of a slide, from the results root; keeps the suffix out."""
    address = remote_address(slide)
    if address is not None:
        return Path(slide_stem(Path(remote_name(address))))
    whole, root = (p.resolve() for p in (slide, base))
    inner = whole.relative_to(root) if whole.is_relative_to(root) else Path(*whole.parts[1:])
    return inner.parent / slide_stem(slide)
