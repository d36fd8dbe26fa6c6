"""Cells measured on the IF against CRC01's table: ``python -m recipes.orion_crc01.quantified``.

Measures the nuclei of one column of a cohort of `recipes.orion_crc01.cohort` as `lymphinfer cohort
quantify` does, and prints how alike both rank them. The table's means are whole numbers, so ours
are rounded, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from lymphinfer.cohorts.quantify import MaskLabels, measure
from lymphinfer.orion.celltable import read_cells
from lymphinfer.orion.cohort import open_cohort
from recipes.orion_crc01.cohort import IMAGES


def rank_correlations(cohort: Path, slide_name: str) -> dict[str, float]:
    """Spearman's correlation of each channel whose picture is at hand, over all nuclei."""
    (slide,) = open_cohort(cohort).only((slide_name,)).slides
    if slide.mask is None:
        raise SystemExit(f"{cohort}: {slide_name} has no mask")
    names = [name for name in IMAGES if name in slide.layout.table_channels]
    channels = [IMAGES.index(name) for name in names]
    table = read_cells(slide.cells, names, slide.table_format)
    labels = MaskLabels(slide.mask)
    with slide.open_if() as planes:
        sums = measure(labels, planes, channels)
    labels.close()
    own = table.cell_id[sums.count[table.cell_id] > 0]
    rows = np.searchsorted(table.cell_id, own)
    means = np.rint(sums.channels[own] / sums.count[own, None])
    return {
        name: float(spearmanr(means[:, i], table.intensities[name][rows]).statistic)
        for i, name in enumerate(names)
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--slide", default="column-04")
    args = parser.parse_args()
    for name, value in rank_correlations(args.cohort, args.slide).items():
        print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
