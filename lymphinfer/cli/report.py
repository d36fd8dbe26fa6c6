"""``lymphinfer report``."""

from __future__ import annotations

import sys
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
    from rich.markup import escape

    from lymphinfer.errors import LymphinferError
    from lymphinfer.export.report.batch import write_batch_report
    from lymphinfer.export.report.slide import SlideReport, write_slide_report
    from lymphinfer.export.results import find_results, open_result

    console = Console(stderr=True)
    folders = find_results(source)
    done: list[SlideReport] = []
    failed: list[tuple[Path, str]] = []
    for folder in folders:
        try:
            with console.status(escape(folder.name)):
                made = write_slide_report(open_result(folder), slides=slides, figures=figures)
        except LymphinferError as error:
            if len(folders) == 1:
                raise
            failed.append((folder, str(error)))
            console.print(f"[bold red]Failed:[/] {escape(str(error))}", soft_wrap=True)
        else:
            done.append(made)
            if made.missing:
                console.print(f"[bold yellow]Warning:[/] {escape(made.missing)}", soft_wrap=True)
            sys.stdout.write(f"{made.path}\n")
    root = source if source.is_dir() else source.parent
    if folders != [root]:
        sys.stdout.write(f"{write_batch_report(root, done, failed, figures=figures)}\n")
    if failed:
        raise typer.Exit(1 if done else 2)
