"""``lymphinfer table1``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.cli.retrain import COHORT, CONFIG, DEVICE, GATES


def table1(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and tables.")],
    config: Annotated[Path | None, CONFIG] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Only this backbone's four rows, any timm name. May be repeated."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="Only rows such as convnext_base-wbce-mtl, or a part. May be repeated."),
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Train and test the paper's twelve settings; print them beside the paper's numbers.

    The same command again goes on where an interrupted one stopped.
    """
    from rich.console import Console

    from lymphinfer.cli.orion import progress_bar
    from lymphinfer.cli.training_words import patch_columns
    from lymphinfer.cli.typed import typed_command
    from lymphinfer.training.config_file import load_config
    from lymphinfer.training.table1 import run_table1

    console = Console()
    with progress_bar(*patch_columns()) as report:
        text = run_table1(
            cohort,
            gates,
            load_config(config),
            out,
            backbones=backbone or (),
            keys=row or (),
            device=device,
            say=partial(console.print, soft_wrap=True, highlight=False),
            slide_progress=report,
            command=typed_command(),
        )
    console.print(text, soft_wrap=True, highlight=False)
