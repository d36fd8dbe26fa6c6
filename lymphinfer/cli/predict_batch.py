"""What ``lymphinfer predict`` prints while it works on many slides and when they are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

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

from lymphinfer.batch.claims import Claims
from lymphinfer.batch.inputs import find_jobs, results_root
from lymphinfer.batch.job import Job
from lymphinfer.batch.lists import AREAS
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.places import Place
from lymphinfer.batch.platform import exit_on_sigterm
from lymphinfer.batch.run import run_jobs
from lymphinfer.batch.state import Status, read_state
from lymphinfer.batch.summary import BatchResult, SlideOutcome
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.cells.naming import BATCH_CSV
from lymphinfer.cli.output import write_line, write_path
from lymphinfer.cli.overview import duration
from lymphinfer.cli.predict_run import print_bundle
from lymphinfer.cli.report_run import announce, make_reports
from lymphinfer.errors import AnnotationError
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.textfiles import shown

MAX_ROWS = 40


class BatchBar:
    """A bar for the batch and one for each slide at work; a line for each slide that ends."""

    def __init__(self, console: Console, slides: int):
        self.console = console
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.all = self.bar.add_task("slides", total=slides, note="")
        self.tasks: dict[Path, TaskID] = {}
        self.nuclei: Counter[Path] = Counter()
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
        self._remove(job.folder)
        name = f"  {escape(shown(job.slide.name))} on {device}"
        self.tasks[job.folder] = self.bar.add_task(name, total=tiles, completed=done, note="tiles")

    def advanced(self, job: Job, nuclei: int) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""
        task = self.tasks.get(job.folder)
        if task is not None:
            self.nuclei[job.folder] += nuclei
            note = f"tiles, {self.nuclei[job.folder]:,} nuclei"
            self.bar.update(task, advance=1, note=note)

    def ended(self, outcome: SlideOutcome, *, again: bool = False) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""
        self._remove(outcome.folder)
        self.bar.update(self.all, advance=1)
        if outcome.status is Status.DONE:
            line = (
                f"[green]Done:[/] {escape(shown(outcome.file or ''))} ({outcome.nuclei:,} nuclei)"
            )
        else:
            before = " before, --retry-failed tries again" if again else ""
            slide = escape(shown(outcome.slide))
            line = f"[bold red]Failed{before}:[/] {slide}: {escape(_reason(outcome))}"
        self.console.print(line, soft_wrap=True)

    def waiting(self, slides: int, owner: str) -> None:
        """See `lymphinfer.batch.progress.BatchProgress`."""
        note = f"waiting for {owner}"
        self.bar.update(self.all, note=note)
        if note != self.waited_for and not self.console.is_terminal:
            self.console.print(f"{slides} slides are in other hands: {note}", soft_wrap=True)
        self.waited_for = note

    def _remove(self, folder: Path) -> None:
        task = self.tasks.pop(folder, None)
        if task is not None:
            self.bar.remove_task(task)


def run_batch(
    source: Path,
    out: Path | None,
    settings: PredictSettings,
    options: BatchOptions,
    *,
    place: AbstractContextManager[Place] | None = None,
    on_begin: Callable[[int], None] | None = None,
    report: bool = False,
) -> int:
    """Predict many slides and print; with `report` their pages are made too.

    Returns
    -------
    int
        Exit code: 0 all done, 1 some slides failed, 2 none could be done.

    Raises
    ------
    LymphinferError
        Nothing could be begun.
    """
    for option in AREAS:
        given = getattr(settings, option)
        if given is not None and not Path(given).is_dir():
            what = "nuclei" if option == "nuclei" else "annotations"
            raise AnnotationError(
                f"{given}: one file of {what} for several slides; give --{option} a folder "
                f"with a file a slide, named like it, or a list of slides with a column `{option}`"
            )
    exit_on_sigterm()
    console = Console(stderr=True)
    root = results_root(source, out)
    jobs = find_jobs(source, root)
    print_bundle(console, used_manifest(settings.bundle, settings.detector))
    with BatchBar(console, len(jobs)) as progress:
        result = run_jobs(jobs, root, settings, options, progress, place=place, on_begin=on_begin)
    print_batch(console, result)
    for outcome in result.done:
        # The one thing on stdout, so that a script can take it.
        write_path(outcome.file)
    if report and result.done:
        folders = [outcome.folder for outcome in result.done]
        make_reports(console, folders, root, on_page=announce(console))
    return result.exit_code


def list_jobs(
    source: Path, out: Path | None, settings: PredictSettings, options: BatchOptions
) -> int:
    """Print what a run would do.

    Returns
    -------
    int
        Exit code 0.
    """
    claims = Claims(settings, retry_failed=options.retry_failed)
    counts: Counter[str] = Counter()
    for job in find_jobs(source, out):
        state = read_state(job.folder)
        if claims.failed_before(job, state):
            todo = "failed before"
        elif state is not None and state.status is Status.DONE and not settings.redo:
            todo = "done"
        elif state is not None and state.status is Status.RUNNING:
            todo = "go on"
        else:
            todo = "predict"
        counts[todo] += 1
        write_line(f"{todo}\t{shown(job.slide)}\t{shown(job.folder)}")
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    Console(stderr=True).print(f"{words}. Nothing was done.")
    return 0


def print_batch(console: Console, result: BatchResult) -> None:
    """Print the closing table: all slides of a small batch, what failed of a large one."""
    done, failed = result.done, result.failed
    left = len(result.outcomes) - len(done) - len(failed)
    title = f"{len(done)} slides done, {len(failed)} failed" + (f", {left} left" if left else "")
    table = Table(title=title)
    for name in ("slide", "nuclei", "tissue mm²", "s", "s/mm²", "reason"):
        table.add_column(name, justify="left" if name in ("slide", "reason") else "right")
    for outcome in result.outcomes if len(result.outcomes) <= MAX_ROWS else failed:
        table.add_row(*_cells(outcome, result.root))
    if done and len(result.outcomes) > 1:
        nuclei = sum(o.nuclei or 0 for o in done)
        tissue = sum(o.tissue_mm2 or 0 for o in done)
        table.add_section()
        table.add_row("all done", f"{nuclei:,}", f"{tissue:.2f}", f"{result.seconds:.1f}", "", "")
    console.print(table)
    warned = sum(bool(o.warnings) for o in done)
    if warned:
        console.print(
            f"[bold yellow]{warned} of {len(done)} slides have warnings[/]: column `warnings` of "
            f"{BATCH_CSV}."
        )
    retried = sum(o.shards_retried for o in result.outcomes)
    if retried:
        console.print(f"{retried} shards were computed again since their worker was lost.")
    for note in result.notes:
        console.print(f"[bold yellow]Warning:[/] {escape(note)}", soft_wrap=True)
    if result.stopped:
        console.print(
            f"[bold red]Stopped:[/] {escape(result.stopped)}\nThe same command goes on from here.",
            soft_wrap=True,
        )
    console.print(
        f"{duration(result.seconds)} h; a row a slide in {escape(shown(result.root / BATCH_CSV))}",
        soft_wrap=True,
    )


def _cells(outcome: SlideOutcome, root: Path) -> list[str]:
    name = escape(_name(outcome, root))
    if outcome.status is not Status.DONE:
        reason = escape(_reason(outcome))
        return [name, "-", "-", f"{outcome.seconds:.1f}", "-", f"[red]{reason}[/]"]
    pace = outcome.seconds_per_mm2
    return [
        name,
        f"{outcome.nuclei:,}",
        f"{outcome.tissue_mm2 or 0:.2f}",
        f"{outcome.seconds:.1f}",
        "-" if pace is None else f"{pace:.1f}",
        "",
    ]


def _name(outcome: SlideOutcome, root: Path) -> str:
    """A slide's place in the tree, since two folders may hold the same name."""
    slide, folder = outcome.slide, outcome.folder
    if not folder.is_relative_to(root):
        return shown(slide)
    return shown(folder.relative_to(root).parent / slide.name)


def _reason(outcome: SlideOutcome) -> str:
    """Why a slide has no results, without its own path, which stands beside it."""
    if outcome.status is not Status.FAILED:
        return "not come to"
    reason = outcome.reason
    for slide in (str(outcome.slide), shown(outcome.slide)):
        reason = reason.removeprefix(f"{slide}: ")
    return shown(reason)
