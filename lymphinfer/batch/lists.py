"""A list of slides as csv or tsv."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lymphinfer.batch.job import Job
from lymphinfer.batch.list_table import Row, existing, is_no_value, join_cells, read_table
from lymphinfer.batch.ownership import assign_folders
from lymphinfer.cells.naming import file_name, mirrored, name_key, slide_stem
from lymphinfer.errors import SlideError
from lymphinfer.slides.pixel_size import MAX_MPP, MIN_MPP, plausible
from lymphinfer.slides.remote import remote_address
from lymphinfer.textfiles import shown

log = logging.getLogger(__name__)

COLUMNS = ("slide", "mpp", "bundle", "out", "roi", "tissue", "series", "nuclei", "regions")
AREAS = ("roi", "tissue", "nuclei", "regions")
"""Columns, and settings, that name a slide's own file, or a folder with one a slide."""
_MPP = re.compile(
    r"([+-]?[\d.,]+(?:e[+-]?\d+)?)\s*(?:mpp|[uµμ]m|microns?)?(?:\s*(?:/|per)\s*(?:px|pixels?))?",
    re.IGNORECASE,
)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_NAMED = 5


@dataclass(frozen=True)
class _Entry:
    """A row that can be read; `folder` where the list names it."""

    line: int
    slide: Path
    folder: Path | None
    mpp: float | None
    bundle: str | None
    roi: str | None
    tissue: str | None
    series: str | None
    nuclei: str | None
    regions: str | None


def read_list(path: Path, out: Path) -> list[Job]:
    r"""Read a csv or tsv with the column ``slide`` and maybe others of `COLUMNS`.

    What spreadsheets make of such a file is read: ``;`` or a tab for the comma, a line ``sep=;``, a
    decimal comma, UTF-16, ``\`` in paths, ``NA`` for an empty field. Other columns are ignored,
    with a word.

    Parameters
    ----------
    path : Path
        With a header line. A relative ``slide``, ``roi``, ``tissue``, ``nuclei`` or ``regions``,
        and a ``bundle`` that is a folder, are taken from the list's own folder. ``out`` is the
        slide's result folder, from the results root; without it, the slide's path from the list's
        folder, or its whole path where it lies elsewhere, so that it does not depend on the other
        rows.
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
    table = read_table(path)
    if "slide" not in table.header:
        raise SlideError(
            f"{path}: no column `slide` in its first line {table.first!r}; a list has the "
            f"columns {', '.join(COLUMNS)}, of which `slide` is needed"
        )
    times = Counter(table.header)
    twice = [name for name in COLUMNS if times[name] > 1]
    if twice:
        raise SlideError(f"{path}: column {', '.join(twice)} stands there twice; leave one")
    _tell_unused(path, table.header)
    entries: list[_Entry] = []
    problems: list[str] = list(table.problems)
    for row in table.rows:
        try:
            values = _values(table.header, row, path.parent)
            entries.append(_entry(row.line, values, path.parent, out))
        except ValueError as error:
            problems.append(f"line {row.line}: {error}")
    problems += _repeated(entries)
    if problems:
        count = "1 bad row" if len(problems) == 1 else f"{len(problems)} bad rows"
        problems.sort(key=_line)
        raise SlideError(f"{path}: {count}. " + "; ".join(problems))
    if not entries:
        raise SlideError(f"{path}: the list has no rows")
    _tell_missing(path, entries)
    return _jobs(entries, path.parent, out)


def _values(header: list[str], row: Row, base: Path) -> dict[str, str]:
    """Fields of a row by column; raises ValueError where they cannot be told apart."""
    cells = row.cells
    if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
        joined = join_cells(header, row, base)
        if joined is None:
            raise ValueError(
                f"{len(cells)} fields where the header has {len(header)}: a name or number with "
                f"the separator {row.delimiter!r} in it must stand in double quotes"
            )
        cells = joined
    found = dict(zip(header, cells, strict=False))
    values = {name: found.get(name, "") for name in COLUMNS}
    return {
        name: "" if is_no_value(value) else value if name == "slide" else value.strip()
        for name, value in values.items()
    }


def _entry(line: int, values: Mapping[str, str], base: Path, out: Path) -> _Entry:
    named = values["slide"]
    if not named.strip():
        raise ValueError("no slide")
    if any("\0" in value for value in values.values()):
        raise ValueError("a NUL character; save the list as UTF-8 text")
    address = remote_address(named.strip())
    slide = existing(base, named) if address is None else Path(address)
    if address is None and not os.path.lexists(slide):
        _explain(named)
    areas = {name: _areas(name, values[name], base) for name in AREAS}
    bundle = values["bundle"]
    if bundle and existing(base, bundle).is_dir():
        bundle = str(existing(base, bundle))
    folder = out / values["out"].replace("\\", "/") if values["out"] else None
    mpp, series = _mpp(values["mpp"]), values["series"] or None
    return _Entry(line, slide, folder, mpp, bundle or None, series=series, **areas)


def _areas(column: str, named: str, base: Path) -> str | None:
    """File of annotations of a row, or a folder of them."""
    if not named:
        return None
    found = existing(base, named)
    if not found.exists():
        raise ValueError(f"{column} {shown(found)}: no such file")
    return str(found)


def _explain(named: str) -> None:
    """Raise ValueError for a slide that cannot be there, however the disks are mounted."""
    if os.name != "nt" and _DRIVE.match(named):
        raise ValueError(
            f"{shown(named)} is a path of Windows: name the file as this machine sees it, or "
            "from the list's folder"
        )
    if any("\udc80" <= character <= "\udcff" for character in named):
        raise ValueError(
            f"no file {shown(named)}, and the name is not UTF-8: save the list as CSV UTF-8"
        )


def _mpp(text: str) -> float | None:
    if not text:
        return None
    found = _MPP.fullmatch(text)
    try:
        value = float((found[1] if found else "").replace(",", "."))
    except ValueError:
        raise ValueError(f"mpp {text!r} is not a number of µm/px, such as 0.25") from None
    if not plausible(value):
        comma = "; a decimal comma must stand in double quotes" if text == "0" else ""
        raise ValueError(f"mpp {text} is not within {MIN_MPP} to {MAX_MPP} µm/px{comma}")
    return value


def _repeated(entries: list[_Entry]) -> list[str]:
    """Rows whose results would be one: the same slide, or the same ``out``."""
    problems = []
    lines: dict[str, _Entry] = {}
    for entry in entries:
        if entry.folder is None:
            key, what = os.path.realpath(entry.slide.parent), f"the same slide {shown(entry.slide)}"
            key = os.path.join(key, entry.slide.name)  # noqa: PTH118 - keeps a link's own name
        else:
            key = name_key(entry.folder)
            what = f"the same result folder {shown(entry.folder)}"
        first = lines.setdefault(key, entry)
        if first is not entry:
            hint = "" if first.series == entry.series else "; give each of its images an `out`"
            problems.append(f"line {entry.line}: {what} as line {first.line}{hint}")
    return problems


def _tell_unused(path: Path, header: list[str]) -> None:
    """Say which columns are not known: what stands in a mistyped one would be lost."""
    unused = [name for name in header if name and name not in COLUMNS]
    if not unused:
        return
    meant = {name: get_close_matches(name, COLUMNS, 1) for name in unused}
    named = [f"{n} (is {meant[n][0]} meant?)" if meant[n] else n for n in unused[:_NAMED]]
    more = f" and {len(unused) - _NAMED} more" if len(unused) > _NAMED else ""
    log.warning("%s: columns that are not used: %s%s", shown(path), ", ".join(named), more)


def _tell_missing(path: Path, entries: list[_Entry]) -> None:
    """Say before the work which slides are not there: a list's folder may be the wrong one."""
    missing = [
        entry
        for entry in entries
        if remote_address(entry.slide) is None and not os.path.lexists(entry.slide)
    ]
    if missing:
        named = ", ".join(f"line {e.line}: {shown(e.slide)}" for e in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        log.warning(
            "%s: %d of %d slides are not there: %s%s",
            *(shown(path), len(missing), len(entries), named, more),
        )


def _jobs(entries: list[_Entry], base: Path, out: Path) -> list[Job]:
    own = [entry for entry in entries if entry.folder is None]
    slides = [entry.slide for entry in own]
    given = [entry.folder for entry in entries if entry.folder is not None]
    folders = assign_folders(slides, [_tree(slide, base, out) for slide in slides], given)
    found = {entry.line: folder for entry, folder in zip(own, folders, strict=True)}
    return [
        Job(
            e.slide,
            e.folder or found[e.line],
            e.mpp,
            e.bundle,
            e.roi,
            e.tissue,
            e.series,
            e.nuclei,
            e.regions,
        )
        for e in entries
    ]


def _tree(slide: Path, base: Path, out: Path) -> Path:
    """Result folder of a slide, from the results root; keeps the suffix out."""
    if remote_address(slide) is not None:
        return mirrored(Path(file_name(slide)), out)
    above, root = slide.parent.resolve(), base.resolve()
    inner = above.relative_to(root) if above.is_relative_to(root) else Path(*above.parts[1:])
    return mirrored(inner / slide.name, out) if slide.name else out / slide_stem(slide)


def _line(problem: str) -> int:
    number = re.match(r"line (\d+)", problem)
    return int(number[1]) if number else 0
