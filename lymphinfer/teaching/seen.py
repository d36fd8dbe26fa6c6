"""What a bundle reads of named nuclei: features, and what it says of them now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.bundles.loading import Bundle
from lymphinfer.cells.outlines import Rings
from lymphinfer.cells.stars import stars
from lymphinfer.markers.describing import describer
from lymphinfer.markers.two_scale import FarScale
from lymphinfer.nuclei.detector import polygon_centroids
from lymphinfer.slides import Slide, Tile, TileGrid
from lymphinfer.slides.cover import point_shards
from lymphinfer.slides.edges import read_with_edges
from lymphinfer.teaching.marked import Mark
from lymphinfer.teaching.teachable import Teachable

F32 = NDArray[np.float32]

MATCH_UM = 3.0
"""A point belongs to the nucleus whose centroid is no further away."""
DISC_UM = 3.0
"""Radius of what stands for the nucleus of a point where none was detected."""
_TILE_PX = 2048


@dataclass(frozen=True)
class Seen:
    """Nuclei as a bundle sees them.

    Attributes
    ----------
    features : ndarray of float32, (N, F)
        See `Teachable`; NaN where a scale is missing.
    centers : ndarray of float64, (N, 2)
        Level-0 px.
    alone : int
        Points that no detected nucleus stands at.
    around : ndarray of float32, (P, F)
        Features of all nuclei that were detected around them.
    """

    features: F32
    centers: NDArray[np.float64]
    alone: int
    around: F32


def see(
    slide: Slide,
    bundle: Bundle,
    teachable: Teachable,
    marks: Sequence[Mark],
    on_tile: Callable[[], None] = lambda: None,
) -> Seen:
    """Read what a bundle sees of a slide's named nuclei, and of those around them.

    Only the tiles around them are read.

    Parameters
    ----------
    slide : Slide
        Open.
    bundle : Bundle
        Of `teachable`.
    teachable : Teachable
    marks : sequence of Mark
    on_tile : callable
        Called after every tile.
    """
    mpp = bundle.manifest.mpp
    scale = mpp / slide.mpp
    points = np.array([mark.point for mark in marks]) / scale
    tiles = _tiles(slide, mpp, bundle.halo_px, points)
    reader = describer(bundle.detector, bundle.markers)
    near: list[F32 | None] = [None] * len(marks)
    centers = np.array([mark.point for mark in marks])
    around: list[tuple[F32, NDArray[np.float64]]] = []
    alone = 0
    for tile in tiles:
        x0, y0 = tile.halo[:2]
        pixels = read_with_edges(slide, tile.halo, mpp)
        dense = bundle.detector.infer(pixels)
        found = bundle.detector.decode(dense)
        corner = np.array((x0, y0), np.float64)
        places = polygon_centroids(found.polygons) + corner
        values = teachable.read(found)
        own = tile.owns(*places.T)
        around.append((values[own], places[own] * scale))
        mine = np.flatnonzero(tile.owns(*points.T))
        given: list[tuple[int, NDArray[np.float64]]] = []
        for i in mine.tolist():
            ring = marks[i].ring
            if ring is not None:
                given.append((i, ring / scale))
                continue
            away = np.linalg.norm(places - points[i], axis=1) * mpp
            if len(away) and away.min() <= MATCH_UM:
                nearest = int(away.argmin())
                near[i], centers[i] = values[nearest], places[nearest] * scale
            else:
                given.append((i, _disc(points[i], DISC_UM / mpp)))
                alone += 1
        if given:
            seen = stars(_rings([ring for _, ring in given])).moved(1, corner)
            told = teachable.read(reader.describe(dense, seen))
            for (i, _), row, place in zip(given, told, seen.centers, strict=True):
                near[i], centers[i] = row, (place + corner) * scale
        on_tile()
    features = np.stack([row for row in near if row is not None])
    everyone = np.concatenate([values for values, _ in around])
    if bundle.markers.far is not None:
        all_centers = np.concatenate([centers, *(places for _, places in around)])
        told = look_far(slide, bundle.markers.far, all_centers)
        features = np.concatenate([features, told[: len(marks)]], axis=1)
        everyone = np.concatenate([everyone, told[len(marks) :]], axis=1)
    return Seen(features, centers, alone, everyone)


def look_far(slide: Slide, far: FarScale, centers: NDArray[np.float64]) -> F32:
    """What the far scale says of nuclei (N, 2) in level-0 px, (N, outputs)."""
    places = centers * (slide.mpp / far.mpp)
    size = np.array(slide.dimensions_at(far.mpp))
    places = np.clip(places, 0, size)
    halo = far.config.halo_px
    found = np.empty((len(places), len(far.config.outputs)), np.float32)
    for tile in _tiles(slide, far.mpp, halo, places):
        box = far.box(*tile.core)
        seen = far.infer(read_with_edges(slide, box, far.mpp), (box[0], box[1]))
        own = tile.owns(*places.T)
        found[own] = seen.at(places[own])
    return found


def _tiles(slide: Slide, mpp: float, halo_px: int, points: NDArray[np.float64]) -> list[Tile]:
    """Tiles around points."""
    grid = TileGrid(slide.dimensions, slide.mpp, mpp, tile_px=_TILE_PX, halo_px=halo_px)
    return [tile for shard in point_shards(grid, *points.T) for tile in shard.tiles]


def _rings(rings: list[NDArray[np.float64]]) -> Rings:
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]).astype(np.int64)
    return Rings(np.concatenate(rings), offsets)


def _disc(center: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
