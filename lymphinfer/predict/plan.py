"""A slide's work as shards: planned once, computed anywhere and in any order."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations import Roi
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.cells.given import GivenNuclei
from lymphinfer.cells.naming import PARTS, SUMMARY, slide_stem
from lymphinfer.cells.parts import is_done, write_part
from lymphinfer.engine import choose_engine
from lymphinfer.errors import LymphinferError, SlideError
from lymphinfer.predict.areas import Limits, area_warnings, find_regions, read_limits
from lymphinfer.predict.earlier import earlier_mark, finished, remove_parts, remove_views
from lymphinfer.predict.pipeline import OnTile, StageClock, TilePipeline
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings, fingerprint
from lymphinfer.slides import Shard, Slide, TileGrid, check_stain, tissue_mask
from lymphinfer.slides.cover import point_shards, tissue_shards


@dataclass(frozen=True)
class SlidePlan:
    """What there is to do for one slide; plain values that travel between processes.

    Attributes
    ----------
    path, folder : Path
        The slide and its result folder.
    settings : PredictSettings
    slide : dict
        The slide's part of ``summary.json``.
    mark : str
        Fingerprint of every part.
    hierarchy, precision, runtime, device : str
        In use.
    bundle_sha256 : str
    grid : TileGrid
    shards : tuple of Shard
        All of the slide.
    done : frozenset of str
        Ids of the shards that an earlier run has left.
    tissue_mm2 : float
    seconds : dict
        Of the stages so far.
    roi : Roi or None
        Where nuclei are looked for; the whole slide without it.
    given : Roi or None
        What is tissue; it was found without.
    outline : BaseGeometry
        The tissue, level-0 px; empty in a plan of some shards.
    warnings : tuple of str
        What the reader of the numbers must know.
    nuclei : GivenNuclei or None
        Those to classify, of these shards; they are detected without.
    regions : tuple of Path and str, or None
        File of annotations to count by, and its hash.
    """

    path: Path
    folder: Path
    settings: PredictSettings
    slide: dict[str, Any]
    mark: str
    hierarchy: str
    precision: str
    runtime: str
    device: str
    bundle_sha256: str
    grid: TileGrid
    shards: tuple[Shard, ...]
    done: frozenset[str]
    tissue_mm2: float
    seconds: dict[str, float] = field(default_factory=dict)
    roi: Roi | None = None
    given: Roi | None = None
    outline: BaseGeometry = field(default_factory=shapely.MultiPolygon)
    warnings: tuple[str, ...] = ()
    nuclei: GivenNuclei | None = None
    regions: tuple[Path, str] | None = None

    @property
    def file(self) -> Path:
        """What to drop on the image in QuPath."""
        return self.folder / f"{slide_stem(self.path)}.{self.settings.format}"

    @property
    def parts(self) -> Path:
        """Folder of the shards."""
        return self.folder / PARTS

    @property
    def todo(self) -> list[str]:
        """Ids of the shards that are missing, in the order of the slide."""
        return [shard.id for shard in self.shards if shard.id not in self.done]

    def tiles(self, ids: Collection[str] | None = None) -> int:
        """Tiles of the shards with these ids; of all without."""
        return sum(len(s.tiles) for s in self.shards if ids is None or s.id in ids)

    def only(self, ids: Collection[str]) -> SlidePlan:
        """The plan with these shards alone, light enough to send with each task."""
        shards = tuple(s for s in self.shards if s.id in ids)
        nuclei = self.nuclei
        if nuclei is not None:
            places = (nuclei.centers / self.grid.downsample).T
            owned = [tile.owns(*places) for shard in shards for tile in shard.tiles]
            nuclei = nuclei.take(np.any([*owned, np.zeros(len(nuclei), bool)], axis=0))
        return replace(
            self, shards=shards, done=frozenset(), outline=shapely.MultiPolygon(), nuclei=nuclei
        )


@dataclass(frozen=True)
class ShardsDone:
    """What computing some shards took.

    Attributes
    ----------
    nuclei : int
    seconds : dict
        Of the stages.
    """

    nuclei: int
    seconds: dict[str, float]


def load(settings: PredictSettings) -> Bundle:
    """Load the bundle of the settings on their device.

    Raises
    ------
    BundleError
        It cannot be used, or has no operating point of the settings' name.
    """
    used_manifest(settings.bundle, settings.detector).calls_at(settings.operating_point)
    return load_bundle(
        settings.bundle,
        detector=settings.detector,
        engine=choose_engine(settings.device, settings.precision, settings.runtime),
        trainable=False,
    )


def plan_slide(
    slide: Slide, folder: Path, settings: PredictSettings, bundle: Bundle
) -> SlidePlan | SlideResult:
    """Find tissue, lay the shards, and see which of them are there.

    Parameters
    ----------
    slide : Slide
        Open.
    folder : Path
        The slide's result folder.
    settings : PredictSettings
        With ``redo``, the parts that are there are removed.
    bundle : Bundle

    Returns
    -------
    SlidePlan, or SlideResult where an earlier run has finished the slide

    Raises
    ------
    SlideError
        The slide cannot be read, or is no H&E slide and the settings do not force it.
    AnnotationError
        The annotations that limit the work cannot be used.
    BundleError
        The bundle has no operating point of the settings' name.
    """
    began = time.perf_counter()
    manifest = bundle.manifest
    manifest.calls_at(settings.operating_point)
    hierarchy = settings.hierarchy or manifest.hierarchy
    precision, runtime = bundle.engine.precision, bundle.engine.runtime
    if settings.tile_px % bundle.detector.align_px:
        raise LymphinferError(
            f"--tile {settings.tile_px}: a multiple of {bundle.detector.align_px} (the detector's "
            "pixel grid)"
        )
    grid = TileGrid(
        slide.dimensions, slide.mpp, manifest.mpp, tile_px=settings.tile_px, halo_px=bundle.halo_px
    )
    identity = slide.identity()
    limits = read_limits(slide, settings)
    regions = find_regions(slide, settings)

    def mark_of(precision: str, runtime: str) -> str:
        return fingerprint(
            settings,
            slide_identity=identity,
            mpp=slide.mpp,
            bundle_sha256=manifest.sha256,
            hierarchy=hierarchy,
            precision=precision,
            runtime=runtime,
            halo_px=grid.halo_px,
            **limits.hashes,
        )

    mark = mark_of(precision, runtime)
    parts = folder / PARTS
    if settings.redo:
        remove_parts(parts)
    else:
        file = folder / f"{slide_stem(slide.path)}.{settings.format}"
        marks = {mark, earlier_mark(folder, settings, precision, runtime, mark_of)}
        regions_sha256 = None if regions is None else regions[1]
        summary = finished(folder, file, marks, settings, regions_sha256)
        if summary is not None:
            total = int(summary["shards"]["total"])
            seconds = time.perf_counter() - began
            return SlideResult(slide.path, folder, file, summary, total, total, seconds)
    clock = StageClock()
    with clock("tissue"):
        tissue = tissue_mask(slide, roi=limits.roi, given=limits.tissue, threads=settings.workers)
    with clock("check"):
        looks = check_stain(slide, tissue, force=settings.force)
    if limits.nuclei is None:
        shards = tissue_shards(grid, tissue, roi=limits.within)
    else:
        shards = point_shards(grid, *(limits.nuclei.centers / grid.downsample).T)
    remove_views(folder, slide_stem(slide.path), mark, settings)
    # A summary that outlived its parts would speak for other nuclei.
    (folder / SUMMARY).unlink(missing_ok=True)
    return SlidePlan(
        path=slide.path,
        folder=folder,
        settings=settings,
        slide={**slide.facts(), "identity": identity},
        mark=mark,
        hierarchy=hierarchy,
        precision=precision,
        runtime=runtime,
        device=bundle.engine.device,
        bundle_sha256=manifest.sha256,
        grid=grid,
        shards=shards,
        done=frozenset(s.id for s in shards if is_done(parts / f"{s.id}.parquet", mark)),
        tissue_mm2=tissue.area_mm2,
        seconds=dict(clock.seconds),
        roi=limits.roi,
        given=limits.tissue,
        outline=tissue.outline,
        warnings=(*slide.warnings, *looks, *area_warnings(limits, tissue)),
        nuclei=limits.nuclei,
        regions=regions,
    )


def predict_shards(
    plan: SlidePlan,
    ids: Collection[str],
    bundle: Bundle,
    *,
    slide: Slide | None = None,
    on_tile: OnTile = lambda nuclei: None,
) -> ShardsDone:
    """Compute some of a slide's shards and write each as a part.

    Parameters
    ----------
    plan : SlidePlan
    ids : collection of str
        Shards to compute, whether they are there or not.
    bundle : Bundle
        The plan's, on any device.
    slide : Slide, optional
        Already open.
    on_tile : callable
        Called with the number of nuclei after every tile.

    Returns
    -------
    ShardsDone

    Raises
    ------
    SlideError
        The slide cannot be read, or is no longer the one that was planned.
    LymphinferError
        The bundle, its precision or its runtime is another one than the plan's.
    ResultError
        A part cannot be written.
    """
    if slide is None:
        with plan.settings.open(plan.path) as opened:
            return predict_shards(plan, ids, bundle, slide=opened, on_tile=on_tile)
    found = bundle.manifest.sha256, bundle.engine.precision, bundle.engine.runtime
    if found != (plan.bundle_sha256, plan.precision, plan.runtime):
        raise LymphinferError(
            f"this worker has bundle {found[0][:12]}… in {found[1]} by {found[2]}, the slide was "
            f"planned with {plan.bundle_sha256[:12]}… in {plan.precision} by {plan.runtime}: give "
            "every worker the same bundle, and --precision and --runtime where their devices differ"
        )
    clock = StageClock()
    pipeline = TilePipeline(
        slide, bundle, plan.grid, hierarchy=plan.hierarchy, workers=plan.settings.workers,
        clock=clock, roi=Limits(plan.roi, plan.given).within,
        operating_point=plan.settings.operating_point, given=plan.nuclei,
    )  # fmt: skip
    if pipeline.identity != plan.slide["identity"]:
        raise SlideError(f"{plan.path}: the file has changed while it was read: run it again")
    nuclei = 0
    for shard, table in pipeline.run([s for s in plan.shards if s.id in ids], on_tile):
        with clock("write"):
            write_part(plan.parts / f"{shard.id}.parquet", table, plan.mark)
        nuclei += table.num_rows
    return ShardsDone(nuclei, dict(clock.seconds))


def add_seconds(*stages: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each stage, summed."""
    names = dict.fromkeys(name for each in stages for name in each)
    return {name: sum(each.get(name, 0.0) for each in stages) for name in names}
