"""The page of all slides of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lymphinfer.cells.naming import FIGURES, REPORT
from lymphinfer.export.report import figures as draw
from lymphinfer.export.report.cohort import Grouping, group_slides, strips, write_tables
from lymphinfer.export.report.page import write_page
from lymphinfer.export.report.slide import SlideReport
from lymphinfer.export.results import batch_rows
from lymphinfer.textfiles import shown

# 300 previews of some 8 kB stay below half of what a page may weigh.
MOST_PREVIEWS = 300


def write_batch_report(
    root: Path,
    reports: Sequence[SlideReport],
    failed: Sequence[tuple[Path, str]] = (),
    *,
    figures: bool = True,
    grouping: Grouping | None = None,
) -> Path:
    """Make ``report.html`` for a folder of results, with a row and a link a slide.

    Parameters
    ----------
    root : Path
    reports : sequence of SlideReport
    failed : sequence of (Path, str)
        Result folders that could not be read, each with the reason. Slides on which ``predict``
        failed are added from the root's ``batch.json``.
    figures : bool
        Also write the figure as PNG and SVG.
    grouping : Grouping, optional
        Show the slides in its groups too, and write ``cohort.csv`` and ``groups.csv``.

    Returns
    -------
    Path

    Raises
    ------
    ResultError
        A package of the extra ``report`` is missing, or the page cannot be written.
    """
    rows = [_row(root, report) for report in reports]
    reasons = [(shown(folder.name), shown(reason)) for folder, reason in failed]
    reasons += [
        (Path(row["slide"]).name, row["reason"] or row["status"])
        for row in batch_rows(root)
        if row["status"] == "failed"
    ]
    markers = list(dict.fromkeys(n for report in reports for n in report.result.panel.names))
    learned = {name: [name in row["learned"] for row in rows] for name in markers}
    words = {
        name: sorted({row["words"][name] for row in rows if name in row["words"]})
        for name in markers
    }
    bundles = sorted({(row["bundle"], row["sha256"]) for row in rows})
    chart = None
    with draw.styled():
        if rows and markers:
            values = [
                (
                    name,
                    [row["markers"].get(name) for row in rows],
                    learned[name],
                    ", ".join(words[name]),
                )
                for name in markers
            ]
            figure = draw.slides_strip(values, "expected nuclei per mm² of tissue")
            svg = draw.rendered(figure, "svg")
            chart = draw.svg_uri(svg)
            if figures:
                draw.save(figure, root / FIGURES, "slides", svg)
    cohort = cohort_chart = None
    if grouping is not None:
        cohort = group_slides([report.result for report in reports], grouping)
        write_tables(root, cohort)
        with draw.styled():
            figure = strips(cohort)
            svg = draw.rendered(figure, "svg")
            cohort_chart = draw.svg_uri(svg)
            if figures:
                draw.save(figure, root / FIGURES, "groups", svg)
    total_mm2 = sum(row["tissue_mm2"] or 0 for row in rows)
    return write_page(
        root / REPORT,
        "batch.html.j2",
        title=shown(root.resolve().name),
        rows=rows,
        failed=reasons,
        markers=markers,
        words=words,
        bundles=bundles,
        simulated=sum(report.result.is_simulated for report in reports),
        chart=chart,
        nuclei=sum(row["nuclei"] for row in rows),
        total_mm2=total_mm2,
        with_previews=len(rows) <= MOST_PREVIEWS,
        cohort=cohort,
        cohort_chart=cohort_chart,
    )


def _row(root: Path, report: SlideReport) -> dict[str, Any]:
    result = report.result
    summary = result.summary
    link = Path(os.path.relpath(report.path, root)).as_posix()
    folder = Path(os.path.relpath(result.folder, root)).as_posix()
    return {
        "name": result.name,
        "folder": shown(folder),
        "link": quote(os.fsencode(link)),
        "preview": report.preview,
        "tissue_mm2": summary.get("tissue_mm2"),
        "nuclei": result.nuclei,
        "nuclei_per_mm2": summary.get("nuclei_per_mm2"),
        "markers": {
            name: summary["markers"][name]["expected_per_mm2"] for name in result.panel.names
        },
        "learned": [name for name in result.panel.names if result.is_learned(name)],
        "words": {name: result.word(name) for name in result.panel.names},
        "bundle": str(summary["bundle"].get("name")),
        "sha256": str(summary["bundle"].get("sha256")),
        "warnings": result.warnings,
        "simulated": result.is_simulated,
        "missing": report.missing,
    }
