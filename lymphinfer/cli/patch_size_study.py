"""``lymphinfer patch-size-study``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.cli.retrain import COHORT, CONFIG, DEVICE, GATES


def patch_size_study(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and table.")],
    config: Annotated[Path | None, CONFIG] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help="Patch side, px. May be repeated. Default: 32 to 144 by 16."),
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Train and test with patches of several sizes; print the AUROC by size.

    The same command again goes on where an interrupted one stopped.
    """
    from rich.console import Console

    from lymphinfer.cli.orion import progress_bar
    from lymphinfer.cli.training_words import patch_columns
    from lymphinfer.cli.typed import typed_command
    from lymphinfer.training.config_file import load_config
    from lymphinfer.training.patch_sizes import SIZES, run_patch_size_study

    console = Console()
    with progress_bar(*patch_columns()) as report:
        text = run_patch_size_study(
            cohort,
            gates,
            load_config(config),
            out,
            sizes=size or SIZES,
            device=device,
            say=partial(console.print, soft_wrap=True, highlight=False),
            slide_progress=report,
            command=typed_command(),
        )
    console.print(text, soft_wrap=True, highlight=False)
