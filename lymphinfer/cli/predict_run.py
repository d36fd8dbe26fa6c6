"""What ``lymphinfer predict`` prints while it works on one slide and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
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

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.job import Job
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.places import Place
from lymphinfer.batch.platform import exit_on_sigterm
from lymphinfer.batch.single import run_slide
from lymphinfer.batch.summary import SlideOutcome
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.cli.output import write_path
from lymphinfer.cli.report_run import announce, make_reports
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.textfiles import shown


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
        self.waited_for = ""

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

    def began(self, job: Job, device: str, tiles: int, done: int) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""
        self.nuclei = 0
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(
            escape(shown(job.slide.name)), total=tiles, completed=done, nuclei=0
        )

    def advanced(self, job: Job, nuclei: int) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""
        if self.task is not None:
            self.nuclei += nuclei
            self.bar.update(self.task, advance=1, nuclei=self.nuclei)

    def ended(self, outcome: SlideOutcome, *, again: bool = False) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""

    def waiting(self, slides: int, owner: str) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""
        if owner != self.waited_for:
            self.bar.console.print(f"Waiting for {escape(owner)}, which works on this slide.")
        self.waited_for = owner


def run(
    source: Path,
    out: Path | None,
    settings: PredictSettings,
    options: BatchOptions,
    *,
    place: AbstractContextManager[Place] | None = None,
    on_begin: Callable[[int], None] | None = None,
    report: bool = False,
) -> int:
    """Predict one slide and print; with `report` the page is made too.

    Returns
    -------
    int
        Exit code 0.

    Raises
    ------
    LymphinferError
        It could not be done.
    """
    exit_on_sigterm()
    console = Console(stderr=True)
    (job,) = find_jobs(source, out)
    manifest = used_manifest(settings.bundle, settings.detector)
    print_bundle(console, manifest)
    with ProgressBar(console) as progress:
        result = run_slide(job, settings, options, progress, place=place, on_begin=on_begin)
    print_slide(console, result, manifest)
    # The one thing on stdout, so that a script can take it.
    write_path(job.folder / result.file.name)
    if report:
        make_reports(console, [job.folder], job.folder, on_page=announce(console))
    return 0


def print_bundle(console: Console, manifest: BundleManifest) -> None:
    """Say which bundle is used, and warn of a simulated one."""
    console.print(f"Bundle [bold]{escape(manifest.name)}[/] {escape(manifest.version)}: "
                  f"{escape(manifest.summary)}")  # fmt: skip
    if manifest.is_simulated:
        console.print(
            "[bold yellow]Warning:[/] this bundle was trained on SIMULATED slides. Its marker "
            "probabilities say nothing about real tissue."
        )


def print_slide(console: Console, result: SlideResult, manifest: BundleManifest) -> None:
    """Print the closing table of one slide."""
    summary = result.summary
    region = summary.get("region")
    where = f" inside {region['annotations']} annotations" if region else ""
    table = Table(
        title=f"{summary['nuclei']:,} nuclei in {summary['tissue_mm2']:.2f} mm² of tissue{where}"
    )
    for name, justify in (("marker", "left"), ("called", "right"), ("expected", "right"),
                          ("expected/mm²", "right"), ("evidence", "left")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    # A result from before points were told was called at the bundle's thresholds.
    point = summary.get("operating_point") or manifest.calling()
    for spec in manifest.markers:
        row: dict[str, Any] = summary["markers"][spec.name]
        called = f"{row['positive']:,}" if spec.name in point["markers"] else "never"
        density = row["expected_per_mm2"]
        table.add_row(
            spec.name,
            called,
            f"{row['expected'] or 0:,.0f}",
            "-" if density is None else f"{density:,.1f}",
            escape(spec.statement),
        )
    console.print(table)
    console.print(f"Called at {escape(point['statement'])}.", soft_wrap=True)
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
