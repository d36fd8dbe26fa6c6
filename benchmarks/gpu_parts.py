"""Parts of a prediction by themselves, on one tile: networks, copies, and what the CPU does."""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lymphinfer.bundles.loading import Bundle
from lymphinfer.cells.outlines import clean
from lymphinfer.nuclei.stardist.infer import to_input
from lymphinfer.slides import open_slide

Row = dict[str, Any]
TILE_PX = 2048


def a_tile(options: argparse.Namespace, bundle: Bundle) -> NDArray[np.uint8]:
    """Pixels of a tile with its halo, from the middle of the slide."""
    side = min(TILE_PX, options.tile) + 2 * bundle.halo_px
    with open_slide(options.slide, None) as slide:
        width, height = slide.dimensions_at(bundle.manifest.mpp)
        return slide.read_region(width // 2 - side // 2, height // 2 - side // 2, side, side,
                                 bundle.manifest.mpp)  # fmt: skip


def seconds_of(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median time of one call, the device's work included."""
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    was, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = was


@torch.inference_mode()
def networks(
    options: argparse.Namespace,
    bundle: Bundle,
    left: Callable[[], float],
    compiled: bool = False,
) -> list[Row]:
    """The detector's network alone, on pixels that lie on the device."""
    net: Any = (
        bundle.detector.reader.net if hasattr(bundle.detector, "reader") else bundle.detector.net
    )  # type: ignore[attr-defined]
    pixels = a_tile(options, bundle)
    core_mm2 = (min(TILE_PX, options.tile) * bundle.manifest.mpp / 1000) ** 2
    on_gpu = options.device == "cuda"
    flop = _flop(net, pixels.shape)
    rows = []
    kinds: list[tuple[str, torch.dtype | None, int, bool, str]] = [("fp32", None, 1, False, "")]
    if on_gpu:
        bf16, fp16 = torch.bfloat16, torch.float16
        kinds = [("bf16", bf16, n, False, "") for n in (1, 2, 4)]
        kinds += [("fp16", fp16, 1, False, ""), ("bf16", bf16, 1, True, ""),
                  ("bf16", bf16, 1, False, "half weights"),
                  ("fp32", None, 1, False, "")]  # fmt: skip
        if compiled:
            kinds = [("bf16", bf16, 1, False, "torch.compile")]
    for name, dtype, batch, benchmark, how in kinds:
        if left() < 15 and rows:
            break
        x = to_input(np.repeat(pixels[None], batch, 0), net.config.stride).to(options.device)
        called = net
        if how == "half weights":
            called, x, dtype = copy.deepcopy(net).to(dtype), x.to(dtype), None
        elif how == "torch.compile":
            called = torch.compile(net)
        half = torch.autocast(options.device, dtype=dtype) if dtype is not None else nullcontext()
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with half, cudnn_benchmark(benchmark):
            first = seconds_of(lambda: called(x), options.device, 1)  # noqa: B023
            warm = seconds_of(lambda: called(x), options.device, 8 if on_gpu else 1)  # noqa: B023
        row = {"precision": name, "batch": batch, "cudnn.benchmark": benchmark, "how": how,
               "input_px": list(pixels.shape[:2]), "first_call_s": first,
               "ms a tile": warm / batch * 1e3, "s/mm² of core": warm / batch / core_mm2,
               "TFLOP/s": flop * batch / warm / 1e12}  # fmt: skip
        if on_gpu:
            row["peak_device_mb"] = torch.cuda.max_memory_allocated() / 2**20
        rows.append(row)
    return rows


def _flop(net: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """Operations of one tile, a multiply-add as two, from those of a small one."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(net.parameters()).device
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 256, 256, device=device))
    return counter.get_total_flops() * shape[0] * shape[1] / 256**2


@torch.inference_mode()
def copies(options: argparse.Namespace, bundle: Bundle) -> Row:
    """A tile to the device, and a dense prediction's bytes back."""
    pixels = torch.from_numpy(a_tile(options, bundle).copy())
    side = pixels.shape[0] // 2
    maps = torch.zeros(1 + 32 + 32, side, side, device=options.device)
    pinned_in, pinned_out = pixels.pin_memory(), torch.empty(maps.shape, pin_memory=True)
    times = {
        "tile up": seconds_of(lambda: pixels.to(options.device), options.device, 5),
        "tile up, pinned": seconds_of(lambda: pinned_in.to(options.device), options.device, 5),
        "maps down": seconds_of(lambda: maps.cpu(), options.device, 5),
        "maps down, pinned": seconds_of(lambda: pinned_out.copy_(maps), options.device, 5),
        "tile to float by the CPU": seconds_of(
            lambda: to_input(pixels.numpy()[None], 16), options.device, 3),
    }  # fmt: skip
    return {"tile_mb": pixels.nbytes / 2**20, "maps_mb": maps.nbytes / 2**20,
            **{f"{name}, ms": s * 1e3 for name, s in times.items()}}  # fmt: skip


def on_the_cpu(options: argparse.Namespace, bundle: Bundle) -> list[Row]:
    """What the CPU does for a tile: tiles a second by number of threads."""
    pixels = a_tile(options, bundle)
    core_mm2 = (min(TILE_PX, options.tile) * bundle.manifest.mpp / 1000) ** 2
    dense = bundle.detector.infer(pixels)
    detection = bundle.detector.decode(dense)
    polygons = detection.polygons.astype(np.float64) * 1.3 + 1000
    rows = []
    with open_slide(options.slide, None) as slide:
        side, mpp = pixels.shape[0], bundle.manifest.mpp
        width, height = slide.dimensions_at(mpp)
        places = np.random.default_rng(0).integers(
            0, [max(1, width - side), max(1, height - side)], (64, 2))  # fmt: skip
        stages: dict[str, Callable[[int], Any]] = {
            "read": lambda i: slide.read_region(*map(int, places[i % 64]), side, side, mpp),
            "decode": lambda i: bundle.detector.decode(dense),
            "outlines": lambda i: clean(polygons),
        }
        threads = [n for n in (1, 4, 16) if n <= (os.cpu_count() or 1)]
        for stage, work in stages.items():
            for count in threads:
                with ThreadPoolExecutor(count) as pool:
                    began = time.perf_counter()
                    list(pool.map(work, range(count)))
                    took = (time.perf_counter() - began) / count
                rows.append({"stage": stage, "threads": count, "nuclei": len(detection),
                             "ms a tile": took * 1e3,
                             "s/mm² of core": took / core_mm2})  # fmt: skip
    return rows


@torch.inference_mode()
def convnext(options: argparse.Namespace, nuclei_per_mm2: float) -> list[Row]:
    """The network alone of a ConvNeXt-Base that sees 112 px around each nucleus."""
    import timm

    net = timm.create_model("convnext_base", num_classes=4).eval()
    net = net.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_gpu = options.device == "cuda"
    rows = []
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", None)) if on_gpu else (("fp32", None),):
        batch = 256 if on_gpu else 1
        x = torch.rand(batch, 3, 112, 112, device=options.device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(options.device, dtype=dtype) if dtype is not None else nullcontext():
            seconds_of(lambda: net(x), options.device, 1)  # noqa: B023
            took = seconds_of(lambda: net(x), options.device, 5 if on_gpu else 1) / batch  # noqa: B023
        rows.append({"precision": name, "batch": batch, "s a nucleus": took,
                     "s/mm² at the measured density": took * nuclei_per_mm2})  # fmt: skip
    return rows
