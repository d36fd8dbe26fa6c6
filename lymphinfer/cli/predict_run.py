"""What ``lymphinfer predict`` prints while it works and when it is done."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lymphinfer.bundles.schema import BundleManifest, Evidence
from lymphinfer.errors import LymphinferError
from lymphinfer.predict.inputs import find_jobs
from lymphinfer.predict.settings import PredictSettings, SlideResult
from lymphinfer.predict.slide import load, predict_slide


class ProgressBar:
    """Tiles, nuclei and time left of the slide at work, on stderr."""

    def __init__(self, console: Console):
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tiles"),
            TextColumn("{task.fields[nuclei]:,} nuclei"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.nuclei = 0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def start(self, slide: Path, tiles: int, done: int) -> None:
        """See `lymphinfer.predict.slide.Progress`."""
        self.nuclei = 0
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(escape(slide.name), total=tiles, completed=done, nuclei=0)

    def advance(self, nuclei: int) -> None:
        """See `lymphinfer.predict.slide.Progress`."""
        if self.task is not None:
            self.nuclei += nuclei
            self.bar.update(self.task, advance=1, nuclei=self.nuclei)


def run(source: Path, out: Path | None, settings: PredictSettings) -> int:
    """Predict and print.

    Returns
    -------
    int
        Exit code: 0 all done, 1 some slides failed, 2 none could be done.

    Raises
    ------
    LymphinferError
        Nothing could be begun.
    """
    console = Console(stderr=True)
    jobs = find_jobs(source, out)
    bundle = load(settings)
    _print_bundle(console, bundle.manifest)
    failed: list[tuple[Path, str]] = []
    results: list[SlideResult] = []
    with ProgressBar(console) as progress:
        for job in jobs:
            try:
                result = predict_slide(
                    job.slide, job.folder, settings=settings, bundle=bundle, progress=progress
                )
            except LymphinferError as error:
                if len(jobs) == 1:
                    raise
                failed.append((job.slide, str(error)))
                console.print(f"[bold red]Failed:[/] {escape(str(error))}", soft_wrap=True)
            else:
                results.append(result)
                if len(jobs) > 1:
                    console.print(
                        f"[green]Done:[/] {escape(str(result.file))} ({result.n_nuclei:,} nuclei)",
                        soft_wrap=True,
                    )
    if len(jobs) == 1:
        _print_slide(console, results[0], bundle.manifest)
    else:
        _print_batch(console, results, failed)
    for result in results:
        # The one thing on stdout, so that a script can take it.
        sys.stdout.write(f"{result.file}\n")
    if not failed:
        return 0
    return 1 if results else 2


def _print_bundle(console: Console, manifest: BundleManifest) -> None:
    console.print(f"Bundle [bold]{escape(manifest.name)}[/] {escape(manifest.version)}: "
                  f"{escape(manifest.summary)}")  # fmt: skip
    if manifest.is_simulated:
        console.print(
            "[bold yellow]Warning:[/] this bundle was trained on SIMULATED slides. Its marker "
            "probabilities say nothing about real tissue."
        )


def _print_slide(console: Console, result: SlideResult, manifest: BundleManifest) -> None:
    summary = result.summary
    table = Table(
        title=f"{summary['nuclei']:,} nuclei in {summary['tissue_mm2']:.2f} mm² of tissue"
    )
    for name, justify in (("marker", "left"), ("called", "right"), ("expected", "right"),
                          ("expected/mm²", "right"), ("evidence", "left")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for spec in manifest.markers:
        row: dict[str, Any] = summary["markers"][spec.name]
        called = "never" if spec.evidence is Evidence.BASE_RATE else f"{row['positive']:,}"
        density = row["expected_per_mm2"]
        table.add_row(
            spec.name,
            called,
            f"{row['expected'] or 0:,.0f}",
            "-" if density is None else f"{density:,.1f}",
            escape(spec.statement),
        )
    console.print(table)
    for warning in summary["warnings"]:
        console.print(f"[bold yellow]Warning:[/] {escape(warning)}", soft_wrap=True)
    if not summary["nuclei"]:
        console.print("No nuclei were found; the file is valid and empty.")
    if result.shards and result.resumed_shards == result.shards:
        console.print("Everything was there from an earlier run; --redo computes it again.")
    elif result.resumed_shards:
        console.print(
            f"{result.resumed_shards} of {result.shards} shards came from an earlier run."
        )
    area = summary["tissue_mm2"]
    pace = f", {result.seconds / area:.1f} s/mm²" if area and not result.resumed_shards else ""
    console.print(f"{result.seconds:.1f} s{pace}")
    console.print(f"[bold]In QuPath:[/] open {escape(summary['slide']['name'])}, then drag this "
                  "file onto the image:", soft_wrap=True)  # fmt: skip


def _print_batch(
    console: Console, results: list[SlideResult], failed: list[tuple[Path, str]]
) -> None:
    table = Table(title=f"{len(results)} slides done, {len(failed)} failed")
    table.add_column("slide")
    table.add_column("nuclei", justify="right")
    table.add_column("tissue mm²", justify="right")
    table.add_column("s", justify="right")
    table.add_column("reason")
    for result in results:
        table.add_row(
            escape(result.slide.name),
            f"{result.n_nuclei:,}",
            f"{result.summary['tissue_mm2']:.2f}",
            f"{result.seconds:.1f}",
            "",
        )
    for slide, reason in failed:
        table.add_row(escape(slide.name), "-", "-", "-", f"[red]{escape(reason)}[/]")
    console.print(table)
