"""``lymphinfer evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.cli.retrain import COHORT


def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Name or folder of a bundle, or a training run.")
    ],
    work: Annotated[
        Path, typer.Option("--work", "-w", help="Folder with patches that `retrain` has left.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    cohort: Annotated[Path | None, COHORT] = None,
    figure: Annotated[
        bool,
        typer.Option("--figure", help="Draw each slide's fluorescence with the calls; needs IF."),
    ] = False,
    bootstrap: Annotated[int, typer.Option(help="Resamplings behind each interval.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, no, bf16, fp16.")] = "auto",
) -> None:
    """Measure a bundle on a split: metrics with intervals, curves, calibration, predictions."""
    from rich.console import Console

    from lymphinfer.cli.typed import typed_command
    from lymphinfer.extras import require_extra

    require_extra("train", "measuring")
    from lymphinfer.paper.figure4 import draw_figures
    from lymphinfer.training.evaluate import evaluate as run
    from lymphinfer.training.results import metrics_table

    console = Console()
    with console.status("scoring cells"):
        result = run(
            source,
            work,
            out,
            split=split,
            device=device,
            precision=precision,
            replicates=bootstrap,
            seed=seed,
            cohort=cohort,
            draw=draw_figures if figure else None,
            command=typed_command(),
        )
    console.print(metrics_table(result), soft_wrap=True)
    console.print(f"Results in {out}.")
