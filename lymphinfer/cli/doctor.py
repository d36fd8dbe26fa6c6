"""``lymphinfer doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from lymphinfer.bundles.registry import DEFAULT_BUNDLE


def doctor(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where results would be written.")
    ] = Path(),
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", help="Bundle of the self-test.")
    ] = DEFAULT_BUNDLE,
) -> None:
    """Check versions, devices, bundles and disk, with the fix for each problem."""
    from lymphinfer.batch.doctor import examine

    console = Console()
    problems = 0
    for check in examine(out, bundle):
        sign = "[green]ok[/]  " if check.is_ok else "[bold red]bad[/] "
        console.print(f"{sign}[bold]{escape(check.name)}[/]: {escape(check.found)}", soft_wrap=True)
        if not check.is_ok:
            problems += 1
            console.print(f"    [yellow]fix:[/] {escape(check.fix)}", soft_wrap=True)
    if problems:
        console.print(f"{problems} problem{'s' if problems > 1 else ''} found.")
        raise typer.Exit(1)
    console.print("No problem found.")
