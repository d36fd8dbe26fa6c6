"""``lymphinfer predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.cli.enums import Format, Hierarchy


def predict(
    source: Annotated[
        Path, typer.Argument(metavar="SLIDE|FOLDER", help="A slide, or a folder of slides.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Result folder. Default: <slide>.lymphinfer beside it."),
    ] = None,
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", help="Name or folder of a bundle.")
    ] = "he-v1",
    mpp: Annotated[
        float | None,
        typer.Option(help="Pixel size of level 0, µm/px, where the file has none or a wrong one."),
    ] = None,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="zip opens fastest in QuPath.")
    ] = Format.zip,
    hierarchy: Annotated[
        Hierarchy | None,
        typer.Option(help="How a child marker is kept below its parent. Default: the bundle's."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", "-w", help="Threads that read and decode.")
    ] = 4,
    tile: Annotated[int, typer.Option(help="Tile side at the working pixel size, px.")] = 1024,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop/--no-crop", help="Subtract the slide's bounds, as QuPath does by default."
        ),
    ] = True,
    redo: Annotated[bool, typer.Option(help="Compute again what is already there.")] = False,
) -> None:
    """Detect nuclei and estimate CD45, CD3e, CD4 and CD8a on H&E slides.

    Writes a file to drop on the open image in QuPath, a summary, and the nucleus table. The same
    command again goes on where an interrupted one stopped.
    """
    # The command line answers --help before torch is loaded.
    from lymphinfer.cli.predict_run import run
    from lymphinfer.predict.settings import PredictSettings

    settings = PredictSettings(
        bundle=bundle,
        mpp=mpp,
        format=format.value,
        hierarchy=None if hierarchy is None else hierarchy.value,
        device=device,
        precision=precision,
        workers=workers,
        tile_px=tile,
        crop_to_bounds=crop,
        redo=redo,
    )
    code = run(source, out, settings)
    if code:
        raise typer.Exit(code)
