"""``lymphinfer teach``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def teach(
    slides: Annotated[
        Path,
        typer.Option("--slides", "-s", help="A slide, a folder, a quoted pattern, or a list."),
    ],
    annotations: Annotated[
        Path,
        typer.Option(
            "--annotations", "-a",
            help="Named nuclei as QuPath exports them: a GeoJSON file, or a folder with one a "
            "slide, called like the slide.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new bundle.")],
    from_: Annotated[str, typer.Option("--from", help="The bundle to begin from.")] = "he-v2",
    as_: Annotated[
        list[str] | None,
        typer.Option(
            "--as", metavar="CLASS=MARKER",
            help="What a class of yours means: 'Small dark=CD45', 'Vessel=Other'. May be repeated.",
        ),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Pixel size of level 0, µm/px, where files have none.")
    ] = None,
    unchanged: Annotated[
        bool,
        typer.Option(
            "--unchanged", help="Take detections too whose class is still the model's own call."
        ),
    ] = False,
    crop: Annotated[
        bool,
        typer.Option("--crop/--no-crop", help="Annotations are in the frame of QuPath's default."),
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="auto, torch, openvino: what computes the networks.")
    ] = "auto",
) -> None:  # fmt: skip
    """Teach a bundle with nuclei that you have named in QuPath.

    Points, small outlines, or detections whose class you have changed. The last layer of the
    markers that you name learns again; the new bundle has a card with what it was worth before and
    after on nuclei that it had not learned from. It refuses where there are too few.
    """
    from rich.console import Console
    from rich.markup import escape

    from lymphinfer.cli.output import write_path
    from lymphinfer.teaching.teach import TeachOptions, summary_lines
    from lymphinfer.teaching.teach import teach as run
    from lymphinfer.textfiles import shown

    console = Console(stderr=True)
    options = TeachOptions(
        base=from_, names=tuple(as_ or ()), mpp=mpp, crop_to_bounds=crop, unchanged=unchanged,
        device=device, precision=precision, runtime=runtime,
    )  # fmt: skip
    with console.status("teach") as status:
        done = run(
            slides, annotations, out, options,
            command=shlex.join(["lymphinfer", *sys.argv[1:]]),
            on_slide=lambda name, n: status.update(escape(f"{shown(name)}: {n:,} nuclei")),
        )  # fmt: skip
    for note in done.notes:
        console.print(f"[yellow]Note:[/] {escape(shown(note))}", soft_wrap=True)
    for line in summary_lines(done.taught):
        console.print(escape(line), soft_wrap=True)
    for t in done.taught:
        if t.gain[0] <= 0:
            console.print(
                f"[bold yellow]Warning:[/] {t.marker} did not get better on held-out nuclei.",
                soft_wrap=True,
            )
    for spec in done.manifest.markers:
        console.print(f"{spec.name}: {escape(spec.statement)}", soft_wrap=True)
    console.print(
        f"{done.seconds:.1f} s. Its card is {escape(shown(out / 'CARD.md'))}; use it with "
        f"--bundle {escape(shown(out))}",
        soft_wrap=True,
    )
    write_path(out)
