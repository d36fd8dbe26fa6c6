"""``lymphinfer train-detector``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.bundles.registry import DEFAULT_BUNDLE


class Architecture(StrEnum):
    """Choices of ``--arch``."""

    stardist = "stardist"
    hovernet = "hovernet"


class Width(StrEnum):
    """Choices of ``--width``."""

    full = "1"
    half = "2"
    quarter = "4"
    eighth = "8"


def train_detector(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Images, each with <stem>.npz (inst_map) or <stem>_mask.png beside it; images or "
            "slides with QuPath's <stem>.geojson beside them; or PanNuke's images.npy and "
            "masks.npy; or MoNuSeg's Tissue Images and Annotations.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to make.")],
    arch: Annotated[Architecture, typer.Option("--arch", help="Which detector.")] = (
        Architecture.stardist
    ),
    held_out: Annotated[
        Path | None,
        typer.Option(help="Folder to measure on. Default: every fifth image of FOLDER."),
    ] = None,
    image_mpp: Annotated[float, typer.Option(help="Pixel size of the images, µm/px.")] = 0.25,
    mpp: Annotated[
        float | None,
        typer.Option(help="Pixel size to work at. Default: the initial one's, or 0.325 and 0.25."),
    ] = None,
    initial: Annotated[
        str,
        typer.Option(help="Bundle to fine-tune (he-v1, hovernet_fast-monusac), or a weight file."),
    ] = "",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 5000,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = 4,
    width: Annotated[
        Width, typer.Option(help="HoVer-Net with its channels divided; 8 learns on a CPU.")
    ] = Width.full,
    markers_from: Annotated[
        str, typer.Option(help="Bundle whose marker model reads the nuclei.")
    ] = DEFAULT_BUNDLE,
    validate_every: Annotated[int, typer.Option(help="Steps between looks at --held-out.")] = 500,
    work: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints. Default: <out>.work.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that cut crops. Default: for a GPU all cores but one."),
    ] = None,
) -> None:
    """Train a nucleus detector on your own annotations; it ends in a bundle for predict.

    The same command again goes on where an interrupted one stopped. Use the result with
    `predict --bundle OUT`, or `predict --detector OUT` beside another bundle's markers.
    """
    from rich.console import Console
    from rich.markup import escape

    from lymphinfer.cli.typed import typed_command
    from lymphinfer.extras import require_extra

    require_extra("train", "training")
    from lymphinfer.training.detector import DetectorRun
    from lymphinfer.training.detector import train_detector as train

    run = DetectorRun(
        architecture=arch.value,
        data=data,
        held_out=held_out,
        image_mpp=image_mpp,
        mpp=mpp,
        steps=steps,
        batch_size=batch,
        divisor=int(width.value),
        initial=initial,
        markers_from=markers_from,
        device=device,
        validate_every=validate_every,
        workers=workers,
    )
    made = train(run, out, work or out.with_name(f"{out.name}.work"), command=typed_command())
    score = made.score
    console = Console()
    console.print(
        f"Held out: F1 {score.f1:.3f} at IoU 0.5, PQ {score.pq:.3f}, Dice {score.dice:.3f}"
    )
    console.print(
        f"[green]Ready:[/] {escape(str(out))}. Use it with predict --bundle or --detector "
        f"{escape(str(out))}",
        soft_wrap=True,
    )
