"""Seconds per mm² of tissue, from the slide to the .zip that QuPath opens.

python benchmarks/speed.py [--area 10] [--bundles he-v1-fast he-v1] [--repeats 5] [--peers]

Makes a slide once (JPEG pyramid at 0.25 µm/px, simulated tissue) and keeps it in --cache. --peers
adds, on a small part of the same tissue, what one would use instead: TIAToolbox's HoVer-Net (fast)
network on its 256 px windows, and one ConvNeXt-Base patch a nucleus, both in plain PyTorch float32,
the network alone without reading, post-processing or writing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from process import Cost, run
from rich.console import Console
from rich.table import Table

from lymphinfer.simulate.slide import write_large_slide

MPP = 0.25
STAGES = ("read", "tissue", "detect", "decode", "patches", "classify", "table", "write")
# A fast HoVer-Net reads 256 px and answers for 164 px of them.
HOVERNET_OUT_UM = 164 * 0.25


def make_slide(cache: Path, area_mm2: float) -> Path:
    """The made slide of about that much tissue; kept from one run to the next."""
    side = round((area_mm2 / 0.66) ** 0.5 * 1000 / MPP)
    path = cache / f"speed-{side}.svs"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        beside = cache / f"unfinished-{side}.svs"
        write_large_slide(beside, side, mpp=MPP)
        beside.replace(path)
    return path


def predict(slide: Path, bundle: str, arguments: list[str]) -> tuple[Cost, dict[str, Any]]:
    """One prediction from nothing, with its cost and its summary."""
    out = Path(tempfile.mkdtemp(prefix="speed-"))
    try:
        command = [sys.executable, "-m", "lymphinfer", "predict", str(slide), "--out", str(out)]
        cost = run([*command, "--bundle", bundle, *arguments], dict(os.environ))
        return cost, json.loads((out / slide.stem / "summary.json").read_text())
    finally:
        shutil.rmtree(out)


def hovernet_s_per_mm2(windows: int = 8) -> float:
    """TIAToolbox's HoVer-Net (fast), forward passes alone."""
    from lymphinfer.markers.hovernet import MONUSAC_TYPES, _tiatoolbox

    make, _ = _tiatoolbox()
    net = make(num_types=MONUSAC_TYPES, mode="fast").eval()
    batch = torch.rand(4, 3, 256, 256) * 255
    seconds = _seconds_a_batch(net, batch, windows // 4)
    return seconds / 4 / (HOVERNET_OUT_UM / 1000) ** 2


def convnext_s_per_nucleus(patches: int = 64) -> float:
    """ConvNeXt-Base on 112 px patches, forward passes alone."""
    import timm

    net = timm.create_model("convnext_base", num_classes=0).eval()
    return _seconds_a_batch(net, torch.rand(32, 3, 112, 112), patches // 32) / 32


def _seconds_a_batch(net: torch.nn.Module, batch: torch.Tensor, batches: int) -> float:
    with torch.inference_mode():
        net(batch)
        began = time.perf_counter()
        for _ in range(batches):
            net(batch)
        return (time.perf_counter() - began) / batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--area", type=float, default=10.0, help="mm² of tissue, about")
    parser.add_argument("--bundles", nargs="+", default=["he-v1-fast", "he-v1"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "lymphinfer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("predict_arguments", nargs="*", help="after --, handed to predict")
    arguments = parser.parse_args()
    slide = make_slide(arguments.cache, arguments.area)
    console = Console()
    table = Table(title=f"{slide.name}, {platform.processor() or platform.machine()}, "
                        f"{os.cpu_count()} cores; medians of {arguments.repeats}")  # fmt: skip
    table.add_column("s/mm²")
    results: dict[str, dict[str, float]] = {}
    density = 0.0
    for bundle in arguments.bundles:
        runs = [
            predict(slide, bundle, arguments.predict_arguments) for _ in range(arguments.repeats)
        ]
        area = runs[0][1]["tissue_mm2"]
        density = runs[0][1]["nuclei"] / area

        def median(values: list[float]) -> float:
            return statistics.median(values)

        row = {"whole command": median([c.seconds for c, _ in runs]) / area}
        for stage in STAGES:
            row[stage] = median([s["seconds"].get(stage, 0.0) for _, s in runs]) / area
        row["CPU, cores busy"] = median([c.cpu_seconds / c.seconds for c, _ in runs])
        row["peak MB"] = median([c.peak_mb for c, _ in runs])
        row["nuclei"] = runs[0][1]["nuclei"]
        row["tissue mm²"] = area
        row["nuclei per second"] = runs[0][1]["nuclei"] / median([c.seconds for c, _ in runs])
        results[bundle] = row
        table.add_column(bundle, justify="right")
    for name in next(iter(results.values())):
        table.add_row(name, *(f"{row[name]:,.2f}" for row in results.values()))
    if arguments.peers:
        peers = {
            "HoVer-Net (fast), TIAToolbox, network alone": hovernet_s_per_mm2(),
            "ConvNeXt-Base, a patch a nucleus, network alone": convnext_s_per_nucleus() * density,
        }
        for name, seconds in peers.items():
            ratios = (seconds / row["whole command"] for row in results.values())
            table.add_row(f"{name}: {seconds:.1f} s/mm², ratio", *(f"{r:.1f} x" for r in ratios))
            results[name] = {"s/mm²": seconds}
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
