"""``lymphinfer table1`` and ``lymphinfer patch-size-study``: the paper's own experiments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lymphinfer.cli.retrain import COHORT, CONFIG, DEVICE, GATES
from lymphinfer.extras import require_extra

OUT = typer.Option("--out", "-o", help="Folder for runs and tables.")


def table1(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES],
    out: Annotated[Path, OUT],
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
    require_extra("train", "training")
    from lymphinfer.paper.table1 import run_table1

    chosen = partial(run_table1, backbones=backbone or (), keys=row or ())
    _run(chosen, cohort, gates, config, out, device)


def patch_size_study(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES],
    out: Annotated[Path, OUT],
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
    require_extra("train", "training")
    from lymphinfer.paper.patch_sizes import SIZES, run_patch_size_study

    chosen = partial(run_patch_size_study, sizes=size or SIZES)
    _run(chosen, cohort, gates, config, out, device)


def _run(
    experiment: Callable[..., str],
    cohort: Path,
    gates: Path,
    config: Path | None,
    out: Path,
    device: str,
) -> None:
    """Do an experiment with a bar, and print its table."""
    from rich.console import Console

    from lymphinfer.cli.orion import progress_bar
    from lymphinfer.cli.training_words import patch_columns
    from lymphinfer.cli.typed import typed_command
    from lymphinfer.training.config_file import load_config

    console = Console()
    say: Any = partial(console.print, soft_wrap=True, highlight=False)
    with progress_bar(*patch_columns()) as report:
        text = experiment(
            cohort,
            gates,
            load_config(config),
            out,
            device=device,
            say=say,
            slide_progress=report,
            command=typed_command(),
        )
    say(text)
