"""Seconds per mm² of `predict` on a GPU, stage by stage, and what keeps the GPU waiting.

python benchmarks/gpu.py --source DIR/slides/CMU-1-Small-Region.svs --seconds 480 --json gpu.json
python benchmarks/gpu.py --source DIR/consep/test --source-mpp 0.25 --device cpu --seconds 60

Makes a slide of --area mm² out of real H&E (`real_slide.py`), and measures on it: the whole command
by one process and by several that share the GPU (`--devices cuda:0,cuda:0`); the prediction within
a process, cold and warm, with the time that the GPU spends in the networks; each network alone by
precision and batch; copies to and from the GPU; what the CPU does for a tile, by number of threads;
and one ConvNeXt-Base patch a nucleus on the same GPU. A part begins only where the seconds that are
left allow it, and --json holds after each part what was measured so far. With --device cpu all of
it runs as a rehearsal, on an area that a CPU can do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from gpu_parts import TILE_PX, Row, convnext, copies, networks, on_the_cpu
from gpu_watch import Watch, card, timed_networks
from process import machine, run
from real_slide import tissue, write_mosaic

from lymphinfer import transfers
from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.engine import choose_engine
from lymphinfer.predict.settings import PredictSettings


class Report:
    """What was measured, by part; written after each."""

    def __init__(self, path: Path | None, seconds: float):
        self.path, self.ends = path, time.monotonic() + seconds
        self.parts: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.ends - time.monotonic()

    def part(self, name: str, needs_s: float, work: Callable[[], Any]) -> Any:
        """Do a part if there is time for it; one that fails does not end the rest."""
        began, result = time.monotonic(), None
        if self.left < needs_s:
            self.parts[name] = f"left out: {self.left:.0f} s left of the {needs_s:.0f} it may take"
        else:
            try:
                result = self.parts[name] = work()
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                self.parts[name] = f"failed: {type(error).__name__}: {error}"
        print(f"== {name} ({time.monotonic() - began:.1f} s)", flush=True)
        print(json.dumps(self.parts[name], indent=1, default=str), flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.parts, indent=1, default=str) + "\n")
        return result


def make_slide(options: argparse.Namespace) -> Row:
    """Write the slide of the area."""
    side = round(options.area**0.5 * 1000 / options.mpp)
    began = time.perf_counter()
    piece = tissue(options.source, options.source_mpp, options.mpp)
    size = write_mosaic(options.slide, piece, (side, side), options.mpp)
    piece_mm2 = piece.shape[0] * piece.shape[1] * (options.mpp / 1000) ** 2
    return {"source": options.source.name, "piece_mm2": round(piece_mm2, 3), "side_px": side,
            "mpp": options.mpp, "file_mb": size / 2**20,
            "seconds": time.perf_counter() - began}  # fmt: skip


def by_area(summary: Row, wall: float) -> Row:
    """A prediction's cost per mm² of tissue."""
    area = summary["tissue_mm2"]
    stages = {f"{name} s/mm²": s / area for name, s in summary["seconds"].items()}
    return {"tissue_mm2": area, "nuclei": summary["nuclei"],
            "nuclei per mm²": summary["nuclei"] / area, "wall_s": wall, "s/mm²": wall / area,
            "slide to file s/mm²": summary["seconds"]["total"] / area,
            "stages, summed over threads": stages,
            "precision": summary["arguments"]["precision"]}  # fmt: skip


def whole_command(options: argparse.Namespace, processes: int, slides: int = 1) -> Row:
    """`lymphinfer predict` from nothing, by several processes on the device."""
    out = Path(tempfile.mkdtemp(prefix="gpu-"))
    source, stem = options.slide, options.slide.stem
    if slides > 1:
        source = out / "slides"
        source.mkdir()
        for number in range(slides):
            shutil.copyfile(options.slide, source / f"{stem}-{number}.svs")
    name = "cuda:0" if options.device == "cuda" else options.device
    workers = options.workers or max(2, (os.cpu_count() or 2) // processes + 1)
    command = [sys.executable, "-m", "lymphinfer", "predict", str(source),
               "--out", str(out / "found"), "--bundle", options.bundle,
               "--precision", options.precision, "--workers", str(workers)]  # fmt: skip
    command += ["--device", name] if processes == 1 else ["--devices", ",".join([name] * processes)]
    try:
        with Watch(options.device) as watch:
            cost = run(command, dict(os.environ))
        found = [json.loads(p.read_text()) for p in (out / "found").rglob("summary.json")]
    finally:
        shutil.rmtree(out, ignore_errors=True)
    found = [each for each in found if "tissue_mm2" in each]
    if len(found) != slides:
        raise SystemExit(f"{len(found)} of {slides} slides have a summary")
    names = found[0]["seconds"]
    summary = {
        **found[0],
        "tissue_mm2": sum(each["tissue_mm2"] for each in found),
        "nuclei": sum(each["nuclei"] for each in found),
        "seconds": {n: sum(each["seconds"].get(n, 0.0) for each in found) for n in names},
    }
    return {"slides": slides, "processes": processes, "workers a process": workers,
            **by_area(summary, cost.seconds),
            "cores busy": cost.cpu_seconds / cost.seconds,
            "core-seconds/mm²": cost.cpu_seconds / summary["tissue_mm2"],
            "peak_host_mb": cost.peak_mb, **watch.found()}  # fmt: skip


def a_folder(options: argparse.Namespace, processes: int) -> Row:
    """The same area as a folder of small slides, each the work of one process."""
    small = argparse.Namespace(**vars(options))
    small.area = options.area / options.slides
    small.slide = options.cache / f"gpu-{small.area:g}.svs"
    make_slide(small)
    try:
        return whole_command(small, processes, options.slides)
    finally:
        small.slide.unlink()


def in_process(options: argparse.Namespace, bundle: Bundle) -> Row:
    """A prediction by a bundle that is loaded, with the device's time in each network."""
    out = Path(tempfile.mkdtemp(prefix="gpu-"))
    on_gpu = options.device == "cuda"
    workers = options.workers or max(2, (os.cpu_count() or 2) - 1)
    settings = PredictSettings(bundle=options.bundle, device=options.device,
                               precision=options.precision, workers=workers)  # fmt: skip
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    me = psutil.Process()
    try:
        with Watch(options.device) as watch, timed_networks(bundle) as spent:
            cpu, began = sum(me.cpu_times()[:2]), time.perf_counter()
            result = predict_slide(options.slide, out / "slide", settings=settings, bundle=bundle)
            wall, cpu = time.perf_counter() - began, sum(me.cpu_times()[:2]) - cpu
    finally:
        shutil.rmtree(out, ignore_errors=True)
    area = result.summary["tissue_mm2"]
    row = {"workers": workers, **by_area(result.summary, wall), "cores busy": cpu / wall,
           "core-seconds/mm²": cpu / area, **watch.found()}  # fmt: skip
    if on_gpu:
        row |= {f"device s/mm² in {name}": s / area for name, s in spent().items()}
        row["device share in networks"] = sum(spent().values()) / wall
        row["peak_device_mb, torch"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def waiting(options: argparse.Namespace, bundle: Bundle) -> Row:
    """The same with no copy beside the device's work."""
    transfers.OVERLAP = False
    try:
        return in_process(options, bundle)
    finally:
        transfers.OVERLAP = True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="a slide, or a folder of images")
    parser.add_argument("--source-mpp", type=float, help="µm/px of the images")
    parser.add_argument("--mpp", type=float, default=0.25, help="µm/px of the slide that is made")
    parser.add_argument("--area", type=float, help="mm² of it; 64 on a GPU, 0.5 on a CPU")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--bundle", default="he-v2")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--processes", type=int, nargs="+", help="8 4 1 on a GPU, 1 on a CPU")
    parser.add_argument(
        "--workers", type=int, help="threads a process; by default all cores' worth"
    )
    parser.add_argument("--tile", type=int, default=TILE_PX, help="of the parts on one tile, px")
    parser.add_argument("--seconds", type=float, default=480, help="for all of it")
    parser.add_argument("--slides", type=int, default=8, help="of a folder, on a GPU; 1: leave out")
    parser.add_argument("--brief", action="store_true", help="the whole commands alone")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "lymphinfer")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.area = options.area or (64.0 if on_gpu else 0.5)
    options.processes = options.processes or ([8, 4, 1] if on_gpu else [1])
    options.cache.mkdir(parents=True, exist_ok=True)
    options.slide = options.cache / f"gpu-{options.area:g}.svs"
    engine = choose_engine(options.device, options.precision)
    report = Report(options.json, options.seconds)
    report.part("machine", 0, lambda: {
        "cpu": machine(), "torch": torch.__version__, "precision": engine.precision,
        "runtime": engine.runtime, **card(options.device),
    })  # fmt: skip
    if report.part("slide", 0, lambda: make_slide(options)) is None:
        raise SystemExit(1)
    began = time.perf_counter()
    bundle = load_bundle(options.bundle, engine=engine)
    report.parts["machine"]["bundle_loaded_s"] = time.perf_counter() - began

    area, cold = options.area, None
    if not options.brief:
        cold = report.part("predict in this process, cold", 2 * area if on_gpu else 0,
                           lambda: in_process(options, bundle))  # fmt: skip
    estimate = 1.5 * cold["wall_s"] + 15 if cold else 2 * area
    if not options.brief:
        if on_gpu:
            report.part("predict in this process, warm", estimate,
                        lambda: in_process(options, bundle))  # fmt: skip
            report.part("copies", 5, lambda: copies(options, bundle))
        report.part("what the CPU does for a tile", 20 if on_gpu else 0,
                    lambda: on_the_cpu(options, bundle))  # fmt: skip
        report.part("detector's network alone", 20 if on_gpu else 0,
                    lambda: networks(options, bundle, lambda: report.left))  # fmt: skip
        density = cold["nuclei per mm²"] if cold else 5500.0
        report.part("ConvNeXt-Base, a patch a nucleus, network alone", 15,
                    lambda: convnext(options, density))  # fmt: skip
        report.parts["TIAToolbox"] = "not measured here"
        if on_gpu:
            torch.cuda.empty_cache()
    for count in options.processes:
        needs = 0 if options.brief or not on_gpu else 20 + estimate / min(count, 3)
        report.part(f"lymphinfer predict, {count} processes", needs,
                    lambda n=count: whole_command(options, n))  # type: ignore[misc]  # fmt: skip
    if on_gpu and not options.brief:
        report.part("predict in this process, every copy waited for", estimate,
                    lambda: waiting(options, bundle))  # fmt: skip
        count = max(options.processes)
        if options.slides > 1:
            report.part(f"lymphinfer predict, {options.slides} slides of as much by {count} "
                        "processes", 30 + estimate / 3,
                        lambda: a_folder(options, count))  # fmt: skip
        report.part("torch.compile", 60,
                    lambda: networks(options, bundle, lambda: report.left, True))  # fmt: skip
    with suppress(OSError):
        options.slide.unlink()


if __name__ == "__main__":
    main()
