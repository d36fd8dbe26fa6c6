"""A first `cohort.toml` for a folder of one's own slides, to be read and corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import tomli_w

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.orion.cohort_file import FORMAT, VERSION
from lymphinfer.orion.image_check import ImageFacts, inspect_image
from lymphinfer.orion.layout import FILE
from lymphinfer.orion.table_header import read_header
from lymphinfer.panel import PANELS, TCELL_PANEL
from lymphinfer.slides.pixel_size import MAX_PATCH_MPP, MIN_MPP

_HEADER = """\
# A cohort of slides with immunofluorescence of the same section, for LymphInfer.
# Made by `lymphinfer cohort init`, from the files' own words: read it and correct it, then run
# `lymphinfer cohort check`. What each entry means: docs/own-cohorts.md.

"""
_IMAGES = (".tif", ".tiff")
_NUCLEAR = ("dapi", "hoechst", "dna", "nuclei")


@dataclass
class _Found:
    """Files of one slide."""

    he: ImageFacts
    fluorescence: ImageFacts | None = None
    mask: Path | None = None
    cells: Path | None = None
    channels: list[str] = field(default_factory=list)


def draft_cohort(root: Path) -> tuple[str, list[str]]:
    """Draft a ``cohort.toml`` by what lies in a folder.

    An image of three 8-bit channels is an H&E, one of several channels an immunofluorescence, one
    of a single channel of whole numbers a mask; what belongs to an H&E lies in its folder, and
    where several do, has the name that begins most alike.

    Parameters
    ----------
    root : Path

    Returns
    -------
    text : str
        The file.
    notes : list of str
        What to look at.

    Raises
    ------
    DataError
        No H&E, or no immunofluorescence and no cell tables.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Check the path.")
    images = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in _IMAGES and p.is_file()]
    facts = [(path, inspect_image(path)[0]) for path in images]
    known = [fact for _, fact in facts if fact is not None]
    slides = [_Found(fact) for fact in known if fact.channels == 3 and fact.dtype == "uint8"]
    if not slides:
        raise DataError(
            f"{root}: no H&E: no TIFF of three 8-bit channels. Put H&E and immunofluorescence "
            "there as OME-TIFF, or write cohort.toml by hand."
        )
    _assign(slides, [fact for fact in known if fact.channels != 3], root)
    if not any(s.fluorescence or s.cells for s in slides):
        raise DataError(
            f"{root}: neither immunofluorescence nor cell tables. LymphInfer learns from one of "
            "them."
        )
    document, notes = _document(slides, root)
    return _HEADER + tomli_w.dumps(document), notes


def init_cohort(root: Path) -> tuple[Path, list[str]]:
    """Write a draft to ``root/cohort.toml``; as `draft_cohort`, and DataError where it is there."""
    path = root / FILE
    if path.exists():
        raise DataError(f"{path}: is there already. Edit it, or move it away.")
    text, notes = draft_cohort(root)
    with atomic_write(path) as file:
        file.write(text.encode())
    return path, notes


def _assign(slides: list[_Found], others: Sequence[ImageFacts], root: Path) -> None:
    for fact in others:
        own = _nearest(slides, fact.path)
        if fact.channels == 1 and "int" in fact.dtype:
            own.mask = own.mask or fact.path
        elif fact.channels > 1 and own.fluorescence is None:
            own.fluorescence, own.channels = fact, list(fact.channel_names)
    for path in sorted(root.rglob("*.csv")):
        own = _nearest(slides, path)
        # Lists of channels have a column or two.
        is_table = len(read_header(path).names) > 3
        if own.he.path.parent == path.parent and own.cells is None and is_table:
            own.cells = path


def _nearest(slides: list[_Found], path: Path) -> _Found:
    def alike(slide: _Found) -> tuple[bool, int]:
        pairs = zip(slide.he.path.name, path.name, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return slide.he.path.parent == path.parent, common

    return max(slides, key=alike)


def _document(slides: list[_Found], root: Path) -> tuple[dict[str, object], list[str]]:
    notes = []
    sizes = {s.he.mpp for s in slides if s.he.mpp is not None}
    mpp = next(iter(sorted(sizes)), 0.5)
    if len(sizes) != 1 or not MIN_MPP <= mpp <= MAX_PATCH_MPP:
        stated = ", ".join(f"{size:g}" for size in sorted(sizes)) or "none"
        notes.append(f"mpp: the H&Es state {stated}; write the true one")
        mpp = min(max(mpp, MIN_MPP), MAX_PATCH_MPP)
    first = next((s for s in slides if s.fluorescence is not None), None)
    names = first.channels if first is not None else []
    if first is not None and not names and first.fluorescence is not None:
        names = [f"channel-{i + 1}" for i in range(first.fluorescence.channels)]
        notes.append("[image] channels: the images name none; write them in the files' order")
    if first is None:
        notes.append("[image] channels: there is no immunofluorescence; write the tables' channels")
        names = list(TCELL_PANEL.names)
    nuclei = next((n for n in names if any(word in n.lower() for word in _NUCLEAR)), "")
    if not nuclei:
        notes.append("[image] nuclei: which channel is the nuclear stain?")
    markers = _markers(names, notes)
    measured = not all(s.cells for s in slides)
    document: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "about": "",
        "panel": TCELL_PANEL.name,
        "mpp": mpp,
        "image": {"channels": names, "nuclei": nuclei},
        "cells": {"source": "measure" if measured else "table"},
        **({"marker": markers} if markers else {}),
        "slide": [_entry(s, root, measured) for s in slides],
    }
    return document, notes


def _markers(names: Sequence[str], notes: list[str]) -> list[dict[str, str]]:
    """Channels of the panel's markers that are called otherwise."""
    markers = []
    for marker in TCELL_PANEL.names:
        if marker in names:
            continue
        alike = [n for n in names if _same(n, marker)]
        markers.append({"name": marker, "channel": alike[0] if alike else marker})
        if not alike:
            notes.append(
                f"[[marker]] {marker}: which channel is it? Or take another panel: "
                f"{', '.join(PANELS)}"
            )
    return markers


def _same(channel: str, marker: str) -> bool:
    """Whether a channel is a marker by another spelling: case, dashes, a subunit's letter."""
    plain = ["".join(c for c in text.lower() if c.isalnum()) for text in (channel, marker)]
    return plain[0] == plain[1] or plain[0] == plain[1].rstrip("abcdefghijklmnopqrstuvwxyz")


def _entry(slide: _Found, root: Path, measured: bool) -> dict[str, object]:
    he = slide.he.path
    name = he.name.split(".")[0]
    if he.parent != root:
        name = "-".join(he.parent.relative_to(root).parts)
    files = {
        "he": he,
        "if": slide.fluorescence.path if slide.fluorescence else None,
        "mask": slide.mask,
        "cells": None if measured else slide.cells,
    }
    return {
        "name": name,
        "patient": name,
        **{k: p.relative_to(root).as_posix() for k, p in files.items() if p is not None},
    }
