"""``lymphinfer status``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from lymphinfer.errors import ResultError


def status(
    results: Annotated[Path, typer.Argument(help="The --out of `lymphinfer predict`.")],
    watch: Annotated[bool, typer.Option("--watch", help="Until nothing runs any more.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
) -> None:
    """Show how far a batch is, from its state files: on any machine that sees the results."""
    # The command line answers --help before a slide's readers are loaded.
    from lymphinfer.batch.state import Status, find_states
    from lymphinfer.cli.overview import overview

    if not results.is_dir():
        raise ResultError(f"{results}: no such folder; give the --out of lymphinfer predict")
    console = Console()
    states = list(find_states(results))
    if not states:
        raise ResultError(
            f"{results}: no batch has left a state here; give the --out of lymphinfer predict"
        )
    if not watch:
        console.print(overview(results, states))
        return
    with Live(overview(results, states), console=console, auto_refresh=False) as live:
        while any(s.status in (Status.RUNNING, Status.QUEUED) for _, s in states):
            time.sleep(interval)
            states = list(find_states(results))
            live.update(overview(results, states), refresh=True)
