"""One slide from file to result folder: resumed where it stopped, never half-written."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from lymphinfer import __version__
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.parts import is_done, list_parts, read_parts, write_part
from lymphinfer.compute import half_type, precision_name, resolve_device
from lymphinfer.errors import ResultError
from lymphinfer.export.geojson import write_geojson
from lymphinfer.export.summary import Counts, summarise, write_summary
from lymphinfer.predict.pipeline import StageClock, TilePipeline
from lymphinfer.predict.settings import PredictSettings, SlideResult, fingerprint
from lymphinfer.slides import Slide, TileGrid, open_slide, tissue_mask

log = logging.getLogger(__name__)

SUMMARY = "summary.json"


class Progress(Protocol):
    """Told how a slide advances."""

    def start(self, slide: Path, tiles: int, done: int) -> None:
        """Work begins: tiles in all, and how many an earlier run has done."""

    def advance(self, nuclei: int) -> None:
        """Another tile is done, with that many nuclei."""


class _Silent:
    def start(self, slide: Path, tiles: int, done: int) -> None:
        pass

    def advance(self, nuclei: int) -> None:
        pass


def slide_stem(path: Path) -> str:
    """File name without its slide suffix: ``a.svs`` and ``a.ome.tif`` both give ``a``."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def default_out(path: Path) -> Path:
    """Result root beside a slide or folder: ``<stem>.lymphinfer``."""
    stem = path.name if path.is_dir() else slide_stem(path)
    return path.parent / f"{stem}.lymphinfer"


def load(settings: PredictSettings) -> Bundle:
    """Load the bundle of the settings on their device."""
    device = resolve_device(settings.device)
    return load_bundle(
        settings.bundle, device=device, autocast=half_type(device, settings.precision)
    )


def predict_slide(
    path: str | Path,
    folder: str | Path | None = None,
    *,
    settings: PredictSettings | None = None,
    bundle: Bundle | None = None,
    progress: Progress | None = None,
) -> SlideResult:
    """Detect and classify the nuclei of one slide.

    Shards that an earlier, interrupted run with the same slide, bundle and settings has finished
    are not computed again; the files are byte for byte those of an undisturbed run.

    Parameters
    ----------
    path : str or Path
        The slide.
    folder : str or Path, optional
        The slide's result folder; by default ``<stem>.lymphinfer/<stem>`` beside it.
    settings : PredictSettings, optional
    bundle : Bundle, optional
        An already loaded bundle, instead of the settings' one.
    progress : Progress, optional

    Returns
    -------
    SlideResult

    Raises
    ------
    SlideError, PixelSizeError
        The slide cannot be read.
    BundleError
        The bundle cannot be used.
    ResultError
        The results cannot be written.
    """
    path = Path(path)
    settings = settings or PredictSettings()
    stem = slide_stem(path)
    folder = Path(folder) if folder is not None else default_out(path) / stem
    began = time.perf_counter()
    with open_slide(path, settings.mpp) as slide:
        _check_writable(folder)
        bundle = bundle or load(settings)
        return _predict(slide, folder, settings, bundle, progress or _Silent(), began)


def _predict(
    slide: Slide,
    folder: Path,
    settings: PredictSettings,
    bundle: Bundle,
    progress: Progress,
    began: float,
) -> SlideResult:
    manifest, stem = bundle.manifest, slide_stem(slide.path)
    hierarchy = settings.hierarchy or manifest.hierarchy
    grid = TileGrid(
        slide.dimensions,
        slide.mpp,
        manifest.mpp,
        tile_px=settings.tile_px,
        halo_px=_halo(bundle),
    )
    mark = fingerprint(
        settings,
        slide_identity=slide.identity(),
        mpp=slide.mpp,
        bundle_sha256=manifest.sha256,
        hierarchy=hierarchy,
        precision=precision_name(bundle.markers.autocast),
        halo_px=grid.halo_px,
    )
    file = folder / f"{stem}.{settings.format}"
    clock = StageClock()
    with clock("tissue"):
        tissue = tissue_mask(slide, threads=settings.workers)
    shards = grid.shards(grid.tiles(tissue))
    parts = folder / "parts"
    if settings.redo:
        _remove_parts(parts, lambda p: True)
    done = {s.id for s in shards if is_done(parts / f"{s.id}.parquet", mark)}
    if len(done) == len(shards) and (finished := _finished(folder, file, mark)) is not None:
        return SlideResult(
            slide.path, folder, file, finished, len(done), len(shards), time.perf_counter() - began
        )
    # A summary that outlived its parts would speak for other nuclei.
    (folder / SUMMARY).unlink(missing_ok=True)
    pipeline = TilePipeline(
        slide, bundle, grid, hierarchy=hierarchy, workers=settings.workers, clock=clock
    )
    progress.start(
        slide.path,
        sum(len(s.tiles) for s in shards),
        sum(len(s.tiles) for s in shards if s.id in done),
    )
    todo = [s for s in shards if s.id not in done]
    for shard, table in pipeline.run(todo, progress.advance):
        with clock("write"):
            write_part(parts / f"{shard.id}.parquet", table, mark)
    wanted = {f"{s.id}.parquet" for s in shards}
    _remove_parts(parts, lambda p: p.name not in wanted)
    warnings = _warnings(bundle, pipeline.dropped)
    with clock("write"):
        counts = Counts(manifest.panel).add_all(read_parts(parts, manifest.panel, mark))
        write_geojson(
            file,
            read_parts(parts, manifest.panel, mark),
            manifest.panel,
            fmt=settings.format,  # type: ignore[arg-type]
            offset_level0=slide.bounds_offset if settings.crop_to_bounds else (0, 0),
            provenance=_provenance(slide, bundle, hierarchy, warnings),
            stem=stem,
        )
    seconds = time.perf_counter() - began
    summary = summarise(
        counts,
        tissue_mm2=tissue.area_mm2,
        slide={
            "name": slide.path.name,
            "identity": slide.identity(),
            "reader": slide.reader,
            "dimensions": list(slide.dimensions),
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "bounds_offset": list(slide.bounds_offset),
        },
        bundle={"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256},
        evidence=manifest.evidence,
        arguments={**settings.to_dict(), "hierarchy": hierarchy, "fingerprint": mark,
                   "precision": precision_name(bundle.markers.autocast),
                   "device": str(bundle.markers.device)},
        seconds={**clock.seconds, "total": seconds},
        warnings=warnings,
    )  # fmt: skip
    summary["file"] = file.name
    summary["shards"] = {"total": len(shards), "resumed": len(done)}
    write_summary(folder / SUMMARY, summary)
    return SlideResult(slide.path, folder, file, summary, len(done), len(shards), seconds)


def _halo(bundle: Bundle) -> int:
    """Context for the detector and half a patch, aligned to the detector's pixel grid."""
    align = bundle.detector.align_px
    wanted = max(bundle.detector.halo_px, -(-bundle.markers.patch_px // 2) + align)
    return -(-wanted // align) * align


def _finished(folder: Path, file: Path, mark: str) -> dict[str, Any] | None:
    """Summary of a complete earlier run under the same fingerprint and format, or None."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text("utf-8"))
        same = summary["arguments"]["fingerprint"] == mark and summary["file"] == file.name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summary if same and file.is_file() else None


def _remove_parts(parts: Path, unwanted: Callable[[Path], bool]) -> None:
    for part in list_parts(parts):
        if unwanted(part):
            with suppress(OSError):
                part.unlink()


def _check_writable(folder: Path) -> None:
    """Fail before the hours of work, not after them."""
    probe = folder / ".writable"
    with atomic_write(probe) as stream:
        stream.write(b"")
    try:
        probe.unlink()
    except OSError as error:
        raise ResultError(f"{folder}: files can be made there but not removed ({error})") from error


def _warnings(bundle: Bundle, dropped: int) -> list[str]:
    warnings = []
    if bundle.manifest.is_simulated:
        warnings.append(
            f"Bundle {bundle.manifest.name} was trained on SIMULATED slides: its probabilities say "
            "nothing about real tissue. Use it for demonstrations and tests only."
        )
    if dropped:
        warnings.append(f"{dropped} outlines could not be made valid and were left out.")
    return warnings


def _provenance(
    slide: Slide, bundle: Bundle, hierarchy: str, warnings: list[str]
) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "software": f"lymphinfer {__version__}",
        "bundle": manifest.name,
        "bundle_version": manifest.version,
        "bundle_sha256": manifest.sha256,
        "slide_identity": slide.identity(),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "hierarchy": hierarchy,
        "evidence": manifest.evidence,
        "warnings": warnings,
        "notice": "Research use only. Not for diagnosis.",
    }
