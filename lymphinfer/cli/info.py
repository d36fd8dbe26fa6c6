"""``lymphinfer info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lymphinfer.cli.output import write_line
from lymphinfer.textfiles import shown

if TYPE_CHECKING:
    from lymphinfer.slides.describe import Description


def info(
    file: Annotated[
        Path, typer.Argument(help="A slide, its http(s) or s3 address, or a folder of slides.")
    ],
    series: Annotated[
        str | None, typer.Option(help="Number or name of the image to look at.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Pixel size of level 0, µm/px, over what the file says.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead.")] = False,
) -> None:
    """Show what a file holds, and what `predict` would read of it and why."""
    from lymphinfer.slides.describe import describe
    from lymphinfer.textfiles import json_bytes

    found = describe(file, mpp=mpp, series=series)
    if as_json:
        import orjson

        plain = [each.to_dict() for each in found]
        for line in json_bytes(plain, orjson.OPT_INDENT_2).decode().split("\n"):
            write_line(line)
    else:
        console = Console()
        for each in found:
            print_description(console, each)
    if not any(each.reader for each in found):
        raise typer.Exit(2)


def print_description(console: Console, found: Description) -> None:
    """Print what a file holds."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    say(f"[bold]{escape(shown(found.path))}[/]")
    if len(found.members) > 1:
        say(
            f"files: {len(found.members)}, "
            + escape(", ".join(shown(p.name) for p in found.members))
        )
    if found.reader:
        reader = f"openslide (vendor {found.vendor})" if found.vendor else found.reader
        say(f"reader: {reader}")
    if found.images:
        table = Table("image", "name", "kind", "px", "µm/px", "µm/px from", "read")
        for image in found.images:
            width, height = image.dimensions
            table.add_row(
                str(image.number),
                escape(image.name),
                image.kind,
                f"{width} x {height}",
                "-" if image.mpp is None else f"{image.mpp:.4g}",
                image.mpp_source,
                "yes" if image.is_read else "",
            )
        console.print(table)
    if found.levels:
        from lymphinfer.slides.pixel_size import plausible
        from lymphinfer.slides.pyramid import level_downsample

        levels = ", ".join(
            f"{w} x {h} (1/{level_downsample(found.levels[0], (w, h))[0]:.4g})"
            for w, h in found.levels
        )
        say(f"levels: {levels}")
        size = "none" if found.mpp is None else f"{found.mpp:.5g} µm/px, by {found.mpp_source}"
        if found.mpp is not None and not plausible(found.mpp):
            size += ", at which no nucleus is seen"
        say(f"pixel size: {size}")
        if found.size_mm is not None:
            say("extent: {:.4g} x {:.4g} mm".format(*found.size_mm))
        if any(found.bounds_offset):
            say(f"bounds: begin at {found.bounds_offset[0]}, {found.bounds_offset[1]} px")
        say("other pictures, not read: " + escape(", ".join(found.associated) or "none"))
        profile = f"{found.icc_profile_bytes:,} bytes, not applied"
        say(f"ICC profile: {profile if found.icc_profile_bytes else 'none'}")
        say(f"colours: {'unlike H&E' if found.appearance else 'nothing unlike H&E'}")
    if found.other_files:
        say("other files of the set: " + escape(", ".join(map(shown, found.other_files))))
    for warning in found.warnings:
        say(f"[bold yellow]Warning:[/] {escape(shown(warning))}")
    # A refusal for it says the same.
    if found.appearance and found.appearance not in found.refusal:
        say(f"[bold yellow]Warning:[/] it looks like {escape(found.appearance)}")
    if found.refusal:
        say(f"[bold red]predict would refuse it:[/] {escape(shown(found.refusal))}")
    elif found.choice:
        say(f"[bold]predict would read[/] {escape(found.choice)}.")
    console.print()
