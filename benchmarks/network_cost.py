"""What a bundle's networks cost: GFLOP/mm² counted, and s/mm² of the detector's network alone.

python benchmarks/network_cost.py [--bundle he-v2] [--others he-v1-fast ...] [--tile-px 1024]
    [--repeats 3] [--rounds 2] [--precision int8]

Two FLOP a multiplication of a convolution, biases and activations left out, of the tile alone: the
margins that tiles are read with come on top. The bundles take turns, so that a machine that slows
down slows all of them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_arguments import add_bundle_arguments, open_bundle
from process import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lymphinfer.bundles.loading import Bundle
from lymphinfer.nuclei.stardist.detector import StarDistDetector


@torch.inference_mode()
def gflop_per_mm2(net: nn.Module, side_px: int, mpp: float) -> float:
    """Of a network that takes (1, 3, side_px, side_px) at a pixel size in µm/px."""
    total = 0

    def add(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        taps = module.weight[0].numel()
        total += 2 * taps * output.numel()

    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_hook(add) for m in convolutions]
    net(torch.rand(1, 3, side_px, side_px))
    for hook in hooks:
        hook.remove()
    return total / 1e9 / (side_px * mpp / 1000) ** 2


def graph_gflop_per_mm2(model: Any, side_px: int, mpp: float) -> float:
    """Of a graph of OpenVINO: what a bundle computes in bytes has another count."""
    model = model.clone()
    model.reshape([1, side_px, side_px, 3])
    total = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution":
            taps = int(np.prod(list(node.input(1).get_shape())[1:]))
            total += 2 * taps * int(np.prod(list(node.output(0).get_shape())))
    return total / 1e9 / (side_px * mpp / 1000) ** 2


def detector_of(bundle: Bundle) -> StarDistDetector:
    """Of a bundle whose detector is a StarDist on the CPU."""
    found = bundle.own_detector
    if not isinstance(found, StarDistDetector):
        raise SystemExit(f"{bundle.manifest.name}: its detector is no StarDist")
    return found


@torch.inference_mode()
def seconds(detector: StarDistDetector, side_px: int, repeats: int) -> float:
    """Best of some passes over a square."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, side_px, side_px, 3), dtype=np.uint8)
    run = detector.engine.predict
    run(pixels)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        run(pixels)
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser, "he-v2")
    parser.add_argument("--others", nargs="*", default=[], metavar="BUNDLE")
    parser.add_argument("--tile-px", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    bundles = []
    for name in (arguments.bundle, *arguments.others):
        found = argparse.Namespace(**vars(arguments) | {"bundle": name})
        bundles.append(open_bundle(found, trainable=arguments.precision != "int8"))
    best = [float("inf")] * len(bundles)
    side = arguments.tile_px
    for _ in range(arguments.rounds):
        for i, bundle in enumerate(bundles):
            best[i] = min(best[i], seconds(detector_of(bundle), side, arguments.repeats))
    table = Table(
        title=f"{machine()}, {torch.get_num_threads()} threads, {bundles[0].engine.runtime}"
    )
    for column in ("bundle", "parameters", "GFLOP/mm²", "s/mm²", "GFLOP/s", "far GFLOP/mm²"):
        table.add_column(column, justify="right")
    for bundle, took in zip(bundles, best, strict=True):
        detector = detector_of(bundle)
        mpp = bundle.manifest.mpp * detector.scale**-1
        graph = getattr(detector.engine, "run", None)
        if detector.net is None and graph is not None:
            cost, parameters = graph_gflop_per_mm2(graph.model, side, mpp), ""
        else:
            cost = gflop_per_mm2(detector.net, side, mpp)
            parameters = f"{sum(p.numel() for p in detector.net.parameters()):,}"
        per_mm2 = took / (side * mpp / 1000) ** 2
        far = bundle.markers.far
        table.add_row(
            Path(bundle.manifest.folder).name,
            parameters,
            f"{cost:,.0f}",
            f"{per_mm2:.2f}",
            f"{cost / per_mm2:.0f}",
            ""
            if far is None or far.engine.net is None
            else f"{gflop_per_mm2(far.engine.net, 512, far.mpp):.0f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
