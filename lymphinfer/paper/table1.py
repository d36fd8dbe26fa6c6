"""`lymphinfer table1`: the paper's twelve rows on a cohort, beside the paper's numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.paper.numbers import TABLE_1, PaperRow, rows_of
from lymphinfer.paper.trial import TrialMarker, TrialResult, run_trial, shared_stores
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.config_file import replace_section
from lymphinfer.training.inputs import network_problems, open_inputs

Say = Callable[[str], None]
MARKDOWN, CSV = "table1.md", "table1.csv"
COLUMNS = (
    *("row", "backbone", "wbce", "mtl", "parameters", "epochs", "seconds", "split", "marker"),
    *("auroc", "auroc_low", "auroc_high", "balanced_accuracy", "balanced_accuracy_chosen"),
    *("best_possible_auroc", "paper_auroc", "paper_balanced_accuracy"),
)


def choose_rows(backbones: Sequence[str] = (), keys: Sequence[str] = ()) -> list[PaperRow]:
    """Rows to run, in the paper's order.

    Parameters
    ----------
    backbones : sequence of str
        Only these, four rows each, also ones that the paper does not have; none: the paper's three.
    keys : sequence of str
        Only rows of these keys, such as ``convnext_base-wbce-mtl`` or a part of one.

    Returns
    -------
    list of PaperRow

    Raises
    ------
    DataError
        A key that no row has; the message lists the keys.
    """
    rows = [row for name in backbones for row in rows_of(name)] if backbones else list(TABLE_1)
    unknown = [key for key in keys if not any(key in row.key for row in rows)]
    if unknown:
        raise DataError(
            f"no row {', '.join(unknown)}; there are {', '.join(row.key for row in rows)}"
        )
    return [row for row in rows if not keys or any(key in row.key for key in keys)]


def run_table1(
    cohort: Path,
    gates: Path,
    config: RetrainConfig,
    out: Path,
    *,
    backbones: Sequence[str] = (),
    keys: Sequence[str] = (),
    device: str = "auto",
    progress: bool = True,
    say: Say = lambda text: None,
    slide_progress: Callable[[str, int, int], None] | None = None,
    command: str = "lymphinfer table1",
) -> str:
    """Run every row that is not done yet and write ``table1.md`` and ``table1.csv``.

    Parameters
    ----------
    cohort, gates : Path
    config : RetrainConfig
        Of all rows; backbone, weighting and independence are each row's own.
    out : Path
        Patches, runs and tables; the same folder again goes on.
    backbones, keys : sequence of str
        As in `choose_rows`.
    device : str
    progress : bool
    say : callable
        Told of each row.
    slide_progress : callable, optional
        Called with a slide's name, its patches done, and its patches in all.
    command : str
        Named below the table.

    Returns
    -------
    str
        The table as Markdown.

    Raises
    ------
    DataError
        Every problem of cohort, gates and configuration.
    """
    rows = choose_rows(backbones, keys)
    settings = [row_config(config, row) for row in rows]
    problems = dict.fromkeys(p for s in settings for p in network_problems(s))
    if problems:
        raise DataError("\n".join(problems))
    inputs = open_inputs(cohort, gates, settings[0], detector=False)
    stores = shared_stores(config, inputs, out, device, slide_progress)
    done: list[tuple[PaperRow, TrialResult]] = []
    for number, (row, setting) in enumerate(zip(rows, settings, strict=True), start=1):
        say(f"row {number} of {len(rows)}: {row.key}")
        result = run_trial(
            row.key, setting, inputs, stores, out / "rows", device=device, progress=progress
        )
        done.append((row, result))
        text = markdown(done) + f"\nMade by `{command}`.\n"
        with atomic_write(out / MARKDOWN) as file:
            file.write(text.encode())
        with atomic_write(out / CSV) as file:
            file.write(as_csv(done).encode())
    return text


def row_config(config: RetrainConfig, row: PaperRow) -> RetrainConfig:
    """Configuration of one row."""
    model = {"backbone": row.backbone, "independent": not row.multitask}
    return replace_section(config, model=model, fit={"weighted": row.weighted})


def _millions(count: int) -> str:
    return f"{count / 1e6:.0f}M" if count >= 10_000_000 else f"{count / 1e6:.1f}M"


def _pair(auroc: float | None, accuracy: float | None) -> str:
    first, second = ("-" if v is None else f"{v:.2f}" for v in (auroc, accuracy))
    return f"{first} / {second}"


def _cell(row: PaperRow, index: int, marker: TrialMarker) -> str:
    own = _pair(marker.auroc, marker.balanced_accuracy)
    return f"**{own}**" + (f" ({_pair(*row.cells[index])})" if row.cells else "")


def markdown(done: Sequence[tuple[PaperRow, TrialResult]]) -> str:
    """Rows as Markdown: ours in bold, the paper's in parentheses, AUROC / balanced accuracy."""
    names = [m.marker for m in done[0][1].markers]
    lines = [
        "| backbone | weights | WBCE | MTL | " + " | ".join(names) + " |",
        "| --- " * (4 + len(names)) + "|",
    ]
    for row, result in done:
        cells = [_cell(row, i, m) for i, m in enumerate(result.markers)]
        lines.append(
            f"| {row.title} | {_millions(result.parameters)} | {'x' if row.weighted else ''} "
            f"| {'x' if row.multitask else ''} | " + " | ".join(cells) + " |"
        )
    best = [m.best_possible for m in done[0][1].markers]
    if any(b is not None for b in best):
        cells = ["-" if b is None else f"{b:.2f}" for b in best]
        lines.append("| best possible | | | | " + " | ".join(cells) + " |")
    splits = {result.split for _, result in done}
    where = "held-out test patients" if splits == {"test"} else "VALIDATION patients (no test ones)"
    starts = "; ".join(dict.fromkeys(f"{row.title}: {r.start}" for row, r in done))
    note = (
        f"AUROC / balanced accuracy at 0.5 on the {where}; the paper's in parentheses. "
        f"Begun from: {starts}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def as_csv(done: Sequence[tuple[PaperRow, TrialResult]]) -> str:
    """Rows as CSV, a line a row and marker."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, result in done:
        for i, m in enumerate(result.markers):
            paper = row.cells[i] if row.cells else ("", "")
            numbers = (
                *(m.auroc, m.auroc_low, m.auroc_high),
                *(m.balanced_accuracy, m.balanced_accuracy_chosen, m.best_possible),
            )
            writer.writerow(
                [
                    *(row.key, row.backbone, int(row.weighted), int(row.multitask)),
                    *(result.parameters, result.epochs, round(result.seconds, 1), result.split),
                    m.marker,
                    *("" if n is None else round(n, 4) for n in numbers),
                    *paper,
                ]
            )
    return buffer.getvalue()
