"""Whether `predict --nuclei` says of its own exported nuclei what `predict` has said.

    python benchmarks/given.py ../shared/data/slides/CMU-1-Small-Region.svs --bundle he-v2

Predicts the slide, gives the file for QuPath back as nuclei, and compares their probabilities.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from lymphinfer.batch.single import predict_slide
from lymphinfer.cells.table import read_ids
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings

WITHIN = 0.02


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--bundle", default="he-v2")
    parser.add_argument("--roi", help="annotations that limit the work")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        settings = PredictSettings(bundle=asked.bundle, roi=asked.roi)
        first = predict_slide(asked.slide, Path(made) / "found", settings=settings)
        given = replace(settings, nuclei=str(first.file))
        second = predict_slide(asked.slide, Path(made) / "given", settings=given)
        tables = []
        for result in (open_result(first.folder), open_result(second.folder)):
            parts = list(result.tables())
            ids = np.concatenate([read_ids(part) for part in parts])
            order = np.lexsort(ids.T)
            columns = {
                m.name: np.concatenate([part.column(f"p_{m.key}").to_numpy() for part in parts])
                for m in result.panel.markers
            }
            tables.append((ids[order], {name: p[order] for name, p in columns.items()}))
    (ids, found), (same, again) = tables
    equal = ids.shape == same.shape and bool((ids == same).all())
    print(f"{asked.bundle}: {len(ids):,} nuclei, {len(same):,} given; ids the same: {equal}")
    for name, p in found.items() if equal else ():
        change = np.abs(p - again[name])
        print(
            f"  {name}: {np.mean(change <= WITHIN):.1%} within {WITHIN}, 99 % within "
            f"{np.quantile(change, 0.99):.3f}, most {change.max():.3f}"
        )


if __name__ == "__main__":
    main()
