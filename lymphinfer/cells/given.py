"""Nuclei that another program has found, to be classified instead of detected."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.annotations import Roi
from lymphinfer.annotations.outlines import LEAST_UM2, MOST_UM2, PROBABILITY, Outline, read_outlines
from lymphinfer.cells.outlines import Rings, areas, centroids, is_valid, mended
from lymphinfer.cells.table import NAMESPACE
from lymphinfer.errors import AnnotationError
from lymphinfer.textfiles import shown

NUMBER = "cell_id"
"""Column of the nucleus table for ids that are whole numbers."""
_BEYOND = 0.01
_EXACT = 1 << 24


@dataclass(frozen=True, eq=False)
class GivenNuclei:
    """Nuclei with their outlines as they were given.

    Attributes
    ----------
    path : Path
        The file.
    rings : Rings
        N outlines, level-0 px, on the 0.01 px grid, valid in QuPath.
    ids : ndarray of uint8, (N, 16)
        Their own UUIDs; without one, made from the file's content.
    numbers : ndarray of float32, (N,), or None
        Ids that are whole numbers; NaN where one has none, None where none has.
    probability : ndarray of float32, (N,)
        Detection probability that the file states; NaN without one.
    notes : tuple of str
        What was passed over or mended, for the user.
    """

    path: Path
    rings: Rings
    ids: NDArray[np.uint8]
    numbers: NDArray[np.float32] | None
    probability: NDArray[np.float32]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rings)

    @cached_property
    def centers(self) -> NDArray[np.float64]:
        """Centroids (x, y), level-0 px, (N, 2)."""
        return centroids(self.rings) if len(self) else np.empty((0, 2))

    @property
    def extras(self) -> dict[str, NDArray[np.float32]]:
        """Further columns of the nucleus table."""
        return {} if self.numbers is None else {NUMBER: self.numbers}

    @cached_property
    def sha256(self) -> str:
        """Hash of the nuclei, hex: equal outlines and ids, equal results."""
        parts = [self.rings.hundredths, self.rings.offsets, self.ids, self.probability]
        parts += [] if self.numbers is None else [self.numbers]
        return hashlib.sha256(
            b"".join(np.ascontiguousarray(p).tobytes() for p in parts)
        ).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What a result says of them."""
        return {"file": shown(self.path.name), "nuclei": len(self), "sha256": self.sha256}

    def take(self, index: NDArray[Any]) -> GivenNuclei:
        """Nuclei at a boolean or integer index."""
        rows = np.arange(len(self))[index]
        numbers = None if self.numbers is None else self.numbers[rows]
        return GivenNuclei(
            self.path, self.rings.take(rows), self.ids[rows], numbers, self.probability[rows],
            self.notes,
        )  # fmt: skip

    def inside(self, area: Roi | None) -> GivenNuclei:
        """Nuclei whose centroid lies inside an area; all without one."""
        if area is None:
            return self
        # On the grid on which the table states a centroid: what it states is inside.
        x, y = np.rint(self.centers * 100).T / 100
        return self.take(area.contains(x, y))


def read_given(
    path: Path, *, dimensions: tuple[int, int], mpp: float, offset: tuple[int, int] = (0, 0)
) -> GivenNuclei:
    """Read nuclei for one slide.

    Parameters
    ----------
    path : Path
        As `lymphinfer.annotations.outlines.read_outlines` takes it.
    dimensions : tuple of int
        The slide's (width, height), level-0 px.
    mpp : float
        Level-0 pixel size, µm/px.
    offset : tuple of int
        Level-0 (x, y) of the corner at which QuPath's image begins: added to every point.

    Returns
    -------
    GivenNuclei

    Raises
    ------
    AnnotationError
        The file cannot be read, holds no nuclei, an id twice, nuclei of another slide, or what is
        no nucleus by its size.
    """
    found = read_outlines(path)
    notes = list(found.notes)
    counts = np.array([len(item.ring) for item in found.items])
    corners = np.concatenate([item.ring for item in found.items]) + np.asarray(offset, np.float64)
    drawn = Rings(corners, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    _check_sizes(path, drawn, mpp, dimensions)
    # Not the centroid: that of a ring that crosses itself may lie anywhere.
    centers = np.add.reduceat(corners, drawn.offsets[:-1]) / counts[:, None]
    on_slide = ((centers >= 0) & (centers <= np.array(dimensions))).all(axis=1)
    beyond = int((~on_slide).sum())
    if beyond > _BEYOND * len(drawn):
        raise AnnotationError(
            f"{path}: {beyond:,} of {len(drawn):,} nuclei lie beyond the slide of "
            f"{dimensions[0]} x {dimensions[1]} px: they are those of another image, or of the "
            "full image where it was opened cropped (--no-crop)"
        )
    if beyond:
        notes.append(f"nuclei beyond the slide passed over: {beyond:,}")
    rings, kept, repaired = _on_grid(drawn, np.flatnonzero(on_slide), dimensions)
    if repaired:
        notes.append(f"outlines that cross themselves mended: {repaired:,}")
    if len(kept) + beyond < len(drawn):
        lost = len(drawn) - beyond - len(kept)
        notes.append(f"outlines that could not be made valid passed over: {lost:,}")
    items = [found.items[i] for i in kept.tolist()]
    numbers = _numbers(path, items)
    probability = np.array([i.measurements.get(PROBABILITY, np.nan) for i in items], np.float32)
    return GivenNuclei(path, rings, _ids(path, items, rings), numbers, probability, tuple(notes))


def _check_sizes(path: Path, rings: Rings, mpp: float, dimensions: tuple[int, int]) -> None:
    px = float(np.median(areas(rings)))
    um2 = px * mpp**2
    if LEAST_UM2 <= um2 <= MOST_UM2:
        return
    if um2 > MOST_UM2:
        raise AnnotationError(
            f"{path}: the median area of its {len(rings):,} objects is {um2:,.0f} µm² at "
            f"{mpp:g} µm/px, which is no nucleus; export detections or cells, not annotations"
        )
    far = rings.coords.max(axis=0)
    in_um = LEAST_UM2 <= px <= MOST_UM2 and (far <= np.array(dimensions) * mpp * 1.01).all()
    hint = "they seem to be µm" if in_um else "they are of a smaller image, or the nuclei fragments"
    raise AnnotationError(
        f"{path}: the median area of its {len(rings):,} nuclei is {um2:.1f} µm² at {mpp:g} µm/px, "
        f"too little for a nucleus: coordinates must be px of the full image, {hint}"
    )


def _on_grid(
    drawn: Rings, wanted: NDArray[np.int64], dimensions: tuple[int, int]
) -> tuple[Rings, NDArray[np.int64], int]:
    """Rings with all their vertices on the 0.01 px grid, which, and how many were mended."""
    chosen = drawn.take(wanted)
    coords = np.rint(np.clip(chosen.coords, 0, np.array(dimensions, np.float64)) * 100) / 100
    distinct = (coords != coords[chosen.following]).any(axis=1)
    owner = np.repeat(np.arange(len(chosen)), chosen.counts)
    counts = np.bincount(owner[distinct], minlength=len(chosen))
    ringlike = np.flatnonzero(counts >= 3)
    offsets = np.concatenate([[0], np.cumsum(counts[ringlike])]).astype(np.int64)
    rings = Rings(coords[distinct & (counts >= 3)[owner]], offsets)
    good = is_valid(rings)
    parts, sources, repaired = [], [], 0
    for i in range(len(rings)) if not good.all() else ():
        ring = rings[i] if good[i] else mended(rings[i], None)
        if ring is not None:
            parts.append(Rings(ring, np.array([0, len(ring)])))
            sources.append(i)
            repaired += not good[i]
    if parts or not good.all():
        rings, ringlike = Rings.concatenate(parts), ringlike[np.array(sources, np.int64)]
    return _turned(rings), wanted[ringlike], repaired


def _turned(rings: Rings) -> Rings:
    """The same rings with positive shoelace area, as every ring of the nucleus table."""
    if not len(rings):
        return rings
    here, there = rings.coords, rings.coords[rings.following]
    start = np.repeat(here[rings.offsets[:-1]], rings.counts, axis=0)
    a, b = here - start, there - start
    cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    backwards = np.repeat(np.add.reduceat(cross, rings.offsets[:-1]) < 0, rings.counts)
    place = np.arange(len(here))
    first = np.repeat(rings.offsets[:-1], rings.counts)
    last = np.repeat(rings.offsets[1:] - 1, rings.counts)
    return Rings(here[np.where(backwards, first + last - place, place)], rings.offsets)


def _numbers(path: Path, items: list[Outline]) -> NDArray[np.float32] | None:
    known = [item.number for item in items if item.number is not None]
    if not known:
        return None
    if max(known) >= _EXACT:
        raise AnnotationError(
            f"{path}: the id {max(known)} is too large to be kept exactly; number the nuclei up to "
            f"{_EXACT - 1:,}, or give them UUIDs as QuPath does"
        )
    _check_unique(path, known)
    return np.array([np.nan if i.number is None else i.number for i in items], np.float32)


def _ids(path: Path, items: list[Outline], rings: Rings) -> NDArray[np.uint8]:
    own = [item.id for item in items if item.id is not None]
    _check_unique(path, own)
    space = uuid.uuid5(NAMESPACE, "given").bytes
    made = bytearray()
    for i, item in enumerate(items):
        if item.id is not None:
            made += item.id.bytes
        else:
            name = rings.hundredths[rings.offsets[i] : rings.offsets[i + 1]].tobytes()
            digest = hashlib.sha1(space + i.to_bytes(8) + name, usedforsecurity=False).digest()
            made += uuid.UUID(bytes=digest[:16], version=5).bytes
    return np.frombuffer(bytes(made), np.uint8).reshape(-1, 16).copy()


def _check_unique(path: Path, ids: list[Any]) -> None:
    if len(set(ids)) < len(ids):
        seen: set[Any] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise AnnotationError(
            f"{path}: the id {twice} stands there twice; export each nucleus once"
        )
