"""Making the pages of results, for ``lymphinfer report`` and ``predict --report``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from lymphinfer.errors import LymphinferError
from lymphinfer.textfiles import shown

if TYPE_CHECKING:
    from lymphinfer.export.report.cohort import Grouping


def make_reports(
    console: Console,
    folders: Sequence[Path],
    root: Path,
    *,
    slides: Path | None = None,
    figures: bool = True,
    grouping: Grouping | None = None,
    on_page: Callable[[Path], None],
) -> int:
    """Make a page for each result folder and, unless the root is the only one, one for all.

    Parameters
    ----------
    console : Console
        Told of what is missing and what failed.
    folders : sequence of Path
        Result folders of finished slides.
    root : Path
        Where the page of all goes.
    slides : Path, optional
        Where slide files may lie.
    figures : bool
        Also write each figure as PNG and SVG.
    grouping : Grouping, optional
        Of the page of all.
    on_page : callable
        Called with each page's path.

    Returns
    -------
    int
        How many slides have no page.

    Raises
    ------
    LymphinferError
        The only slide's page, or the page of all, cannot be made.
    """
    from lymphinfer.export.report.batch import write_batch_report
    from lymphinfer.export.report.slide import SlideReport, write_slide_report
    from lymphinfer.export.results import open_result

    done: list[SlideReport] = []
    failed: list[tuple[Path, str]] = []
    for folder in folders:
        try:
            with console.status(escape(shown(folder.name))):
                made = write_slide_report(open_result(folder), slides=slides, figures=figures)
        except LymphinferError as error:
            if len(folders) == 1:
                raise
            failed.append((folder, str(error)))
            console.print(f"[bold red]Failed:[/] {escape(shown(str(error)))}", soft_wrap=True)
        else:
            done.append(made)
            if made.missing:
                console.print(f"[bold yellow]Warning:[/] {escape(made.missing)}", soft_wrap=True)
            on_page(made.path)
    if list(folders) != [root]:
        page = write_batch_report(root, done, failed, figures=figures, grouping=grouping)
        on_page(page)
    return len(failed)


def announce(console: Console) -> Callable[[Path], None]:
    """Say on stderr where a page is: stdout belongs to the files for QuPath."""
    return lambda path: console.print(f"[bold]Report:[/] {escape(shown(path))}", soft_wrap=True)
