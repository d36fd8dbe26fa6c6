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
    figures: Annotated[
        bool,
        typer.Option("--figures/--no-figures", help="Also write each figure as PNG and SVG."),
    ] = True,
) -> None:
    """Make a page to look at for every finished slide, and one for all of them.

    Each is one file, report.html, that opens in any browser and asks for nothing from outside.
    The pictures of tissue need the slide file; without it the page says so.
    """
    from rich.console import Console

    from lymphinfer.cli.output import write_path
    from lymphinfer.cli.report_run import make_reports
    from lymphinfer.export.results import find_results

    folders = find_results(source)
    failed = make_reports(
        Console(stderr=True),
        folders,
        source if source.is_dir() else source.parent,
        slides=slides,
        figures=figures,
        on_page=lambda path: write_path(path),
    )
    if failed:
        raise typer.Exit(1 if failed < len(folders) else 2)
