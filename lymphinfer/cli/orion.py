"""``lymphinfer orion``: list, download, check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

app = typer.Typer(
    help="The public ORION cohort: list it, download it, check a local copy.", no_args_is_help=True
)

Report = Callable[[str, int, int], None]

SLIDES = typer.Option("--slides", "-s", help="Slides or patients, such as CRC01,C33. Default: all.")
ONLY = typer.Option("--only", help="Kinds of file among he,cells,mask,if,markers.")


@contextmanager
def progress_bar(*columns: ProgressColumn) -> Iterator[Report]:
    """Show on stderr how far a command is: called with a name, what is done, and what in all."""
    shown = columns or (MofNCompleteColumn(), TextColumn("slides"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), *shown, console=console, transient=True
    ) as bar:
        task = bar.add_task("")

        def report(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield report


def plain_table(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """Make a table of columns that are cut nowhere: left-aligned names, then numbers."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


@app.command("list")
def list_slides(
    slides: Annotated[str | None, SLIDES] = None,
    only: Annotated[str, ONLY] = "he,cells,mask,if,markers",
) -> None:
    """List slides, patients, batches and approximate sizes. Needs no network."""
    from lymphinfer.orion.manifest import check_kinds, select

    rows = select(slides.split(",") if slides is not None else None)
    kinds = check_kinds(only.split(","))
    table = plain_table(("slide", "patient", "batch"), kinds)
    for row in rows:
        sizes = [decimal(row.files[kind].approximate_bytes) for kind in kinds]
        table.add_row(row.folder, row.patient, str(row.batch), *sizes)
    totals = [decimal(sum(row.files[kind].approximate_bytes for row in rows)) for kind in kinds]
    table.add_section()
    table.add_row(f"{len(rows)}", f"{len({row.patient for row in rows})}", "", *totals)
    Console().print(table)


@app.command()
def download(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to.")],
    slides: Annotated[str | None, SLIDES] = None,
    only: Annotated[str, ONLY] = "he,cells",
) -> None:
    """Download slides from the public bucket; the same command again goes on where it stopped.

    H&E and cell tables, 60 GB in all, are what training needs.
    """
    from lymphinfer.orion.download import download as fetch
    from lymphinfer.orion.download import find_remote, public_bucket
    from lymphinfer.orion.manifest import check_kinds, select

    rows = select(slides.split(",") if slides is not None else None)
    bucket = public_bucket()
    files = find_remote(bucket, rows, check_kinds(only.split(",")))
    with progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as report:
        fetch(bucket, files, out, report)
    Console().print(f"{len(files)} files of {len(rows)} slides are in {out}.", soft_wrap=True)


@app.command()
def check(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="The cohort's folder.")],
) -> None:
    """Report everything that is wrong with a local cohort. Exit code 1 if anything is."""
    from lymphinfer.orion.check import check_cohort

    with progress_bar() as progress:
        report = check_cohort(cohort, progress)
    console = Console()
    table = plain_table(("slide", "patient"), ("H&E px", "µm/px", "cells", "files"))
    for slide in report.slides:
        size = "?" if slide.size_level0 is None else "{:,} x {:,}".format(*slide.size_level0)
        mpp = "?" if slide.mpp is None else f"{slide.mpp:.4g}"
        cells = "?" if slide.cells is None else f"{slide.cells:,}"
        table.add_row(slide.folder, slide.patient, size, mpp, cells, " ".join(slide.files))
    if report.slides:
        console.print(table)
    for text in report.warnings:
        console.print("Warning:", text, style="yellow", markup=False, soft_wrap=True)
    for text in report.errors:
        console.print("Problem:", text, style="red", markup=False, soft_wrap=True)
    if report.errors:
        raise typer.Exit(1)
    console.print(f"{len(report.slides)} slides, nothing wrong.")
