"""Measure the regions of results, and leave the numbers where people look for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lymphinfer.annotations import find_roi
from lymphinfer.cells.naming import REGIONS_CSV
from lymphinfer.cells.regions import write_record, write_region_nuclei
from lymphinfer.errors import LymphinferError
from lymphinfer.export.regions import SUFFIX, flat_rows, write_csv, write_regions_geojson
from lymphinfer.export.results import Result, open_result
from lymphinfer.regions.asking import RegionOptions
from lymphinfer.regions.measuring import measure_regions
from lymphinfer.regions.score import (
    Reference,
    immune_score,
    margin_classes,
    read_reference,
    reference_of,
)

BATCH = "batch"


@dataclass(frozen=True)
class RegionsDone:
    """What `write_regions` has left for a slide.

    Attributes
    ----------
    result : Result
    record : dict
        Content of ``regions.json``.
    file : Path
        What to drop on the image in QuPath.
    """

    result: Result
    record: dict[str, Any]
    file: Path


def write_regions(
    result: Result, annotations: Path, options: RegionOptions | None = None
) -> RegionsDone:
    """Measure a finished slide's regions and write them into its result folder.

    ``regions.json``, ``regions.csv`` (a row a region), ``regions.parquet`` (a row a nucleus) and
    ``<stem>.regions.geojson`` (for QuPath); what stands there from before is replaced.

    Parameters
    ----------
    result : Result
    annotations : Path
        The file, or a folder with a file a slide.
    options : RegionOptions, optional

    Returns
    -------
    RegionsDone

    Raises
    ------
    AnnotationError
        The annotations cannot be used.
    ResultError
        The nuclei cannot be read, or a file cannot be written.
    """
    measured = measure_regions(result, find_roi(annotations, Path(result.name)), options)
    write_region_nuclei(result.folder, measured.nuclei, measured.record["mark"])
    return _write_views(result, measured.record)


def write_all_regions(
    folders: Sequence[Path],
    annotations: Path,
    options: RegionOptions | None = None,
    *,
    reference: Path | str | None = None,
    table: Path | None = None,
    on_failure: Callable[[Path, LymphinferError], None],
) -> list[RegionsDone]:
    """Measure the regions of many slides, and score them if a reference is given.

    Parameters
    ----------
    folders : sequence of Path
        Result folders.
    annotations : Path
        The file, or a folder with a file a slide.
    options : RegionOptions, optional
    reference : Path or str, optional
        Of the immune score: a csv, or ``"batch"`` for these slides.
    table : Path, optional
        A csv of all slides' regions.
    on_failure : callable
        Called with the folder and the reason of each slide that fails.

    Returns
    -------
    list of RegionsDone
        Of those that did not.

    Raises
    ------
    AnnotationError
        The reference cannot be read.
    """
    done: list[RegionsDone] = []
    given = {}
    for folder in folders:
        try:
            result = open_result(folder)
        except LymphinferError as error:
            on_failure(folder, error)
            continue
        if reference is not None and reference != BATCH and result.panel.name not in given:
            given[result.panel.name] = read_reference(Path(reference), result.panel)
        try:
            done.append(write_regions(result, annotations, options))
        except LymphinferError as error:
            on_failure(folder, error)
    if reference is not None:
        done = [_scored(each, done, reference, given) for each in done]
    if table is not None and done:
        write_csv(table, [row for each in done for row in _rows(each.record)])
    return done


def _scored(
    each: RegionsDone,
    done: Sequence[RegionsDone],
    reference: Path | str,
    given: dict[str, Reference],
) -> RegionsDone:
    panel = each.result.panel
    own: dict[str, Reference] = {}
    source = "the reference"
    if reference == BATCH:
        own = reference_of([d.record for d in done if d.result.panel == panel], panel)
        source = "this batch"
    scores = [
        immune_score(each.record, name, panel, own.get(name, {}) if reference == BATCH else
                     given[panel.name], source)
        for name in margin_classes(each.record)
    ]  # fmt: skip
    if not scores:
        scores = [{"refused": "it needs the margin of a class: --margin Tumor:500"}]
    return _write_views(each.result, each.record | {"scores": scores})


def _write_views(result: Result, record: dict[str, Any]) -> RegionsDone:
    write_record(result.folder, record)
    write_csv(result.folder / REGIONS_CSV, _rows(record))
    path = result.folder / f"{result.stem}{SUFFIX}"
    return RegionsDone(result, record, write_regions_geojson(path, result, result.qupath_offset))


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table; a score stands at the class that it is of."""
    scores = {score.get("class"): score for score in record.get("scores", ())}
    rows = flat_rows(record)
    for row in rows:
        score = scores.get(row["class"]) if row["kind"] == "class" else None
        if score is not None:
            low, high = score.get("interval", (None, None))
            row |= {
                "immune_score": score.get("score"),
                "immune_score_low": low,
                "immune_score_high": high,
                "immune_score_refused": score.get("refused"),
            }
    return rows
