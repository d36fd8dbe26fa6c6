"""Cells measured on the immunofluorescence, where a cohort has no cell tables.

Images are read block by block and every cell's sums are added up, so that memory holds a block and
a few numbers a cell, however large the slide is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.outlines import Rings
from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import ID, X, Y
from lymphinfer.orion.cohort import OrionSlide
from lymphinfer.slides.identity import file_identity
from lymphinfer.slides.planes import Planes

BLOCK_PX = 1024
RING_UM = 1.6
"""Nuclei that are found on the H&E are dilated by this much: a membrane lies around its nucleus."""

_MAX_LABEL = 50_000_000
_ROWS = 50_000

Progress = Callable[[int, int], None]


class Labels(Protocol):
    """Cells as an image of labels, read by rectangles of level 0."""

    size: tuple[int, int]

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.int64]:
        """Labels of a rectangle, int64 (height, width): 0 where no cell is."""
        ...


class MaskLabels:
    """Labels of a mask's file.

    Parameters
    ----------
    path : Path
        OME-TIFF of whole numbers, 0 between cells, in the H&E's frame.
    """

    def __init__(self, path: Path) -> None:
        self._planes = Planes(path)
        self.size = self._planes.size

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.int64]:
        """As `Labels.read`."""
        return self._planes.read_plane(0, x, y, width, height).astype(np.int64)

    def close(self) -> None:
        """Release the file."""
        self._planes.close()


class RingLabels:
    """Outlines of nuclei, drawn where they are asked for and dilated.

    Parameters
    ----------
    rings : Rings
        Level-0 px; nucleus i has the label i + 1.
    size : tuple of int
        (width, height) of the slide, level-0 px.
    dilate_px : float
        Cells reach this far beyond their nuclei, but not into one another.
    """

    def __init__(self, rings: Rings, size: tuple[int, int], dilate_px: float) -> None:
        self._rings, self.size, self._dilate = rings, size, dilate_px
        starts = rings.offsets[:-1]
        if len(rings):
            self._low = np.minimum.reduceat(rings.coords, starts, axis=0)
            self._high = np.maximum.reduceat(rings.coords, starts, axis=0)
        else:
            self._low = self._high = np.empty((0, 2))

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.int64]:
        """As `Labels.read`."""
        from skimage.draw import polygon
        from skimage.segmentation import expand_labels

        # What lies beyond the rectangle still holds its neighbours back.
        margin = int(np.ceil(2 * self._dilate)) + 1
        left, top = x - margin, y - margin
        shape = (height + 2 * margin, width + 2 * margin)
        labels = np.zeros(shape, np.int64)
        near = (self._high >= (left, top)).all(axis=1) & (
            self._low <= (left + shape[1], top + shape[0])
        ).all(axis=1)
        for i in np.flatnonzero(near):
            # An outline's (0, 0) is the corner of the first pixel, whose centre has the index 0.
            ring = self._rings[int(i)] - (left + 0.5, top + 0.5)
            rows, columns = polygon(ring[:, 1], ring[:, 0], shape)
            labels[rows, columns] = i + 1
        if self._dilate > 0:
            labels = np.asarray(expand_labels(labels, self._dilate), np.int64)
        return labels[margin : margin + height, margin : margin + width]


@dataclass
class Sums:
    """Sums over the pixels of every cell, by label."""

    count: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    channels: NDArray[np.float64]

    @classmethod
    def empty(cls, channels: int) -> Sums:
        """Sums of no cells."""
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros((0, channels)))

    def grow(self, cells: int) -> None:
        """Make room for labels below `cells`, and for as many again."""
        if cells <= len(self.count):
            return
        more = max(cells, 2 * len(self.count)) - len(self.count)
        self.count = np.concatenate([self.count, np.zeros(more, np.int64)])
        self.x = np.concatenate([self.x, np.zeros(more)])
        self.y = np.concatenate([self.y, np.zeros(more)])
        self.channels = np.concatenate([self.channels, np.zeros((more, self.channels.shape[1]))])


def measure(
    labels: Labels,
    planes: Planes,
    channels: list[int],
    *,
    block_px: int = BLOCK_PX,
    progress: Progress | None = None,
) -> Sums:
    """Sum channels over every cell, block by block.

    Parameters
    ----------
    labels : Labels
    planes : Planes
        In the labels' frame.
    channels : list of int
        Planes to sum.
    block_px : int
        Side of a block, px.
    progress : callable, optional
        Called with the blocks done and the blocks in all.

    Returns
    -------
    Sums

    Raises
    ------
    DataError
        A label is no number of a cell.
    SlideError
        An image cannot be decoded.
    """
    sums = Sums.empty(len(channels))
    blocks = list(_blocks(labels.size, block_px))
    for done, (x, y, width, height) in enumerate(blocks, start=1):
        _add(sums, labels.read(x, y, width, height), planes, channels, (x, y))
        if progress is not None:
            progress(done, len(blocks))
    return sums


def _blocks(size: tuple[int, int], side: int) -> Iterator[tuple[int, int, int, int]]:
    for y in range(0, size[1], side):
        for x in range(0, size[0], side):
            yield x, y, min(side, size[0] - x), min(side, size[1] - y)


def _add(
    sums: Sums,
    labels: NDArray[np.int64],
    planes: Planes,
    channels: list[int],
    corner: tuple[int, int],
) -> None:
    """Add a block's pixels to the cells."""
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return
    own, place = np.unique(labels[rows, columns], return_inverse=True)
    if own[0] < 0 or own[-1] > _MAX_LABEL:
        raise DataError(
            f"the mask has a label of {own[0] if own[0] < 0 else own[-1]:,}: it must number cells "
            f"from 1, to at most {_MAX_LABEL:,}. Is it the right file?"
        )
    sums.grow(int(own[-1]) + 1)
    sums.count[own] += np.bincount(place)
    sums.x[own] += np.bincount(place, weights=columns + corner[0])
    sums.y[own] += np.bincount(place, weights=rows + corner[1])
    height, width = labels.shape
    for i, channel in enumerate(channels):
        pixels = planes.read_plane(channel, *corner, width, height)
        sums.channels[own, i] += np.bincount(place, weights=pixels[rows, columns])


def quantify_slide(
    slide: OrionSlide,
    work: Path,
    *,
    bundle: str = "",
    device: str = "auto",
    ring_um: float = RING_UM,
    redo: bool = False,
    progress: Progress | None = None,
) -> int | None:
    """Measure a slide's cells and write its cell table.

    Cells are those of the slide's mask; where it has none, nuclei are found on the H&E by a
    bundle's detector and dilated.

    Parameters
    ----------
    slide : OrionSlide
        Its `cells` is where the table goes.
    work : Path
        Folder for the nuclei that are found; `predict` makes and resumes it.
    bundle : str
        Whose detector; the default one where empty.
    device : str
        For the detector.
    ring_um : float
        Dilation of nuclei that are found, µm.
    redo : bool
        Also where the table of the same images is there.
    progress : callable, optional
        Called with the blocks done and the blocks in all.

    Returns
    -------
    int or None
        Cells; None where the table was there.

    Raises
    ------
    DataError, SlideError, LymphinferError
        An image is missing or cannot be read, frames differ, or no nucleus is found.
    """
    if slide.if_ is None or slide.layout.file.cells.source != "measure":
        raise DataError(
            f"{slide.folder}: nothing to measure: cells are measured where a slide has an image "
            '"if", and cohort.toml says [cells] source = "measure".'
        )
    mark = _mark(slide, bundle, ring_um)
    if not redo and slide.cells.is_file() and _first_line(slide.cells) == mark:
        return None
    names = list(slide.layout.table_channels)
    channels = [slide.layout.channels.index(name) for name in names]
    with ExitStack() as stack:
        planes = stack.enter_context(slide.open_if())
        _check_planes(slide, planes)
        labels: Labels
        if slide.mask is not None:
            labels = MaskLabels(slide.mask)
            stack.callback(labels.close)
        else:
            labels = _found_nuclei(slide, work, bundle, device, ring_um)
        if slide.to_if is None and labels.size != planes.size:
            raise DataError(
                f"{slide.if_}: {planes.size[0]:,} x {planes.size[1]:,} px, where the cells' image "
                f"has {labels.size[0]:,} x {labels.size[1]:,}. Register them: "
                "`lymphinfer cohort register`."
            )
        sums = measure(labels, planes, channels, progress=progress)
    cells = np.flatnonzero(sums.count)
    if not len(cells):
        raise DataError(f"{slide.folder}: no cell was found to measure. Look at the H&E and mask.")
    _write(slide.cells, mark, names, sums, cells)
    return len(cells)


def _check_planes(slide: OrionSlide, planes: Planes) -> None:
    wanted = slide.layout.channels
    if len(planes) != len(wanted):
        raise DataError(
            f"{slide.if_}: {len(planes)} channels, where {slide.layout.path} names {len(wanted)} "
            f"({', '.join(wanted)}). List them all, in the file's order."
        )


def _found_nuclei(
    slide: OrionSlide, work: Path, bundle: str, device: str, ring_um: float
) -> RingLabels:
    from lymphinfer.batch.single import predict_slide
    from lymphinfer.cells.table import read_rings
    from lymphinfer.export.results import open_result
    from lymphinfer.predict.settings import PredictSettings

    with slide.open_he() as image:
        size, mpp = image.dimensions, image.mpp
    settings = PredictSettings(bundle=bundle, device=device, mpp=mpp)
    found = predict_slide(slide.he, work, settings=settings)
    rings = [read_rings(nuclei) for nuclei in open_result(found.folder).tables()]
    return RingLabels(Rings.concatenate(rings), size, ring_um / mpp)


def _mark(slide: OrionSlide, bundle: str, ring_um: float) -> str:
    """First line of the table: what it was made of."""
    images = {"if": slide.if_, "mask": slide.mask} if slide.mask else {"if": slide.if_}
    made_of: dict[str, Any] = {
        kind: file_identity(path) for kind, path in images.items() if path is not None
    }
    made_of["channels"] = list(slide.layout.table_channels)
    if slide.mask is None:
        made_of |= {"he": file_identity(slide.he), "bundle": bundle, "ring_um": ring_um}
    if slide.to_if is not None:
        made_of["to_if"] = slide.to_if.matrix.tolist()
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"# lymphinfer cohort quantify {digest}"


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace").rstrip("\n")


def _write(path: Path, mark: str, names: list[str], sums: Sums, cells: NDArray[np.intp]) -> None:
    """Write the table in ORION's columns, some rows at a time."""
    header = ",".join((ID, *names, X, Y, "Area"))
    formats = ["%d", *["%.6g"] * len(names), "%.3f", "%.3f", "%d"]
    with atomic_write(path) as file:
        file.write(f"{mark}\n{header}\n".encode())
        for first in range(0, len(cells), _ROWS):
            own = cells[first : first + _ROWS]
            area = sums.count[own]
            table = np.column_stack(
                [own, sums.channels[own] / area[:, None], sums.x[own] / area, sums.y[own] / area]
            )
            np.savetxt(file, np.column_stack([table, area]), fmt=formats, delimiter=",")
