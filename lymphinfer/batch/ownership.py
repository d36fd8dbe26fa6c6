"""To which slide a result folder belongs, and in which folder a slide's results go.

A result folder belongs to one slide. It says so by the path in its state and by the identity in its
summary: the same path is the same slide even where the file has changed, the same content is the
same slide even where it has moved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any

from lymphinfer.batch.state import SlideState, read_state, slide_stamp
from lymphinfer.cells.naming import (
    BATCH_CSV,
    BATCH_JSON,
    PARTS,
    REPORT,
    STATE,
    SUMMARY,
    file_name,
    name_key,
    safe_name,
    second_name,
    slide_place,
    slide_words,
)
from lymphinfer.errors import ResultError, SlideError
from lymphinfer.slides import open_slide
from lymphinfer.slides.identity import file_identity, image_identity
from lymphinfer.slides.pixel_size import MAX_MPP
from lymphinfer.slides.remote import remote_address
from lymphinfer.slides.zarr_reader import is_zarr
from lymphinfer.textfiles import shown

log = logging.getLogger(__name__)


class Owner(Enum):
    """Whose a result folder is, as seen from a slide."""

    NOBODY = auto()
    SAME_PATH = auto()
    SAME_CONTENT = auto()
    ANOTHER = auto()


def owner(folder: Path, slide: Path) -> Owner:
    """Tell whether a result folder is a slide's.

    Reads at most 3 MiB of the slide, and that only where the paths differ.
    """
    state = read_state(folder)
    if state is not None:
        known = Path(state.path or Path(state.slide).absolute())
        place = state.path or slide_place(Path(state.slide))
        if place == slide_place(slide) or _is_same_file(known, slide):
            return Owner.SAME_PATH
        if state.stamp and known.name == shown(slide.name) and state.stamp == slide_stamp(slide):
            return Owner.SAME_CONTENT
    known_image = _image(folder)
    if known_image is not None:
        identity, number = known_image
        with suppress(SlideError):
            return Owner.SAME_CONTENT if _identity(slide, number) == identity else Owner.ANOTHER
        return Owner.ANOTHER
    # Of a slide that is gone and has no results, nothing would be lost.
    if state is None or not known.exists():
        return Owner.NOBODY
    return Owner.ANOTHER


def check_owner(folder: Path, slide: Path) -> None:
    """Make sure that a slide's results would not replace another's.

    Raises
    ------
    ResultError
        The folder is another slide's.
    """
    if owner(folder, slide) is Owner.ANOTHER:
        raise ResultError(
            f"{folder}: holds the results of another slide, {_owner_name(folder)}: give "
            f"{shown(slide_words(slide))} another --out, or move these results away"
        )


def assign_folders(
    slides: Sequence[Path], folders: Sequence[Path], reserved: Sequence[Path] = ()
) -> list[Path]:
    """Result folder of each slide: the one that it has, else the wanted one, else a second one.

    Parameters
    ----------
    slides : sequence of Path
    folders : sequence of Path
        By the slides' names. Two slides that differ in their suffix alone want the same: the first
        of them gets it, unless it is the other's already, and the other one named with its suffix.
    reserved : sequence of Path
        Given to other slides.

    Returns
    -------
    list of Path
        All different, on every file system.
    """
    choices = [
        (
            folder,
            folder.with_name(safe_name(file_name(slide))),
            second_name(folder, slide),
        )
        for slide, folder in zip(slides, folders, strict=True)
    ]
    chosen: dict[int, Path] = {}
    taken = set(map(name_key, reserved))

    def take(number: int, folder: Path) -> None:
        chosen[number] = folder
        taken.add(name_key(folder))

    owners = [[owner(f, slide) for f in fs] for slide, fs in zip(slides, choices, strict=True)]
    for wanted in (Owner.SAME_PATH, Owner.SAME_CONTENT):
        for number, found in enumerate(owners):
            for folder, whose in zip(choices[number], found, strict=True):
                free = number not in chosen and name_key(folder) not in taken
                if free and whose is wanted:
                    take(number, folder)
    for number, (slide, found) in enumerate(zip(slides, owners, strict=True)):
        if number in chosen:
            continue
        first, with_suffix, second = choices[number]
        before = set(taken)
        # The suffix tells two scans in one folder apart, not two patients' slides of one name.
        namesake = found[0] is Owner.ANOTHER and Path(_owner_name(first)).name == file_name(slide)
        for folder, whose in ((first, found[0]), (with_suffix, found[1])):
            if (
                namesake
                or name_key(folder) in taken
                or whose is not Owner.NOBODY
                or _is_foreign(folder)
            ):
                continue
            take(number, folder)
            break
        else:
            take(number, second)
        if chosen[number] != first and name_key(first) not in before:
            _tell(slide, first, chosen[number])
    return [chosen[number] for number in range(len(slides))]


def _tell(slide: Path, wanted: Path, got: Path) -> None:
    if owner(wanted, slide) is Owner.ANOTHER:
        why = f"holds the results of another slide, {_owner_name(wanted)}"
    else:
        why = "is there and holds no results"
    log.warning(
        "%s %s: those of %s go to %s", shown(wanted), why, shown(slide_words(slide)), shown(got)
    )


def _is_foreign(folder: Path) -> bool:
    """Whether something else lies where a result folder would be, such as a slide's own data."""
    if folder.is_file():
        return True
    try:
        names = [path.name for path in folder.iterdir() if path.is_file()]
    except OSError:
        return False
    known = {STATE, SUMMARY, REPORT, BATCH_JSON, BATCH_CSV}
    foreign = [n for n in names if not n.startswith((".", f"{folder.name}.")) and n not in known]
    return bool(foreign) and known.isdisjoint(names) and not (folder / PARTS).is_dir()


def _is_same_file(known: Path, slide: Path) -> bool:
    try:
        return known.samefile(slide)
    except (OSError, ValueError):
        return False


def _image(folder: Path) -> tuple[str, int] | None:
    """Identity of the slide that a summary is of and the number of its image; None without one."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text("utf-8"))
        return str(summary["slide"]["identity"]), int(summary["slide"].get("image", 0))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _identity(slide: Path, number: int) -> str:
    """Identity of an image of a slide; raises SlideError where it cannot be had."""
    if remote_address(slide) is None and not is_zarr(slide):
        return image_identity(file_identity(slide), number)
    # Only their readers know addresses and stores; the pixel size has no bearing on an identity.
    with open_slide(slide, MAX_MPP, series=str(number), force=True) as opened:
        return opened.identity()


def _owner_name(folder: Path) -> str:
    state = read_state(folder)
    if state is not None:
        return state.path or state.slide
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((folder / SUMMARY).read_text("utf-8"))["slide"]["name"])
    return "unknown"


def new_state(slide: Path, **values: Any) -> SlideState:
    """State of a slide, with the place and the stamp by which it is known again."""
    stamp = slide_stamp(slide)
    return SlideState(slide_words(slide), path=slide_place(slide), stamp=stamp, **values)
