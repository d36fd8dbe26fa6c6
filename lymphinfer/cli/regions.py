"""``lymphinfer regions``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 40
_WIDE = 140
"""Columns of a terminal from which on the markers stand side by side."""


def regions(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT", help="A slide's result folder, or a folder with many of them."
        ),
    ],
    annotations: Annotated[
        Path,
        typer.Option(
            "--annotations", "-a",
            help="Annotations as QuPath exports them: a GeoJSON file, or a folder with one a "
            "slide, called like the slide.",
        ),
    ],
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin", metavar="CLASS:UM[,UM]",
            help="Bands inside and outside of a class's border, such as Tumor:500 or "
            "Tumor:100,500. May be repeated.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="CSV|batch",
            help="Immune score: the panel's T-cell markers in centre and margin, among the slides "
            "of a csv or among these.",
        ),
    ] = None,
    radius: Annotated[
        float, typer.Option(min=1, help="Neighbours of a nucleus are counted within it, µm.")
    ] = 50.0,
    aggregate: Annotated[
        float,
        typer.Option("--aggregate", min=1, help="Reach of lymphocyte aggregates (DBSCAN), µm."),
    ] = 25.0,
) -> None:  # fmt: skip
    """Count a finished slide by annotation, by class and along the borders of classes.

    Writes regions.json, regions.csv (a row a region), regions.parquet (a row a nucleus) and
    <stem>.regions.geojson (for QuPath) beside the slide's summary; for several slides also one
    regions.csv of all. The report and AnnData have them from then on.
    """
    from rich.console import Console
    from rich.markup import escape

    from lymphinfer.cells.naming import REGIONS_CSV
    from lymphinfer.cli.output import write_path
    from lymphinfer.errors import AnnotationError, LymphinferError
    from lymphinfer.export.results import find_results
    from lymphinfer.regions.asking import RegionOptions, read_margins
    from lymphinfer.regions.writing import BATCH, write_all_regions
    from lymphinfer.textfiles import shown

    console = Console(stderr=True)
    options = RegionOptions(read_margins(margin or ()), radius_um=radius, aggregate_um=aggregate)
    folders = find_results(source)
    many = len(folders) > 1
    if many and not annotations.is_dir():
        raise AnnotationError(
            f"--annotations {annotations} is one file, but {source} holds the results of "
            f"{len(folders)} slides: give a folder with a file for each, called like the slide"
        )
    failed = []

    def on_failure(folder: Path, error: LymphinferError) -> None:
        if not many:
            raise error
        failed.append(folder)
        text = f"{folder.name}: {error}"
        console.print(f"[bold red]Failed:[/] {escape(shown(text))}", soft_wrap=True)

    with console.status("regions"):
        done = write_all_regions(
            folders, annotations, options,
            reference=reference if reference in (None, BATCH) else Path(reference),
            table=source / REGIONS_CSV if many else None,
            on_failure=on_failure,
        )  # fmt: skip
    for each in done:
        print_record(console, each.record)
        write_path(each.file)
    if failed:
        raise typer.Exit(1 if done else 2)


def print_record(console: Console, record: Mapping[str, Any]) -> None:
    """Print a slide's regions as a table, with what must be known of its numbers."""
    from rich.markup import escape

    if console.width < _WIDE:
        _print_narrow(console, record)
    else:
        _print_wide(console, record)
    left = len(record["rows"]) - _MOST_ROWS
    if left > 0:
        console.print(f"{left} more regions are in regions.csv.")
    console.print(
        "Expected nuclei per mm² of tissue, with the 95 % interval between blocks of "
        f"{record['intervals']['block_um']:g} µm (~: too few blocks, by the probabilities alone); "
        "below it or beside it the called nuclei.",
        soft_wrap=True,
    )
    for line in _findings(record):
        console.print(escape(line), soft_wrap=True)
    for warning in record["warnings"]:
        console.print(f"[bold yellow]Warning:[/] {escape(warning)}", soft_wrap=True)


def _print_narrow(console: Console, record: Mapping[str, Any]) -> None:
    """A line a region and marker: 80 columns hold every interval."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{record['slide']['name']}: regions"))
    table.add_column("region", overflow="fold")
    table.add_column("marker", overflow="fold")
    for name in ("per mm²", "95 %", "called"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in record["rows"][:_MOST_ROWS]:
        head = f"{row['region']}: {row['tissue_mm2']:.3g} mm², {row['nuclei']:,} nuclei"
        for name in record["marker_names"]:
            word = (record["evidence"].get(name) or {}).get("evidence") or "unknown"
            density, interval, called = _marker_cells(row["markers"][name])
            table.add_row(escape(head), escape(f"{name} {word}"), density, interval, called)
            head = ""
        table.add_section()
    console.print(table)


def _print_wide(console: Console, record: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    names = record["marker_names"]
    table = Table(title=escape(f"{record['slide']['name']}: regions"))
    table.add_column("region", overflow="fold")
    for name in ("tissue mm²", "nuclei"):
        table.add_column(name, justify="right")
    for name in names:
        word = (record["evidence"].get(name) or {}).get("evidence") or "unknown"
        table.add_column(escape(f"{name}/mm²\n{word}"), justify="right", no_wrap=True)
    rows = record["rows"]
    for row in rows[:_MOST_ROWS]:
        cells = ["\n".join(_marker_lines(row["markers"][name])) for name in names]
        table.add_row(escape(row["region"]), f"{row['tissue_mm2']:.3g}", f"{row['nuclei']:,}",
                      *cells)  # fmt: skip
    console.print(table)


def _marker_cells(values: Mapping[str, Any]) -> tuple[str, str, str]:
    """Density, interval and calls of a marker."""
    called = "never" if values["called"] is None else f"{values['called']:,}"
    density = values["expected_per_mm2"]
    if density is None:
        return "-", "-", called
    interval = values["expected_per_mm2_blocks"]
    about, (low, high) = ("", interval) if interval else ("~", values["expected_per_mm2_cells"])
    return f"{density:,.0f}", f"{about}{low:,.0f}-{high:,.0f}", called


def _marker_lines(values: Mapping[str, Any]) -> Iterator[str]:
    density, interval, called = _marker_cells(values)
    yield density if density == "-" else f"{density} ({interval})"
    yield f"{called} called"


def _findings(record: Mapping[str, Any]) -> Iterator[str]:
    found = record["aggregates"]
    if "refused" in found:
        yield f"Aggregates: not looked for, {found['refused']}."
    else:
        sizes = ", ".join(f"{a['nuclei']:,}" for a in found["largest"][:5])
        more = f"; the largest have {sizes} nuclei" if sizes else ""
        yield f"Aggregates: {found['count']:,}{more} ({found['method']} nuclei)."
    spots = record["hot_spots"]
    if "refused" in spots:
        yield f"Hot spots: not looked for, {spots['refused']}."
    else:
        yield f"Hot spots of {spots['of']} ({spots['evidence']}): {len(spots['spots'])} (Gi*)."
    for score in record.get("scores", ()):
        name = score.get("class", "")
        if "refused" in score:
            yield f"Immune score {name}: not given. {score['refused']}."
        else:
            low, high = score["interval"]
            yield f"Immune score {name}: {score['score']} ({low}-{high}), {score['statement']}."
            for marker, words in score["evidence"].items():
                yield f"  {marker} rests on {words}"
