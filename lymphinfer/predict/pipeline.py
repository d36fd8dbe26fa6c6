"""Tiles to nucleus tables: reading and decoding beside the device, which never waits for a file."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.annotations import Roi
from lymphinfer.bundles.evidence import DEFAULT_POINT
from lymphinfer.bundles.loading import Bundle
from lymphinfer.cells.given import GivenNuclei
from lymphinfer.cells.outlines import Rings, centroids, clean
from lymphinfer.cells.stars import stars
from lymphinfer.cells.table import build_table
from lymphinfer.markers.describing import Describer, describer
from lymphinfer.markers.hierarchy import apply_hierarchy, call_phenotypes
from lymphinfer.markers.memory import CarefulDevice
from lymphinfer.markers.two_scale import FarMap, FarScale
from lymphinfer.nuclei.detector import Detection, polygon_centroids
from lymphinfer.slides import Shard, Slide, Tile, TileGrid
from lymphinfer.slides.edges import read_with_edges
from lymphinfer.slides.focus import BlurredField, blurred_fields, with_fields

OnTile = Callable[[int], None]

EDGE_PX = 1.0
"""How far beyond the slide's edge a centroid may lie, working px: half a nucleus and its mirror
image make a whole one, whose centroid lies on the edge."""

DROPPED_KEY = b"lymphinfer.dropped"
"""Metadata of a shard's table: outlines that could not be made valid, where there are any."""


class StageClock:
    """Seconds spent in each stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began


@dataclass(frozen=True)
class TileNuclei:
    """Nuclei that a tile owns.

    Attributes
    ----------
    rings : Rings
        N outlines, level-0 px, valid in QuPath.
    detection : Detection
        The same nuclei in tile pixels.
    patches : ndarray of uint8, (N, S, S, 3), or None
    centers_level0 : ndarray of float64, (N, 2)
        Their centroids (x, y) as they were detected.
    dropped : int
        Outlines that could not be made valid.
    ids : ndarray of uint8, (N, 16), or None
        Of nuclei that were given.
    """

    rings: Rings
    detection: Detection
    patches: NDArray[np.uint8] | None
    centers_level0: NDArray[np.float64]
    dropped: int = 0
    ids: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class FarPixels:
    """Pixels of a rectangle of the far grid, and its corner (x, y)."""

    pixels: NDArray[np.uint8]
    origin_px: tuple[int, int]


@dataclass
class _ShardInProgress:
    missing: int
    far: FarMap | None = None
    rings: list[Rings] = field(default_factory=list)
    probability: list[NDArray[np.float32]] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    extras: list[Mapping[str, NDArray[np.float32]]] = field(default_factory=list)
    ids: list[NDArray[np.uint8]] = field(default_factory=list)
    dropped: int = 0


class TilePipeline:
    """Runs a bundle over the tiles of one slide.

    A tile's nuclei depend on that tile alone, so order, worker count and interruptions leave the
    result as it is. Memory holds a few tiles and one or two shards' nuclei.

    Parameters
    ----------
    slide : Slide
    bundle : Bundle
    grid : TileGrid
    hierarchy : str
        Mode of `apply_hierarchy`.
    workers : int
        Threads that read and decode.
    clock : StageClock
    roi : Roi, optional
        Only nuclei whose centroid lies inside are kept.
    operating_point : str
        From where nuclei are called, see `BundleManifest.calls_at`.
    given : GivenNuclei, optional
        Nuclei to classify in place of detecting some; already limited to the region.
    """

    def __init__(
        self,
        slide: Slide,
        bundle: Bundle,
        grid: TileGrid,
        *,
        hierarchy: str,
        workers: int,
        clock: StageClock,
        roi: Roi | None = None,
        operating_point: str = DEFAULT_POINT,
        given: GivenNuclei | None = None,
    ):
        self.slide, self.bundle, self.grid = slide, bundle, grid
        self.hierarchy, self.workers, self.clock, self.roi = hierarchy, workers, clock, roi
        self.operating_point = operating_point
        self.identity = slide.identity()
        self.blurred: dict[Tile, list[BlurredField]] = {}
        self.given = given
        self.describer: Describer | None = None
        if given is not None:
            self.describer = describer(bundle.detector, bundle.markers)
        self.device = CarefulDevice(self.describer or bundle.detector, bundle.markers)
        self.far: FarScale | None = bundle.markers.far

    def run(
        self, shards: Sequence[Shard], on_tile: OnTile = lambda n: None
    ) -> Iterator[tuple[Shard, pa.Table]]:
        """Yield each shard's nucleus table once its last tile is done.

        Parameters
        ----------
        shards : sequence of Shard
        on_tile : callable
            Called with the number of nuclei after every tile.

        Yields
        ------
        tuple of Shard and pyarrow.Table
        """
        jobs = iter([(shard, tile) for shard in shards for tile in shard.tiles])
        far_reads: dict[str, Future[FarPixels]] = {}
        progress = {shard.id: _ShardInProgress(len(shard.tiles)) for shard in shards}
        depth = self.workers + 1
        # A dense prediction takes 200 MB at tiles of 2048 px: few wait to be decoded.
        behind = max(2, self.workers // 2)
        reading: deque[tuple[Shard, Tile, Future[NDArray[np.uint8]]]] = deque()
        decoding: deque[tuple[Shard, list[Future[TileNuclei]]]] = deque()
        tables: deque[tuple[Shard, Future[pa.Table]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="lymphinfer")

        def read_ahead() -> None:
            while len(reading) < depth and (job := next(jobs, None)) is not None:
                shard, tile = job
                if self.far is not None and tile is shard.tiles[0]:
                    far_reads[shard.id] = pool.submit(self._read_far, shard)
                reading.append((*job, pool.submit(self._read, tile)))

        try:
            read_ahead()
            while reading or decoding:
                if reading:
                    shard, tile, read = reading.popleft()
                    pixels = read.result()
                    read_ahead()
                    if shard.id in far_reads:
                        progress[shard.id].far = self._look_far(far_reads.pop(shard.id).result())
                    with self.clock("detect"):
                        parts = [
                            pool.submit(self._decode, *piece)
                            for piece in self.device.infer(tile, pixels)
                        ]
                    decoding.append((shard, parts))
                while decoding and (
                    not reading or len(decoding) > behind or all(f.done() for f in decoding[0][1])
                ):
                    shard, decoded = decoding.popleft()
                    state = progress[shard.id]
                    on_tile(sum(self._classify(part.result(), state) for part in decoded))
                    state.missing -= 1
                    if not state.missing:
                        made = pool.submit(self._table, shard, progress.pop(shard.id))
                        tables.append((shard, made))
                    if reading:
                        break
                while tables and (tables[0][1].done() or not (reading or decoding)):
                    shard, made = tables.popleft()
                    yield shard, made.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _classify(self, nuclei: TileNuclei, state: _ShardInProgress) -> int:
        with self.clock("classify"):
            far = None
            if state.far is not None and self.far is not None:
                far = state.far.at(nuclei.centers_level0 * (self.slide.mpp / self.far.mpp))
            logits = self.device.logits(nuclei.patches, nuclei.detection, far)
        state.rings.append(nuclei.rings)
        state.probability.append(nuclei.detection.probability)
        state.logits.append(logits)
        state.extras.append(nuclei.detection.extras)
        state.dropped += nuclei.dropped
        state.ids += [] if nuclei.ids is None else [nuclei.ids]
        return len(nuclei.rings)

    def _read(self, tile: Tile) -> NDArray[np.uint8]:
        with self.clock("read"):
            pixels = read_with_edges(self.slide, tile.halo, self.grid.mpp_work)
        with self.clock("focus"):
            self.blurred[tile] = blurred_fields(
                pixels, tile, self.grid.mpp_work, self.grid.downsample
            )
        return pixels

    def _read_far(self, shard: Shard) -> FarPixels:
        """A shard's tiles and what lies around them, at the far scale."""
        assert self.far is not None
        cores = np.array([tile.core for tile in shard.tiles]) * (self.grid.mpp_work / self.far.mpp)
        box = self.far.box(*cores[:, :2].min(axis=0), *cores[:, 2:].max(axis=0))
        with self.clock("read"):
            pixels = read_with_edges(self.slide, box, self.far.mpp)
        return FarPixels(pixels, (box[0], box[1]))

    def _look_far(self, read: FarPixels) -> FarMap:
        assert self.far is not None
        with self.clock("far"):
            return self.device.look_far(self.far, read.pixels, read.origin_px)

    def _decode(self, tile: Tile, pixels: NDArray[np.uint8], dense: Any) -> TileNuclei:
        with self.clock("decode"):
            find = self._detected if self.describer is None else self._given
            found, centers = find(tile, dense)
        markers = self.bundle.markers
        if not markers.patch_px:
            return found
        with self.clock("patches"):
            return replace(found, patches=markers.patches(pixels, centers))

    def _given(self, tile: Tile, dense: Any) -> tuple[TileNuclei, NDArray[np.float64]]:
        """Nuclei that were given, as far as the tile owns them, and their centres in it."""
        assert self.given is not None and self.describer is not None
        scale = self.grid.downsample
        mine = self.given.take(tile.owns(*(self.given.centers / scale).T))
        seen = stars(mine.rings).moved(scale, np.array(tile.halo[:2], np.float64))
        found = self.describer.describe(dense, seen)
        found = replace(found, probability=mine.probability, extras=mine.extras)
        return TileNuclei(mine.rings, found, None, mine.centers, ids=mine.ids), seen.centers

    def _detected(self, tile: Tile, dense: Any) -> tuple[TileNuclei, NDArray[np.float64]]:
        """The detector's nuclei that the tile owns, and their centres in it."""
        detection = self.bundle.detector.decode(dense)
        corner = np.array(tile.halo[:2], np.float64)
        centers = polygon_centroids(detection.polygons)
        places = centers + corner
        last = np.array(self.slide.dimensions_at(self.grid.mpp_work), np.float64)
        # What lies in the mirror image is there already, on the other side of the edge.
        here = np.maximum(-places, places - last).max(axis=1, initial=-np.inf) <= EDGE_PX
        owned = here & tile.owns(*np.clip(places, 0, last).T)
        detection, centers = detection.take(owned), centers[owned]
        limits = np.array(self.slide.dimensions, np.float64)
        cleaned = clean(np.clip((detection.polygons + corner) * self.grid.downsample, 0, limits))
        detection, rings = detection.take(cleaned.kept), cleaned.rings
        centers = centers[cleaned.kept]
        if self.roi is not None and len(rings):
            # On the grid on which the table states a centroid: what it states is inside.
            x, y = np.rint(centroids(rings) * 100).T / 100
            inside = np.flatnonzero(self.roi.contains(x, y))
            rings, detection = rings.take(inside), detection.take(inside)
            centers = centers[inside]
        centers_level0 = (centers + corner) * self.grid.downsample
        return TileNuclei(rings, detection, None, centers_level0, cleaned.dropped), centers

    def _table(self, of: Shard, shard: _ShardInProgress) -> pa.Table:
        fields = [field for tile in of.tiles for field in self.blurred.pop(tile)]
        manifest, markers = self.bundle.manifest, self.bundle.markers
        panel = manifest.panel
        called_from = manifest.calls_at(self.operating_point)
        probabilities = apply_hierarchy(
            markers.head_outputs(np.concatenate(shard.logits)),
            panel.parent_indices,
            self.hierarchy,
            conditional_heads=[m.is_conditional for m in manifest.markers],
        )
        calls = call_phenotypes(
            probabilities,
            panel,
            [1.0 if at is None else at.threshold for at in called_from],
            callable_markers=[at is not None for at in called_from],
        )
        with self.clock("table"):
            table = build_table(
                panel,
                slide_identity=self.identity,
                bundle_sha256=manifest.sha256,
                rings=Rings.concatenate(shard.rings),
                detection_probability=np.concatenate(shard.probability),
                probabilities=probabilities,
                calls=calls,
                mpp=self.slide.mpp,
                extras={
                    name: np.concatenate([extras[name] for extras in shard.extras])
                    for name in shard.extras[0]
                },
                ids=np.concatenate(shard.ids) if shard.ids else None,
            )
        table = with_fields(table, fields)
        if not shard.dropped:
            return table
        # With the shard, so that a resumed run tells of the same outlines as an undisturbed one.
        metadata = {**(table.schema.metadata or {}), DROPPED_KEY: str(shard.dropped).encode()}
        return table.replace_schema_metadata(metadata)
