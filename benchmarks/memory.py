"""Peak memory of `lymphinfer predict` on made slides of growing size.

python benchmarks/memory.py [--sides 20000 40000] [--bundle he-v1-fast]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from process import run
from rich.console import Console
from rich.table import Table

from lymphinfer.simulate.slide import write_large_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[20_000, 40_000])
    parser.add_argument("--bundle", default="he-v1-fast")
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
            cost = run(
                [sys.executable, "-m", "lymphinfer", "predict", str(slide), "--out", str(out),
                 "--bundle", arguments.bundle]
            )  # fmt: skip
            summary = json.loads((out / slide.stem / "summary.json").read_text())
            table.add_row(
                f"{side:,}",
                f"{summary['tissue_mm2']:.1f}",
                f"{summary['nuclei']:,}",
                f"{cost.peak_mb:,.0f}",
                f"{cost.seconds:.0f}",
            )
            slide.unlink()
    Console().print(table)


if __name__ == "__main__":
    main()
