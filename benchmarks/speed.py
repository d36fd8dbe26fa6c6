"""Seconds per mm² of tissue, from the slide to the .zip that QuPath opens.

python benchmarks/speed.py [--area 10] [--bundles he-v1-fast he-v1] [--repeats 5] [--peers]
python benchmarks/speed.py --areas 1 4 16 64 --bundles he-v1-fast --repeats 1
python benchmarks/speed.py --aggregates 0 0.3 0.9 --area 3 --bundles he-v1-fast --repeats 1

Makes a slide once (JPEG pyramid at 0.25 µm/px, simulated tissue) and keeps it in --cache. --areas
and --aggregates show how the cost grows with the slide and with the density of its nuclei (share of
the tissue in lymphoid aggregates). --peers adds what one would use instead: TIAToolbox's HoVer-Net
(fast) on its 256 px windows, and one ConvNeXt-Base patch a nucleus, both in plain PyTorch float32
and the network alone, without reading, post-processing or writing: their real cost is higher.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from process import Cost, machine, run
from rich.console import Console
from rich.table import Table

from lymphinfer.simulate.layout import LayoutSettings
from lymphinfer.simulate.slide import write_large_slide
from lymphinfer.simulate.tissue import TissueSettings

MPP = 0.25
STAGES = ("read", "tissue", "far", "detect", "decode", "patches", "classify", "table", "write")
# A fast HoVer-Net reads 256 px and answers for 164 px of them.
HOVERNET_OUT_UM = 164 * 0.25


def make_slide(cache: Path, area_mm2: float, aggregates: float | None = None) -> Path:
    """The made slide of about that much tissue; kept from one run to the next."""
    side = round((area_mm2 / 0.66) ** 0.5 * 1000 / MPP)
    name = f"speed-{side}" if aggregates is None else f"speed-{side}-{aggregates:g}"
    path = cache / f"{name}.svs"
    if not path.exists():
        settings = None
        if aggregates is not None:
            settings = TissueSettings(LayoutSettings(aggregate_share=aggregates))
        write_large_slide(path, side, mpp=MPP, settings=settings)
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
    from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network

    # Types as in its published MoNuSAC weights; their values do not change the time.
    net = build_network(HoVerNetConfig("fast", ("a", "b", "c", "d"))).eval()
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


def measure(slide: Path, bundle: str, repeats: int, arguments: list[str]) -> dict[str, float]:
    """Medians of several predictions, per mm² of tissue where that makes sense."""
    runs = [predict(slide, bundle, arguments) for _ in range(repeats)]
    summary = runs[0][1]
    area = summary["tissue_mm2"]

    def median(values: list[float]) -> float:
        return statistics.median(values)

    row = {"whole command": median([c.seconds for c, _ in runs]) / area}
    row["slide to file"] = median([s["seconds"]["total"] for _, s in runs]) / area
    for stage in STAGES:
        row[stage] = median([s["seconds"].get(stage, 0.0) for _, s in runs]) / area
    row["CPU, cores busy"] = median([c.cpu_seconds / c.seconds for c, _ in runs])
    row["CPU, core-seconds"] = median([c.cpu_seconds for c, _ in runs]) / area
    row["peak MB"] = median([c.peak_mb for c, _ in runs])
    row["tissue mm²"] = area
    row["nuclei per mm²"] = summary["nuclei"] / area
    row["nuclei per second"] = summary["nuclei"] / median([c.seconds for c, _ in runs])
    return row


def growth(slides: list[Path], bundle: str, repeats: int, arguments: list[str]) -> Table:
    """How the cost grows from slide to slide."""
    names = ("tissue mm²", "nuclei per mm²", "slide to file", "whole command", "peak MB")
    table = Table(title=f"{bundle}: s/mm², {measured(repeats)}")
    for name in names:
        table.add_column(name, justify="right")
    for slide in slides:
        row = measure(slide, bundle, repeats, arguments)
        table.add_row(*(f"{row[name]:,.2f}" for name in names))
    return table


def measured(repeats: int) -> str:
    """What the numbers were measured on, and how often."""
    return f"{machine()}; " + ("one run each" if repeats == 1 else f"medians of {repeats}")


def compare(slide: Path, options: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Bundles on one slide, stage by stage, and what one would use instead."""
    table = Table(title=f"{slide.name}, {measured(options.repeats)}")
    table.add_column("s/mm²")
    results: dict[str, dict[str, float]] = {}
    for bundle in options.bundles:
        results[bundle] = measure(slide, bundle, options.repeats, options.predict_arguments)
        table.add_column(bundle, justify="right")
    rows = list(results.values())
    for name in rows[0]:
        table.add_row(name, *(f"{row[name]:,.2f}" for row in rows))
    if options.peers:
        per_nucleus = convnext_s_per_nucleus()
        peers = {
            "HoVer-Net (fast), TIAToolbox, network alone": hovernet_s_per_mm2(),
            "ConvNeXt-Base, a patch a nucleus, network alone": per_nucleus
            * rows[0]["nuclei per mm²"],
        }
        for name, seconds in peers.items():
            ratios = (seconds / row["whole command"] for row in rows)
            table.add_row(f"{name}: {seconds:.1f} s/mm², ratio", *(f"{r:.1f} x" for r in ratios))
            results[name] = {"s/mm²": seconds}
    return table, results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--area", type=float, default=10.0, help="mm² of tissue, about")
    parser.add_argument("--areas", type=float, nargs="+", help="one slide each")
    parser.add_argument("--aggregates", type=float, nargs="+", help="one slide each")
    parser.add_argument("--bundles", nargs="+", default=["he-v1-fast", "he-v1"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "lymphinfer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("predict_arguments", nargs="*", help="after --, handed to predict")
    options = parser.parse_args()
    console = Console()
    slides = [make_slide(options.cache, area) for area in options.areas or ()]
    slides += [make_slide(options.cache, options.area, a) for a in options.aggregates or ()]
    if slides:
        for bundle in options.bundles:
            console.print(growth(slides, bundle, options.repeats, options.predict_arguments))
        return
    table, results = compare(make_slide(options.cache, options.area), options)
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
