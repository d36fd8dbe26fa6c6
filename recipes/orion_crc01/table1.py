r"""Measure what `recipes.orion_crc01.table1_gpu` has trained, and write it as tables.

python -m recipes.orion_crc01.table1 measure --slide DIR --run RUN/table1.npz
python -m recipes.orion_crc01.table1 write

``measure`` makes ``table1.json`` beside this module: the project's own metrics of each row on the
held-out columns, with intervals by resampling their tiles. ``write`` puts its tables into the
manual's page. **One patient.**
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.markers.calibration import Calibration
from lymphinfer.orion.labels import Labels
from lymphinfer.panel import PANELS, Panel
from lymphinfer.training.calibrate import Calibrated, calibrate, final_probabilities
from lymphinfer.training.intervals import MarkerMetrics, measure
from recipes.he.crc01 import TiledSlide, read_slide
from recipes.orion_crc01.cells import blocks, labels_of, population
from recipes.orion_crc01.tables import PAGE, tables_of, with_tables

RESULT = Path(__file__).with_suffix(".json")
FAR = Path(__file__).with_name("far_panels.json")
REPLICATES = 300


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a run tells of itself, and its arrays by name."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(arrays.pop("told").tobytes()), arrays


def calibrated_on(
    slide: TiledSlide,
    panel: Panel,
    labels: Labels,
    cells: NDArray[np.integer],
    logits: NDArray[np.floating],
    hierarchy: str,
) -> Calibrated:
    """Calibration and thresholds by validation cells, at the frequencies of their columns."""
    return calibrate(
        logits.astype(np.float64),
        labels[cells],
        panel,
        hierarchy=hierarchy,
        population=population(slide, labels),
    )


def measured(
    slide: TiledSlide,
    panel: Panel,
    labels: Labels,
    cells: NDArray[np.integer],
    logits: NDArray[np.floating],
    calibrated: Calibrated,
    hierarchy: str,
    *,
    replicates: int = REPLICATES,
) -> list[MarkerMetrics]:
    """Metrics of each marker on test cells, (N, M) logits, with intervals by tile."""
    logits = logits.astype(np.float64)
    raw = Calibration()(logits)
    final = final_probabilities(logits, calibrated.calibrations, panel, hierarchy)
    tile = blocks(slide, cells.astype(np.int64))
    return [
        measure(
            name,
            labels[cells, i],
            raw[:, i],
            final[:, i],
            tile,
            threshold=calibrated.thresholds[i],
            replicates=replicates,
        )
        for i, name in enumerate(panel.names)
    ]


def measure_run(slide: TiledSlide, run: Path, *, replicates: int = REPLICATES) -> dict[str, Any]:
    """Everything about a run's rows, in plain values; heads as they are, without hierarchy."""
    told, arrays = read_run(run)
    by_panel: dict[str, Labels] = {}
    rows = []
    for row in told["rows"]:
        if "failed" in row:
            rows.append(row)
            continue
        panel = PANELS[row["panel"]]
        if panel.name not in by_panel:
            by_panel[panel.name] = labels_of(slide, panel)
        labels = by_panel[panel.name]
        cells = {s: arrays[f"cells/{row['cells']}/{s}"] for s in ("val", "test")}
        logits = {s: arrays[f"logits/{row['key']}/{s}"] for s in ("val", "test")}
        calibrated = calibrated_on(slide, panel, labels, cells["val"], logits["val"], "none")
        found = measured(
            slide, panel, labels, cells["test"], logits["test"], calibrated, "none",
            replicates=replicates,
        )  # fmt: skip
        rows.append(
            {
                **{k: v for k, v in row.items() if k not in ("auroc", "cells", "markers")},
                "test_cells": len(cells["test"]),
                "metrics": {m.marker: _short(m) for m in found},
            }
        )
        print(row["key"], {m.marker: round(m.auroc.value, 3) for m in found}, flush=True)
    return {**told, "rows": rows}


def _short(m: MarkerMetrics) -> dict[str, Any]:
    """A marker's numbers to four digits."""
    found: dict[str, Any] = {"positive": m.n_positive, "negative": m.n_negative}
    for name in ("auroc", "balanced_accuracy", "balanced_accuracy_chosen", "average_precision"):
        plain = getattr(m, name).to_dict()
        values = [plain["value"], plain["low"], plain["high"]]
        found[name] = [None if v is None else round(v, 4) for v in values]
    return found


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("measure")
    first.add_argument("--slide", type=Path, required=True, help="H&E tiles and cells.parquet")
    first.add_argument("--run", type=Path, required=True, help="table1.npz")
    first.add_argument("--out", type=Path, default=RESULT)
    second = commands.add_parser("write")
    second.add_argument("--results", type=Path, default=RESULT)
    second.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.command == "measure":
        document = measure_run(read_slide(arguments.slide), arguments.run)
        with atomic_write(arguments.out) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())
        return
    results = json.loads(arguments.results.read_text("utf-8"))
    far = json.loads(FAR.read_text("utf-8"))
    page = arguments.page.read_text("utf-8")
    arguments.page.write_text(with_tables(page, tables_of(results, far)), "utf-8")


if __name__ == "__main__":
    main()
