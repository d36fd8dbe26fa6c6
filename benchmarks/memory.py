"""Peak memory of `lymphinfer predict` on made slides of growing size.

python benchmarks/memory.py [--sides 20000 40000] [--bundle he-v1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from lymphinfer.simulate.slide import write_large_slide


def peak_mb(command: list[str]) -> tuple[float, float]:
    """Peak resident memory of a command's process tree, MB, and its seconds."""
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            members = [tree, *tree.children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in members) / 2**20)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return peak, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[20_000, 40_000])
    parser.add_argument("--bundle", default="he-v1")
    parser.add_argument("--mpp", type=float, default=0.325)
    arguments = parser.parse_args()
    table = Table(title=f"peak memory of predict, {arguments.bundle}")
    for name in ("side px", "tissue mm²", "nuclei", "peak MB", "s"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for side in arguments.sides:
            slide = Path(folder) / f"made-{side}.svs"
            write_large_slide(slide, side, mpp=arguments.mpp)
            out = Path(folder) / "out"
            peak, seconds = peak_mb(
                [sys.executable, "-m", "lymphinfer", "predict", str(slide), "--out", str(out),
                 "--bundle", arguments.bundle]
            )  # fmt: skip
            summary = json.loads((out / slide.stem / "summary.json").read_text())
            table.add_row(
                f"{side:,}",
                f"{summary['tissue_mm2']:.1f}",
                f"{summary['nuclei']:,}",
                f"{peak:,.0f}",
                f"{seconds:.0f}",
            )
            slide.unlink()
    Console().print(table)


if __name__ == "__main__":
    main()
