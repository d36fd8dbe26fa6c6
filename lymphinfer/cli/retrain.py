"""``lymphinfer retrain``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

COHORT = typer.Option("--cohort", "-c", help="Cohort folder in ORION's layout.")
GATES = typer.Option("--gates", "-g", help="gates.toml, as `lymphinfer gate` makes it.")
CONFIG = typer.Option("--config", help="TOML; every default is the paper's.")
DEVICE = typer.Option(help="auto, or cpu. Several GPUs: `accelerate launch -m lymphinfer …`.")


def retrain(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to make.")],
    config: Annotated[Path | None, CONFIG] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for patches and checkpoints. Default: <out>.work."),
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell steps, sizes and time.")
    ] = False,
) -> None:
    """Train a bundle on a gated cohort: patches, training, calibration, test, card.

    The same command again goes on where an interrupted one stopped.
    """
    from rich.console import Console

    from lymphinfer.cli.orion import plain_table, progress_bar
    from lymphinfer.cli.training_words import patch_columns
    from lymphinfer.cli.typed import typed_command
    from lymphinfer.extras import require_extra
    from lymphinfer.training.config_file import load_config

    require_extra("train", "training")

    console = Console()
    settings = load_config(config)
    if dry_run:
        from lymphinfer.training.plan import plan_retrain
        from lymphinfer.training.retrain import work_folder

        steps = plan_retrain(cohort, gates, settings, out, work or work_folder(out), device)
        table = plain_table(("step", "there already"), ("time left, at most",))
        table.add_column("size")
        for step in steps:
            table.add_row(step.name, step.done, step.duration, step.size)
        console.print(table)
        return
    from lymphinfer.training.results import metrics_table
    from lymphinfer.training.retrain import retrain as run

    with progress_bar(*patch_columns()) as report:
        result = run(
            cohort,
            gates,
            settings,
            out,
            work=work,
            device=device,
            say=partial(console.print, soft_wrap=True, highlight=False),
            slide_progress=report,
            command=typed_command(),
        )
    if result is not None and result.evaluation is not None:
        console.print(metrics_table(result.evaluation), soft_wrap=True)
