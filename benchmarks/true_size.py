"""The paper's path on one made slide of ORION's true size: seconds, memory and disk of each step.

python benchmarks/true_size.py --out DIR [--patients 3] [--size 78417 57360] [--cells 1620375]
    [--backbone resnet10t] [--json FILE] [--keep]

Makes a cohort (`true_size_slide`) of one slide that some patients share by hard links, since
training, validation and test need one each; then runs `orion check`, `gate propose`, `gate show`,
`gate apply` and `retrain` with one epoch of a small backbone, by their command lines, and what a
person at `gate serve` waits for. The last column is 41 times a slide's share of CPU. The patients'
files being the same, all but the first find them in the page cache. Takes some 4 GB of disk and
2.2 GB of memory, and removes what it has made without `--keep`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from process import Cost, machine, run_by_steps
from rich.console import Console
from rich.table import Table
from true_size_slide import CRC01_CELLS, CRC01_PX, link_patients, make_slide

from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.patch_store import PatchStore
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.training.data import AUGMENTATION, augment_patch
from lymphinfer.web.session import GatingSession

SLIDES = 41
TOOL = [sys.executable, "-m", "lymphinfer"]
CONFIG = """[data]
cells_per_patient = {cells}

[model]
backbone = "{backbone}"
hidden = 128
pretrained = "no"

[fit]
weighted = true
learning_rate = 1e-3
batch_size = 64
accumulation = 1
epochs = 1
workers = 2

[bundle]
simulated = true
"""
ONCE = ("train", "calibrate", "evaluate", "bundle")
"""Steps whose cost follows from the patches, not from the slides."""


def measure(cohort: Path, out: Path, config: Path) -> dict[str, Cost]:
    """Run every step; what they print goes to ``out/*.log``."""
    gates, labels, bundle = out / "gates.toml", out / "labels", out / "bundle"
    work = bundle.with_name("bundle.work")
    short = {
        "orion check": ["orion", "check", cohort],
        "gate propose": ["gate", "propose", cohort, "--gates", gates],
        "gate show": ["gate", "show", cohort, "--gates", gates, "--out", out / "figures"],
        "gate apply": ["gate", "apply", cohort, "--gates", gates, "--out", labels],
    }
    costs: dict[str, Cost] = {}
    for name, words in short.items():
        log = out / f"{name.replace(' ', '-')}.log"
        costs |= run_by_steps([*TOOL, *map(str, words)], {}, log, last=name)
        print(name, costs[name], flush=True)
    words = ["retrain", "--cohort", cohort, "--gates", gates, "--config", config, "--out", bundle]
    ends: dict[str, str | Path] = {
        "retrain: check": "check: ",
        "retrain: label and sample": work / "patches-112px",
        "retrain: patches": "patches: ",
        "retrain: train": "train: ",
        "retrain: calibrate": "calibrate: ",
        "retrain: evaluate": "evaluate: ",
    }
    return costs | run_by_steps(
        [*TOOL, *map(str, words), "--device", "cpu"], ends, out / "retrain.log", "retrain: bundle"
    )


def parts(cohort: Path, gates: Path, stores: Path) -> dict[str, float]:
    """CPU seconds of what a person at the gates' page waits for, and of augmenting a patch."""
    opened = open_cohort(cohort)
    folder, marker = opened.folders[0], TCELL_PANEL.names[1]
    session = GatingSession(opened, gates, TCELL_PANEL, "benchmark")
    found: dict[str, float] = {}

    def timed(name: str, act: Callable[[], Any], times: int = 1) -> Any:
        began = time.process_time()
        result = act()
        found[name] = (time.process_time() - began) / times
        return result

    timed("page: open a slide", lambda: session.slide_reply(folder))
    timed("page: move a gate", lambda: session.preview(folder, marker, {}))
    cells = session.examples_reply(folder, marker, {"number": "8"})["examples"]
    rows = [cell["row"] for examples in cells.values() for cell in examples]
    session.picture(folder, rows[0], "he")
    for kind in ("he", marker):
        timed(
            f"page: {len(rows)} pictures, {kind}",
            lambda kind=kind: [session.picture(folder, row, kind) for row in rows],
        )
    session.close()
    store = PatchStore(stores / f"{folder}.zarr")
    patches = store.read(range(min(256, len(store))))

    def augment() -> None:
        for i, patch in enumerate(patches):
            augment_patch(patch, np.random.default_rng(i), AUGMENTATION)

    timed("augment a patch", augment, len(patches))
    return found


def disk(path: Path) -> int:
    """Bytes of a file or folder, each of several names of a file counted once."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum({(s.st_dev, s.st_ino): s.st_size for s in (p.stat() for p in files)}.values())


def show(console: Console, costs: dict[str, Cost], patients: int) -> None:
    """Print the steps, and 41 slides of them."""
    table = Table(title=f"{patients} patients of one slide each, {machine()}")
    for name in ("step", "s", "CPU s", "peak MB", f"CPU min, {SLIDES} slides"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, cost in costs.items():
        all_slides = f"{cost.cpu_seconds / patients * SLIDES / 60:,.1f}"
        table.add_row(
            name, f"{cost.seconds:,.0f}", f"{cost.cpu_seconds:,.0f}", f"{cost.peak_mb:,.0f}",
            "" if name.endswith(ONCE) else all_slides,
        )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=3, choices=(2, 3))
    parser.add_argument("--size", type=int, nargs=2, default=CRC01_PX, metavar="PX")
    parser.add_argument("--cells", type=int, default=CRC01_CELLS)
    parser.add_argument("--piece-px", type=int, default=4096)
    parser.add_argument("--cells-per-patient", type=int, default=20_000)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    console, out = Console(width=120), arguments.out
    cohort = out / "cohort"
    if not cohort.exists():
        slide = make_slide(
            cohort / "data" / "CRC01", size_px=tuple(arguments.size), cells=arguments.cells,
            piece_px=arguments.piece_px, say=console.print,
        )  # fmt: skip
        link_patients(slide, arguments.patients - 1)
    files = {p.name: p.stat().st_size for p in (cohort / "data" / "CRC01").iterdir()}
    config = out / "config.toml"
    config.write_text(CONFIG.format(cells=arguments.cells_per_patient, backbone=arguments.backbone))
    costs = measure(cohort, out, config)
    show(console, costs, arguments.patients)
    others = parts(cohort, out / "gates.toml", out / "bundle.work" / "patches-112px")
    for name, seconds in others.items():
        console.print(f"{seconds:10,.4f} CPU s  {name}")
    made = {name: disk(out / name) for name in ("labels", "figures", "bundle", "bundle.work")}
    for name, size in (files | made).items():
        console.print(f"{size / 1e6:10,.1f} MB  {name}")
    if arguments.json:
        document = {
            "machine": machine(), "patients": arguments.patients, "cells": arguments.cells,
            "files": files, "made": made, "parts": others,
            "costs": {k: asdict(v) for k, v in costs.items()},
        }  # fmt: skip
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if not arguments.keep:
        for name in ("cohort", *made):
            shutil.rmtree(out / name)


if __name__ == "__main__":
    main()
