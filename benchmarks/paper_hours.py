"""GPU hours of the paper's twelve rows on ORION: FLOP counted, speed measured, the rest divided.

python benchmarks/paper_hours.py [--epochs 10]

FLOP of a patch of 112 px forward are counted (two a multiplication, all layers), three times as
many for learning from it. Patches/s are those that `recipes.orion_crc01.table1_gpu` reached in
training with patches of 112 px in bfloat16 on one NVIDIA H200, which three other trainings used
too (``recipes/orion_crc01/table1.json``). HoVer-Net was run with half its channels: the whole one
is reckoned at the same FLOP a second. An epoch is 480,000 patches learned from and 140,000 told.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.paper.patch_sizes import SIZES

TABLE_1 = Path(__file__).parents[1] / "recipes" / "orion_crc01" / "table1.json"
MEASURED_AS = {"convnext_base": "convnext_base", "hovernet": "hovernet-w2", "phikon": "phikon"}
LEARNED, TOLD, CELLS, PATCH_PX = 480_000, 140_000, 800_000, 112
STATE_BYTES = 16
"""A weight, AdamW's two means of it, and the best epoch's, in float32."""
ROWS_A_BACKBONE = {"one network": 2, "four networks": 2}


def network(backbone: str, independent: bool = False) -> MarkerClassifier:
    """A network with four heads, or four with one, by shapes alone."""
    with torch.device("meta"):
        config = ClassifierConfig(TCELL_PANEL.names, backbone, independent, 512, PATCH_PX)
        return MarkerClassifier(config).eval()


def tflop(backbone: str) -> float:
    """Of one patch forward through one network with four heads."""
    net = network(backbone)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net(torch.rand(1, 3, PATCH_PX, PATCH_PX))
    return counter.get_total_flops() / 1e12


def patches_per_second(backbone: str) -> float:
    """What the rows of a backbone with one network reached together."""
    rows: list[dict[str, Any]] = json.loads(TABLE_1.read_text("utf-8"))["rows"]
    fits = [
        fit
        for row in rows
        if row["backbone"] == backbone and row["group"] == "table" and row["multitask"]
        for fit in row["fits"]
    ]
    return float(sum(f["patches"] for f in fits) / sum(f["seconds"] for f in fits))


def hours_per_epoch(patch_tflop: float, tflop_per_second: float) -> float:
    """Of one network."""
    return (3 * LEARNED + TOLD) * patch_tflop / tflop_per_second / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    table = Table(title=f"hours on an NVIDIA H200, {epochs} epochs of {LEARNED:,} patches")
    for name in ("backbone", "GFLOP a patch", "patches/s", "TFLOP/s", "h an epoch", "one network",
                 "four networks", "its four rows"):  # fmt: skip
        table.add_column(name, justify="right")
    total = 0.0
    for backbone, run_as in MEASURED_AS.items():
        cost, speed = tflop(backbone), patches_per_second(run_as)
        reached = 3 * tflop(run_as) * speed
        epoch = hours_per_epoch(cost, reached)
        rows = (
            epochs * epoch * (ROWS_A_BACKBONE["one network"] + 4 * ROWS_A_BACKBONE["four networks"])
        )
        total += rows
        measured = "" if run_as == backbone else " (reckoned)"
        table.add_row(
            backbone, f"{cost * 1e3:.1f}", f"{reached / cost / 3:,.0f}{measured}", f"{reached:.0f}",
            f"{epoch:.2f}", f"{epochs * epoch:.1f}", f"{4 * epochs * epoch:.1f}", f"{rows:.0f}",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    console.print(f"all twelve rows: {total:.0f} h at {epochs} epochs")
    console.print(f"phikon-resize: {tflop('phikon-resize') * 1e3:.1f} GFLOP a patch")
    nets = [network(name, alone) for name in MEASURED_AS for alone in (False, True)]
    weights = sum(p.numel() for net in nets for p in net.parameters())
    patches = CELLS * 3 * sum(side**2 for side in SIZES)
    console.print(
        f"checkpoints of the twelve rows: {2 * weights * STATE_BYTES / 1e9:.0f} GB; patches of the "
        f"patch-size study before compression: {patches / 1e9:.0f} GB"
    )


if __name__ == "__main__":
    main()
