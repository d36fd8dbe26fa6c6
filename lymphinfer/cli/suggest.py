"""``lymphinfer suggest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def suggest(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT", help="A slide's result folder, or a folder with many of them."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The GeoJSON file; a folder for several slides."),
    ],
    count: Annotated[
        int, typer.Option("--number", "-n", min=1, help="Nuclei to review, over all slides.")
    ] = 200,
    marker: Annotated[
        str | None,
        typer.Option("--marker", help="Which the labels are for. Default: the panel's first."),
    ] = None,
) -> None:
    """Name the nuclei whose labels would teach a bundle most, to be reviewed in QuPath.

    Writes them as annotations of class Suggested with the model's probabilities. Give each a class
    such as CD45 or Other, export them, and hand them to lymphinfer teach.
    """
    from rich.console import Console
    from rich.markup import escape

    from lymphinfer.cli.output import write_path
    from lymphinfer.errors import ResultError
    from lymphinfer.export.results import find_results, open_result
    from lymphinfer.teaching.suggesting import suggest as choose
    from lymphinfer.teaching.suggesting import write_suggestions
    from lymphinfer.textfiles import shown

    console = Console(stderr=True)
    folders = find_results(source)
    many = len(folders) > 1
    if many and out.suffix.lower() in (".geojson", ".json"):
        raise ResultError(
            f"--out {out} is one file, but {source} holds the results of {len(folders)} slides: "
            "name a folder, which gets a file a slide"
        )
    if out.is_dir() and not many:
        raise ResultError(
            f"--out {out} is a folder: name the file, such as {out / 'review.geojson'}"
        )
    results = [open_result(folder) for folder in folders]
    shares = [count // len(results) + (i < count % len(results)) for i in range(len(results))]
    for result, share in zip(results, shares, strict=True):
        if not share:
            continue
        with console.status(escape(shown(result.name))):
            found = choose(result, marker, share)
            path = out / f"{result.stem}.geojson" if many else out
            path.parent.mkdir(parents=True, exist_ok=True)
            write_suggestions(path, result, found)
        console.print(
            f"{escape(shown(result.name))}: {len(found.rows):,} nuclei, {found.uncertain:,} of "
            "them for their uncertainty",
            soft_wrap=True,
        )
        write_path(path)
    console.print(
        "[bold]In QuPath:[/] drag the file onto the open image, give each annotation its class, "
        "export them as GeoJSON, and run lymphinfer teach.",
        soft_wrap=True,
    )
