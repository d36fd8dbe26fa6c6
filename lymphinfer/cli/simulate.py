"""`lymphinfer simulate`: a cohort of invented slides in ORION's layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lymphinfer.errors import DataError

if TYPE_CHECKING:
    from lymphinfer.simulate.cohort import CohortSummary


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to make; must not hold a cohort yet.")],
    slides: Annotated[int, typer.Option(help="Number of slides, 1 to 41.")] = 6,
    size: Annotated[
        int, typer.Option(help="Width and height of a slide, px at 0.325 µm/px.")
    ] = 4096,
    seed: Annotated[int, typer.Option(help="The same seed makes the same cohort.")] = 0,
    imbalance: Annotated[
        str,
        typer.Option(
            help="Positive to negative cells: 'paper' (CD45 .22, CD3e .04, CD4 and CD8a .006) or "
            "'rich' (.50, .20, .08, .06), which suits small cohorts."
        ),
    ] = "paper",
    ratio: Annotated[
        list[str] | None,
        typer.Option(help="One marker's own ratio, such as CD4=0.05. May be repeated."),
    ] = None,
    stain_spread: Annotated[
        float, typer.Option(help="Scale of the stain's variation between slides.", min=0.0)
    ] = 1.0,
    workers: Annotated[
        int | None, typer.Option(help="Processes, each of about 1.3 GB at 4096 px.", min=1)
    ] = None,
) -> None:
    """Make a small cohort of simulated slides in ORION's layout, with the truth beside it."""
    from lymphinfer.simulate.cohort import simulate_cohort

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("slides", total=slides)

        def progress(folder: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=folder)

        summary = simulate_cohort(
            out,
            slides,
            size,
            seed,
            imbalance=ratios(imbalance, ratio or []) if ratio else imbalance,
            stain_spread=stain_spread,
            workers=workers,
            progress=progress,
        )
    console.print(_table(summary))
    console.print(f"Slides in {summary.out / 'data'}, truth in {summary.out / 'truth'}.")


def ratios(imbalance: str, changes: list[str]) -> dict[str, float]:
    """Ratios of a named imbalance with some of them replaced.

    Parameters
    ----------
    imbalance : str
        A name of `IMBALANCES`.
    changes : list of str
        Such as ``CD4=0.05``.

    Returns
    -------
    dict of str to float

    Raises
    ------
    DataError
        If the name is unknown or a change cannot be read.
    """
    from lymphinfer.simulate.design import IMBALANCES

    if imbalance not in IMBALANCES:
        raise DataError(f"--imbalance {imbalance!r} is unknown; choose from {list(IMBALANCES)}.")
    result = dict(IMBALANCES[imbalance])
    for change in changes:
        name, _, value = change.partition("=")
        try:
            result[name.strip()] = float(value)
        except ValueError:
            raise DataError(f"--ratio {change!r}: write MARKER=NUMBER, such as CD4=0.05.") from None
    return result


def _table(summary: CohortSummary) -> Table:
    table = Table(title=f"{len(summary.folders)} slides, {summary.cells:,} cells")
    table.add_column("marker")
    table.add_column("positive", justify="right")
    table.add_column("best possible AUROC", justify="right")
    for name, count in summary.positives.items():
        table.add_row(name, f"{count:,}", f"{summary.best_auroc[name]:.3f}")
    return table
