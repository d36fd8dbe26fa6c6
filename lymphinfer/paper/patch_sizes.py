"""`lymphinfer patch-size-study`: how much of its surroundings a nucleus needs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.paper.numbers import PATCH_SIZE_AUROC
from lymphinfer.paper.trial import TrialResult, run_trial, shared_stores
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.config_file import replace_section
from lymphinfer.training.inputs import network_problems, open_inputs

SIZES = (32, 48, 64, 80, 96, 112, 128, 144)
MARKDOWN, CSV = "patch_sizes.md", "patch_sizes.csv"
COLUMNS = (
    *("patch_px", "marker", "auroc", "auroc_low", "auroc_high"),
    *("balanced_accuracy", "seconds"),
)


def run_patch_size_study(
    cohort: Path,
    gates: Path,
    config: RetrainConfig,
    out: Path,
    *,
    sizes: Sequence[int] = SIZES,
    device: str = "auto",
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
    slide_progress: Callable[[str, int, int], None] | None = None,
    command: str = "lymphinfer patch-size-study",
) -> str:
    """Train and test with patches of each size; the same folder again goes on.

    The same cells are seen at every size: the sample does not depend on it.

    Parameters
    ----------
    cohort, gates : Path
    config : RetrainConfig
    out : Path
        Patches, runs, ``patch_sizes.md`` and ``patch_sizes.csv``.
    sizes : sequence of int
        Patch sides, px.
    device : str
    progress : bool
    say : callable
        Told of each size.
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
        Every problem of cohort, gates and configuration, or a size that the backbone cannot take.
    """
    if not sizes:
        raise DataError("no patch size given; the study runs " + ", ".join(map(str, SIZES)))
    settings = [replace_section(config, data={"patch_px": size}) for size in sizes]
    problems = dict.fromkeys(p for s in settings for p in network_problems(s))
    if problems:
        raise DataError("\n".join(problems))
    inputs = open_inputs(cohort, gates, settings[0], detector=False)
    done: list[tuple[int, TrialResult]] = []
    for number, (size, setting) in enumerate(zip(sizes, settings, strict=True), start=1):
        say(f"size {number} of {len(sizes)}: {size} px")
        stores = shared_stores(setting, inputs, out, device, slide_progress)
        result = run_trial(
            f"{size}px", setting, inputs, stores, out / "sizes", device=device, progress=progress
        )
        done.append((size, result))
        text = markdown(done, config.data.mpp) + f"\nMade by `{command}`.\n"
        with atomic_write(out / MARKDOWN) as file:
            file.write(text.encode())
        with atomic_write(out / CSV) as file:
            file.write(as_csv(done).encode())
    return text


def markdown(done: Sequence[tuple[int, TrialResult]], mpp: float) -> str:
    """Sizes as Markdown: AUROC by marker, and the paper's for the first."""
    names = [m.marker for m in done[0][1].markers]
    lines = [
        f"| patch px | µm | {' | '.join(names)} | paper, {names[0]} | training s |",
        "| --- " * (4 + len(names)) + "|",
    ]
    for size, result in done:
        cells = ["-" if m.auroc is None else f"{m.auroc:.3f}" for m in result.markers]
        paper = f"{PATCH_SIZE_AUROC[size]:.2f}" if size in PATCH_SIZE_AUROC else ""
        lines.append(
            f"| {size} | {size * mpp:.0f} | {' | '.join(cells)} | {paper} | {result.seconds:.0f} |"
        )
    where = "held-out test" if done[0][1].split == "test" else "VALIDATION"
    return "\n".join([*lines, "", f"AUROC on the {where} patients."]) + "\n"


def as_csv(done: Sequence[tuple[int, TrialResult]]) -> str:
    """Sizes as CSV, a line a size and marker."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for size, result in done:
        for m in result.markers:
            numbers = (m.auroc, m.auroc_low, m.auroc_high, m.balanced_accuracy)
            plain = ["" if n is None else round(n, 4) for n in numbers]
            writer.writerow([size, m.marker, *plain, round(result.seconds, 1)])
    return buffer.getvalue()
