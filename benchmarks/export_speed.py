"""Speed and memory of the way from outlines to QuPath's file, on made nuclei.

    python benchmarks/export_speed.py --nuclei 200000

Goal: 1,000,000 nuclei, table to zip, in 12 s and about 300 MB on two halves of one core.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lymphinfer.cells.outlines import Rings, clean
from lymphinfer.cells.parts import read_parts, write_part
from lymphinfer.cells.table import build_table
from lymphinfer.export.geojson import FORMATS, write_geojson
from lymphinfer.panel import TCELL_PANEL

RAYS = 32
TILE = 1000
SHARD = 20_000


def made_outlines(rng: np.random.Generator, n: int) -> np.ndarray:
    """Star-convex outlines of n nuclei, radius about 12 px, on a slide 150,000 px wide."""
    angle = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)
    wave = np.arange(1, 6)[:, None]
    weights = 0.1 * rng.standard_normal((2, n, 5)) / wave.T
    radius = 12 * (1 + weights[0] @ np.cos(wave * angle) + weights[1] @ np.sin(wave * angle))
    radius = np.maximum(radius, 1) * (1 + 0.03 * rng.standard_normal((n, RAYS)))
    center = rng.uniform(0, 150_000, (n, 1, 2))
    return center + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=200_000)
    parser.add_argument("--vertices", type=int, default=16)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start, start_cpu = time.perf_counter(), time.process_time()
        yield
        cpu[stage] = cpu.get(stage, 0) + time.process_time() - start_cpu
        seconds[stage] = seconds.get(stage, 0) + time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder) / "parts"
        for shard, first in enumerate(range(0, args.nuclei, SHARD)):
            n = min(SHARD, args.nuclei - first)
            outlines = made_outlines(rng, n)
            probabilities = rng.uniform(size=(n, len(TCELL_PANEL))).astype(np.float32)
            calls = rng.integers(0, len(TCELL_PANEL.calls), n)
            with timed("clean"):
                cleaned = [clean(outlines[i : i + TILE], args.vertices) for i in range(0, n, TILE)]
                rings = Rings.concatenate([part.rings for part in cleaned])
            assert len(rings) == n
            with timed("table"):
                table = build_table(
                    TCELL_PANEL,
                    slide_identity="made",
                    bundle_sha256="0" * 64,
                    rings=rings,
                    detection_probability=probabilities[:, 0],
                    probabilities=probabilities,
                    calls=calls,
                    mpp=0.25,
                )
            with timed("part"):
                write_part(parts / f"shard-{shard:05d}.parquet", table, "benchmark")
        for fmt in FORMATS:
            with timed(fmt):
                file = write_geojson(
                    Path(folder) / "slide", read_parts(parts, TCELL_PANEL), TCELL_PANEL, fmt=fmt
                )
            print(f"{file.name:18} {file.stat().st_size / args.nuclei:6.0f} bytes a nucleus")
    for stage, value in seconds.items():
        rate = args.nuclei / value
        print(f"{stage:10} {value:7.2f} s {cpu[stage]:7.2f} s CPU {rate:12,.0f} nuclei/s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak RSS   {peak:7.0f} MB")


if __name__ == "__main__":
    main()
