"""How long ``lymphinfer regions`` takes, and how much memory, on a made slide of many nuclei.

python benchmarks/regions.py --nuclei 1000000
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import shapely

from lymphinfer.cells.areas import Areas, write_areas
from lymphinfer.cells.outlines import clean
from lymphinfer.cells.parts import write_part
from lymphinfer.cells.table import build_table
from lymphinfer.export.results import open_result
from lymphinfer.export.summary import Counts, summarise, write_summary
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.regions import RegionOptions, read_margins, write_regions

SIZE, MPP, PART = (80_000, 60_000), 0.5, 25_000


def make_result(folder: Path, number: int) -> None:
    """Write a result folder of square nuclei, from top to bottom."""
    rng = np.random.default_rng(0)
    counts = Counts(TCELL_PANEL)
    for part in range(-(-number // PART)):
        n = min(PART, number - part * PART)
        top = SIZE[1] * part * PART / number
        height = SIZE[1] * n / number
        corners = np.round(rng.uniform((0, top), (SIZE[0] - 9, top + height - 9), (n, 2)), 2)
        square = np.array([[0, 0], [8, 0], [8, 8], [0, 8]], float)
        rings = clean(corners[:, None] + square).rings
        p = np.sort(rng.beta(0.4, 1.2, (len(rings), 4)), axis=1)[:, ::-1]
        table = build_table(
            TCELL_PANEL, slide_identity="made", bundle_sha256="00" * 32, rings=rings,
            detection_probability=np.ones(len(rings)), probabilities=p,
            calls=np.where(p[:, 0] > 0.5, 2, 0), mpp=MPP,
        )  # fmt: skip
        counts.add(table)
        write_part(folder / "parts" / f"shard-{part:04d}.parquet", table, "mark")
    evidence = {name: {"evidence": "stain", "called": True} for name in TCELL_PANEL.names}
    summary = summarise(
        counts, tissue_mm2=1.0, bundle={"name": "made"}, evidence=evidence, seconds={},
        slide={"name": "made.svs", "identity": "made", "mpp": MPP, "dimensions": list(SIZE)},
        arguments={"format": "zip", "fingerprint": "mark"},
    )  # fmt: skip
    write_summary(folder / "summary.json", summary | {"file": "made.zip"})
    write_areas(folder, Areas(shapely.box(0, 0, *SIZE), shapely.MultiPolygon()))


def write_annotations(path: Path) -> None:
    """Write a tumour with a border of 3,000 points, and twelve rectangles."""
    rng = np.random.default_rng(1)
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    radius = 15_000 + 1500 * np.sin(40 * angle) + rng.normal(0, 30, 3000)
    ring = np.stack([40_000 + radius * np.cos(angle), 30_000 + radius * np.sin(angle)], axis=1)
    shapes = [("Tumor", shapely.Polygon(ring).buffer(0))]
    shapes += [("Stroma", shapely.box(x, 1000, x + 3000, 9000)) for x in range(1000, 60_000, 5000)]
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(shape),
         "properties": {"objectType": "annotation", "classification": {"name": name}}}
        for name, shape in shapes
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made"
        make_result(folder, arguments.nuclei)
        write_annotations(Path(name) / "annotations.geojson")
        began, used = time.perf_counter(), time.process_time()
        options = RegionOptions(read_margins(["Tumor:100,500"]))
        done = write_regions(open_result(folder), Path(name) / "annotations.geojson", options)
        wall, cpu = time.perf_counter() - began, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.nuclei:,} nuclei, {len(done.record['rows'])} regions")
    print(f"{wall:.1f} s, of them {cpu:.1f} s of one core; peak {peak:,.0f} MB")


if __name__ == "__main__":
    main()
