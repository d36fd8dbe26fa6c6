r"""Train the paper's Table 1 on CRC01's real pixels within a number of seconds.

python -m recipes.orion_crc01.table1_gpu --slide DIR --out RUN --device cuda --seconds 520

Needs the H&E tiles and ``cells.parquet`` alone. The rows and their shares of the time stand in
`recipes.orion_crc01.plan`; a row that takes longer shortens those after it. No published weights
are at hand: the backbones begin from random ones and first learn, once for their four rows, what
tissue looks like, from channels that no lymphocyte carries (`plan.PRETRAINED_ON`), on the training
columns. A row of independent networks divides its time among them.

After each row ``table1.npz`` has the logits of all rows so far and what they took;
``weights.safetensors`` has the small network of the paper's form and that of another panel, both
in float16. `recipes.orion_crc01.table1` makes the table of them. **One patient.**
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from lymphinfer.cells.files import atomic_write
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.orion.labels import Labels
from lymphinfer.panel import PANELS, Panel
from lymphinfer.training.losses import positive_weights
from lymphinfer.training.metrics import auroc
from recipes.he.crc01 import TiledSlide, read_slide, soft_labels
from recipes.orion_crc01.cells import Sets, draw_sets, labels_of, split_of
from recipes.orion_crc01.device_slide import DeviceSlide
from recipes.orion_crc01.plan import (
    BUNDLE,
    INPUT_PX,
    KINDS,
    PANEL,
    PATCH_PX,
    PRETRAINED_ON,
    ROWS,
    TITLES,
    Kind,
    Row,
)
from recipes.orion_crc01.timed import Bench, Fitted

CELLS_A_COLUMN = 20_000
RESULTS, WEIGHTS = "table1.npz", "weights.safetensors"
KEPT = {BUNDLE.key: "paper", PANEL.key: "panel"}
"""Rows whose weights are kept, and what their tensors' names begin with."""
HIDDEN = 512


@dataclass
class Run:
    """A run under way.

    Attributes
    ----------
    slide : TiledSlide
    bench : Bench
    out : Path
    ends : float
        On `time.perf_counter`'s clock.
    todo : list of Row
    most_cells : int
        Of a set, for rehearsals; 0: as many as the plan says.
    batch : int
        For rehearsals; 0: as the plan says.
    """

    slide: TiledSlide
    bench: Bench
    out: Path
    ends: float
    todo: list[Row]
    most_cells: int = 0
    batch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    begun_with: dict[str, tuple[dict[str, torch.Tensor], Fitted]] = field(default_factory=dict)
    panels: dict[str, Labels] = field(default_factory=dict)
    drawn: dict[tuple[str, int, int], Sets] = field(default_factory=dict)

    def share(self, seconds: float) -> float:
        """Seconds that a share of the plan has of what is left; endless in a rehearsal."""
        if self.bench.most_steps:
            return math.inf
        planned = sum(row.seconds for row in self.todo)
        backbones = {row.backbone for row in self.todo if row.pretrained} - set(self.begun_with)
        planned += sum(KINDS[name].first for name in backbones)
        return seconds * min(1.0, max(self.ends - time.perf_counter(), 0) / max(planned, 1e-9))

    def kind(self, name: str) -> Kind:
        """How a backbone is trained."""
        kind = KINDS[name]
        return Kind(**{**asdict(kind), "batch": self.batch}) if self.batch else kind

    def labels(self, panel: Panel) -> Labels:
        """Labels of all nuclei for a panel."""
        if panel.name not in self.panels:
            self.panels[panel.name] = labels_of(self.slide, panel)
        return self.panels[panel.name]

    def sets(self, panel: Panel, kind: Kind) -> Sets:
        """Cells of a row; their indices go into the results."""
        most = self.most_cells or CELLS_A_COLUMN
        val, test = min(kind.val, most), min(kind.test, most)
        if (panel.name, val, test) in self.drawn:
            return self.drawn[panel.name, val, test]
        found = draw_sets(self.slide, self.labels(panel), panel, train=most, val=val, test=test)
        self.drawn[panel.name, val, test] = found
        self.arrays[f"cells/{_sets_name(panel, found)}/val"] = found.val.astype(np.int32)
        self.arrays[f"cells/{_sets_name(panel, found)}/test"] = found.test.astype(np.int32)
        return found

    def begin(self, backbone: str) -> tuple[dict[str, torch.Tensor], Fitted]:
        """Weights of a backbone that has seen tissue, and what that took."""
        if backbone not in self.begun_with:
            kind = self.kind(backbone)
            config = ClassifierConfig(
                PRETRAINED_ON, backbone, False, HIDDEN, PATCH_PX, INPUT_PX // PATCH_PX
            )
            net = self.bench.build(config)
            index = np.flatnonzero(split_of(self.slide) == "train")
            soft = soft_labels(self.slide, PRETRAINED_ON)[index]
            fitted = self.bench.fit(
                net,
                index,
                soft,
                seconds=self.share(kind.first),
                batch=kind.batch,
                rate=kind.rate[0],
                soft=True,
            )
            state = {k: v.clone() for k, v in net.backbones[0].state_dict().items()}
            self.begun_with[backbone] = state, fitted
            say(f"{backbone}: first training, {fitted.patches:,} patches", fitted)
        return self.begun_with[backbone]

    def train(self, row: Row) -> None:
        """Train and measure a row."""
        panel, kind = PANELS[row.panel], self.kind(row.backbone)
        first = self.begin(row.backbone) if row.pretrained else None
        labels, sets = self.labels(panel), self.sets(panel, kind)
        weights = positive_weights(labels[sets.train], panel.names) if row.weighted else None
        heads = [panel.names] if row.multitask else [(name,) for name in panel.names]
        told = {"val": sets.val, "test": sets.test}
        found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in told}
        fits, parameters = [], 0
        for markers in heads:
            config = ClassifierConfig(
                markers, row.backbone, False, HIDDEN, row.patch_px, row.enlarge
            )
            net = self.bench.build(config)
            if first is not None:
                net.backbones[0].load_state_dict(first[0])
            parameters += sum(p.numel() for p in net.parameters())
            telling = sum(self.bench.seconds_to_tell(net, index) for index in told.values())
            seconds = self.share(row.seconds) / len(heads) - telling
            columns = [panel.index(name) for name in markers]
            fits.append(
                self.bench.fit(
                    net,
                    sets.train,
                    labels[sets.train][:, columns],
                    seconds=seconds,
                    batch=kind.batch,
                    rate=kind.rate[1 if row.pretrained else 0],
                    weights=None if weights is None else weights[columns],
                )
            )
            for name, index in told.items():
                found[name].append(self.bench.tell(net, index))
            if row.key in KEPT:
                self.keep(row, net)
        logits = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
        for name, values in logits.items():
            self.arrays[f"logits/{row.key}/{name}"] = values.astype(np.float16)
        quick = {
            name: round(auroc(labels[sets.test, i], logits["test"][:, i]), 4)
            for i, name in enumerate(panel.names)
        }
        self.rows.append(
            {
                **asdict(row),
                "title": TITLES[row.backbone],
                "markers": list(panel.names),
                "patch_um": row.patch_um,
                "cells": _sets_name(panel, sets),
                "train_cells": len(sets.train),
                "parameters": parameters,
                "batch": kind.batch,
                "fits": [asdict(f) for f in fits],
                "first": None if first is None else asdict(first[1]),
                "positive_weights": None if weights is None else weights.tolist(),
                "auroc": quick,
            }
        )
        say(f"{row.key}: {quick}", fits[-1])

    def keep(self, row: Row, net: MarkerClassifier) -> None:
        """Keep a row's network for a bundle."""
        for name, tensor in net.state_dict().items():
            half = tensor.half() if tensor.is_floating_point() else tensor
            # Not a view of the device's layout: safetensors wants them dense.
            self.weights[f"{KEPT[row.key]}.{name}"] = half.contiguous().cpu()

    def write(self) -> None:
        """Write all that there is."""
        told = {
            "rows": self.rows,
            "device": _device_name(self.bench.device),
            "precision": str(self.bench.half or torch.float32).removeprefix("torch."),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "nuclei": len(self.slide.xy),
        }
        with atomic_write(self.out / RESULTS) as file:
            document = np.frombuffer(json.dumps(told).encode(), np.uint8)
            np.savez(file, told=document, **self.arrays)  # type: ignore[arg-type]
        if self.weights:
            with atomic_write(self.out / WEIGHTS) as file:
                file.write(save(self.weights))


def _sets_name(panel: Panel, sets: Sets) -> str:
    return f"{panel.name}-{len(sets.val)}-{len(sets.test)}"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


BEGAN = time.perf_counter()


def say(text: str, fitted: Fitted | None = None) -> None:
    """Print a line with the time."""
    took = ""
    if fitted is not None:
        speed = fitted.patches / max(fitted.seconds, 1e-9)
        took = f"; {fitted.steps} steps, {fitted.seconds:.1f} s, {speed:,.0f}/s"
        took += f", loss {fitted.loss:.3f}"
    print(f"[{time.perf_counter() - BEGAN:6.1f} s] {text}{took}", flush=True)


def run(arguments: argparse.Namespace) -> Run:
    """Train the rows; see the module."""
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    wanted = [k for k in arguments.rows.split(",") if k]
    rows = [row for row in ROWS if not wanted or any(k in row.key for k in wanted)]
    if not rows:
        raise SystemExit(f"--rows {arguments.rows}: the rows are {', '.join(r.key for r in ROWS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    slide = read_slide(arguments.slide)
    say(f"{len(slide.xy):,} nuclei of ONE patient")
    bench = Bench(
        DeviceSlide.load(slide.he, slide.xy, device),
        device,
        torch.Generator(device).manual_seed(arguments.seed),
        arguments.steps,
        **({"told_at_once": arguments.batch} if arguments.batch else {}),
    )
    state = Run(
        slide, bench, arguments.out, BEGAN + arguments.seconds, list(rows),
        arguments.cells, arguments.batch,
    )  # fmt: skip
    for row in rows:
        try:
            state.train(row)
        except (RuntimeError, FloatingPointError) as error:
            # Out of memory, or a loss that is not finite: the other rows are worth having.
            say(f"{row.key} FAILED: {type(error).__name__} {str(error).splitlines()[0]}")
            state.rows.append({**asdict(row), "failed": f"{type(error).__name__}: {error}"[:500]})
        state.todo.remove(row)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        state.write()
    return state


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path, required=True, help="H&E tiles and cells.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=520, help="in all, from the start on")
    parser.add_argument("--rows", default="", help="only rows with one of these in their keys")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="at most, of a training: a rehearsal")
    parser.add_argument("--cells", type=int, default=0, help="at most, of a column: a rehearsal")
    parser.add_argument("--batch", type=int, default=0, help="patches a step, for a rehearsal")
    return parser.parse_args(words)


if __name__ == "__main__":
    run(parse())
