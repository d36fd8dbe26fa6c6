"""The views of a slide, written once all of its shards are there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from lymphinfer.annotations import Roi
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.cells.areas import write_areas
from lymphinfer.cells.naming import SUMMARY, slide_places, slide_stem
from lymphinfer.cells.parts import SUFFIX, is_done, list_parts, open_parquet, read_parts
from lymphinfer.cells.provenance import provenance
from lymphinfer.errors import ResultError
from lymphinfer.export.geojson import write_geojson
from lymphinfer.export.regions import brief
from lymphinfer.export.results import open_result
from lymphinfer.export.summary import Counts, summarise, write_summary
from lymphinfer.predict.areas import blurred_areas
from lymphinfer.predict.earlier import remove_parts
from lymphinfer.predict.pipeline import DROPPED_KEY
from lymphinfer.predict.plan import SlidePlan
from lymphinfer.predict.result import SlideResult
from lymphinfer.regions.asking import RegionOptions, read_margins
from lymphinfer.regions.writing import write_regions
from lymphinfer.textfiles import shown
from lymphinfer.version import __version__


def finish_slide(
    plan: SlidePlan,
    manifest: BundleManifest,
    *,
    seconds: Mapping[str, float],
    total_seconds: float,
) -> SlideResult:
    """Write the views of a slide whose parts are all there.

    Parameters
    ----------
    plan : SlidePlan
    manifest : BundleManifest
    seconds : mapping
        Of the stages of all shards.
    total_seconds : float
        Wall time so far.

    Returns
    -------
    SlideResult

    Raises
    ------
    ResultError
        A file cannot be written, or a part is missing.
    """
    began = time.perf_counter()
    parts, panel = plan.parts, manifest.panel
    wanted = [f"{shard.id}{SUFFIX}" for shard in plan.shards]
    remove_parts(parts, keep=wanted)
    missing = [name for name in wanted if not is_done(parts / name, plan.mark)]
    if missing:
        raise ResultError(
            f"{parts}: {len(missing)} of {len(wanted)} parts are missing or not of this run, such "
            f"as {missing[0]}: run lymphinfer predict again with --retry-failed, it computes what "
            "is missing"
        )
    areas, focus, blurred = blurred_areas(
        parts, plan.outline, plan.given is not None, plan.slide["mpp"]
    )
    warnings = [*_warnings(manifest, _dropped(parts)), *plan.warnings, *blurred]
    point = manifest.calling(plan.settings.operating_point)
    region = None if plan.roi is None else _region(plan.roi, plan.slide["mpp"])
    counts = Counts(panel).add_all(read_parts(parts, panel, plan.mark))
    write_geojson(
        plan.file,
        read_parts(parts, panel, plan.mark),
        panel,
        fmt=plan.settings.format,  # type: ignore[arg-type]
        offset_level0=plan.slide["bounds_offset"] if plan.settings.crop_to_bounds else (0, 0),
        provenance=provenance(
            software=f"lymphinfer {__version__}",
            bundle=manifest.identity,
            slide=plan.slide,
            hierarchy=plan.hierarchy,
            evidence=manifest.evidence,
            operating_point=point,
            warnings=warnings,
            region=region,
        ),
        stem=slide_stem(plan.path),
    )
    writing = time.perf_counter() - began
    stages = {**seconds, "write": seconds.get("write", 0.0) + writing}
    total = total_seconds + writing
    summary = summarise(
        counts,
        tissue_mm2=plan.tissue_mm2,
        slide={**plan.slide, **slide_places(plan.path, plan.folder)},
        bundle=manifest.identity,
        evidence=manifest.evidence,
        arguments={**plan.settings.to_dict(), "hierarchy": plan.hierarchy,
                   "fingerprint": plan.mark, "precision": plan.precision, "runtime": plan.runtime,
                   "device": plan.device},
        seconds={**stages, "total": total},
        warnings=warnings,
    )  # fmt: skip
    summary["operating_point"] = point
    if region is not None:
        summary["region"] = region
    if plan.nuclei is not None:
        summary["nuclei_from"] = plan.nuclei.facts
    summary["tissue"] = _tissue(plan)
    summary["focus"] = focus
    summary["file"] = plan.file.name
    summary["shards"] = {"total": len(plan.shards), "resumed": len(plan.done)}
    write_areas(plan.folder, areas)
    write_summary(plan.folder / SUMMARY, summary)
    if plan.regions is not None:
        # They are counted in a finished result, and belong to its summary once they are there.
        file, summary["arguments"]["regions_sha256"] = plan.regions
        options = RegionOptions(read_margins(plan.settings.margins))
        done = write_regions(open_result(plan.folder), file, options)
        summary["regions"] = brief(done.record)
        summary["warnings"] = [*warnings, *done.record["warnings"]]
        write_summary(plan.folder / SUMMARY, summary)
    return SlideResult(
        plan.path, plan.folder, plan.file, summary, len(plan.done), len(plan.shards), total
    )


def _dropped(parts: Path) -> int:
    """Outlines that could not be made valid, over all parts."""
    total = 0
    for part in list_parts(parts):
        with suppress(OSError, ValueError, pa.ArrowException), open_parquet(part) as file:
            total += int((file.metadata.metadata or {}).get(DROPPED_KEY, b"0"))
    return total


def _warnings(manifest: BundleManifest, dropped: int) -> list[str]:
    warnings = []
    if manifest.is_simulated:
        warnings.append(
            f"Bundle {manifest.name} was trained on SIMULATED slides: its probabilities say "
            "nothing about real tissue. Use it for demonstrations and tests only."
        )
    if manifest.detector_from:
        warnings.append(
            f"Nuclei are found by the detector of {manifest.detector_from['name']}: what is stated "
            "of the markers was measured without it."
        )
    if dropped:
        warnings.append(f"{dropped} outlines could not be made valid and were left out.")
    return warnings


def _tissue(plan: SlidePlan) -> dict[str, Any]:
    """What a result says of the tissue that its densities rest on."""
    if plan.given is None:
        return {"from": "found on the slide"}
    return {"from": "annotations", **_region(plan.given, plan.slide["mpp"])}


def _region(roi: Roi, mpp: float) -> dict[str, Any]:
    """What a result says of the region to which it is limited."""
    return {
        "file": shown(roi.path.name),
        "annotations": roi.annotations,
        "classes": list(roi.classes),
        "area_mm2": round(roi.area_mm2(mpp), 6),
        "sha256": roi.sha256,
    }
