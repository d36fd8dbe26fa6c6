"""``lymphinfer report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="A slide's result folder, or a folder with many of them."
        ),
    ],
    slides: Annotated[
        Path | None,
        typer.Option("--slides", "-s", help="Folder of the slide files, where they have moved."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", "-t",
            help="A csv of yours with the columns slide, the one to group by, and maybe patient.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="With --table: the column by which slides are grouped."),
    ] = None,
    figures: Annotated[
        bool,
        typer.Option("--figures/--no-figures", help="Also write each figure as PNG and SVG."),
    ] = True,
) -> None:  # fmt: skip
    """Make a page to look at for every finished slide, and one for all of them.

    Each is one file, report.html, that opens in any browser and asks for nothing from outside.
    The pictures of tissue need the slide file; without it the page says so. With --table and --by
    the page of all shows slides by group, and cohort.csv and groups.csv are for R or pandas.
    """
    from rich.console import Console

    from lymphinfer.cli.output import write_path
    from lymphinfer.cli.report_run import make_reports
    from lymphinfer.errors import ResultError
    from lymphinfer.export.report.cohort import read_grouping
    from lymphinfer.export.results import find_results

    if (table is None) != (by is None):
        raise ResultError("--table and --by belong together: a csv of slides, and a column of it")
    grouping = None if table is None or by is None else read_grouping(table, by)
    folders = find_results(source)
    failed = make_reports(
        Console(stderr=True),
        folders,
        source if source.is_dir() else source.parent,
        slides=slides,
        figures=figures,
        grouping=grouping,
        on_page=lambda path: write_path(path),
    )
    if failed:
        raise typer.Exit(1 if failed < len(folders) else 2)
