"""Proposed gates of CRC01 as one slide: ``python -m recipes.orion_crc01.gates --slide …``.

Prints each marker's gate, its positive share beside the published one, and how far the hierarchy
comes out of the gates by itself. **One patient.**
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lymphinfer.orion.celltable import CellTable
from lymphinfer.orion.cohort_file import ImageTable
from lymphinfer.orion.labels import NEGATIVE, POSITIVE, apply_gate
from lymphinfer.orion.propose import propose_slide
from lymphinfer.panel import PANELS
from recipes.he.bundle import FREQUENCY
from recipes.he.crc01 import TiledSlide, read_slide
from recipes.orion_crc01.cohort import IMAGES, SATURATION


def report(slide: TiledSlide, panel_name: str) -> list[str]:
    """A line a marker, as Markdown."""
    panel = PANELS[panel_name]
    x, y = slide.xy.astype(np.float64).T
    values = {name: v.astype(np.float64) for name, v in slide.values.items()}
    cells = CellTable(slide.folder, np.arange(1, len(x) + 1), x, y, values)
    image = ImageTable(channels=IMAGES, saturation=SATURATION)
    gates, _ = propose_slide(cells, panel, image=image)
    labels = {m: apply_gate(values[m], gates.markers[m]) for m in panel.names}
    lines = [
        "| marker | negative below | positive from | positive | published | parent positive "
        "| parent negative |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for marker in panel.markers:
        gate, own = gates.markers[marker.name], labels[marker.name]
        known = FREQUENCY.get(marker.name)
        parents = ["-", "-"]
        if marker.parent is not None:
            above = labels[marker.parent][own == POSITIVE]
            parents = [f"{(above == value).mean():.3f}" for value in (POSITIVE, NEGATIVE)]
        lines.append(
            f"| {marker.name} | {gate.negative_max:g} | {gate.positive_min:g} | "
            f"{(own == POSITIVE).mean():.3f} | {'-' if known is None else f'{known:.3f}'} | "
            f"{parents[0]} | {parents[1]} |"
        )
    return lines


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path, required=True, help="tiles and cells.parquet")
    parser.add_argument("--panel", default="t-cell", choices=list(PANELS))
    args = parser.parse_args()
    slide = read_slide(args.slide)
    print(f"{len(slide.xy):,} nuclei of one slide of ONE patient\n")
    print("\n".join(report(slide, args.panel)))


if __name__ == "__main__":
    main()
