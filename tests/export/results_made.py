"""Made result folders: what predict leaves, without a network and, if wanted, with a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lymphinfer.cells.parts import write_part
from lymphinfer.export.results import open_result
from lymphinfer.export.summary import Counts, summarise, write_summary
from lymphinfer.panel import TCELL_PANEL
from tests.cells.nuclei_made import nuclei

EVIDENCE = {
    "CD45": {"evidence": "stain", "statement": "stain, 4 patients, AUROC 0.942 (0.920-0.964): made",
             "source": "made", "auroc": 0.942, "auroc_interval": [0.92, 0.964]},
    "CD3e": {"evidence": "base-rate", "statement": "base-rate: a base rate of 0.38; never called",
             "source": "made", "rate": 0.38, "rate_range": [0.16, 0.6]},
    "CD4": {"evidence": "base-rate", "statement": "base-rate: a base rate of 0.61; never called",
            "source": "made", "rate": 0.61, "rate_range": []},
    "CD8a": {"evidence": "base-rate", "statement": "base-rate: a base rate of 0.46; never called",
             "source": "made", "rate": 0.46, "rate_range": []},
}  # fmt: skip
STAIN = {
    name: {"evidence": "stain", "statement": f"stain, one patient, AUROC 0.9: {name}",
           "source": "made", "called": name != "CD8a", "patients": 1}
    for name in TCELL_PANEL.names
}  # fmt: skip
BALANCED = {
    "name": "balanced",
    "statement": "balanced: CD45 from 0.40 (precision 0.70, recall 0.75)",
    "markers": {"CD45": {"threshold": 0.4, "precision": 0.7, "recall": 0.75}},
}
SIMULATED = {
    name: {"evidence": "simulated", "statement": "simulated, AUROC 0.90: made", "source": "made"}
    for name in TCELL_PANEL.names
}
RATES = np.array([1, 0.38, 0.38 * 0.61, 0.38 * 0.46])


def circles(centers, radius=12.0):
    """Outlines of nuclei, (N, 32, 2), level-0 px."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.asarray(centers)[:, None] + radius * ring


def made_nuclei(centers, cd45, seed=0, calls=None, **changes):
    """A table of round nuclei whose CD3e, CD4 and CD8a are base rates of CD45."""
    cd45 = np.asarray(cd45, float)
    called = (cd45 >= 0.5).astype(int) if calls is None else calls
    return nuclei(
        circles(centers), seed, probabilities=cd45[:, None] * RATES, calls=called, **changes
    )


def made_result(folder: Path, tables, *, name="lung.svs", dimensions=(2000, 1500), mpp=0.25,
                evidence=None, identity="abc", bounds_offset=(0, 0), tissue_mm2=0.15,
                warnings=(), crop=True, file=True, point=None):  # fmt: skip
    """Write parts and a summary as predict does, and open them."""
    for i, table in enumerate(tables):
        write_part(folder / "parts" / f"shard-{i:04d}-0000.parquet", table, "mark")
    stem = name.rpartition(".")[0]
    summary = summarise(
        Counts(TCELL_PANEL).add_all(tables),
        tissue_mm2=tissue_mm2,
        slide={"name": name, "identity": identity, "reader": "openslide:aperio",
               "dimensions": list(dimensions), "mpp": mpp, "mpp_source": "metadata",
               "bounds_offset": list(bounds_offset)},
        bundle={"name": "he-v1", "version": "1", "sha256": "ab" * 32},
        evidence=EVIDENCE if evidence is None else evidence,
        arguments={"bundle": "he-v1", "format": "zip", "hierarchy": "conditional",
                   "crop_to_bounds": crop, "fingerprint": "mark", "device": "cpu"},
        seconds={"tissue": 0.1, "detect": 1.2, "total": 2.0},
        warnings=warnings,
    )  # fmt: skip
    if point is not None:
        summary["operating_point"] = point
    summary["file"] = f"{stem}.zip"
    summary["shards"] = {"total": len(tables), "resumed": 0}
    write_summary(folder / "summary.json", summary)
    return open_result(folder)


def spread_centers(n, seed=0, dimensions=(2000, 1500), margin=20):
    """Centres at least two diameters apart, on the 0.01 px grid."""
    rng = np.random.default_rng(seed)
    step = 40
    xs = np.arange(margin, dimensions[0] - margin, step)
    ys = np.arange(margin, dimensions[1] - margin, step)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(float)
    grid = grid[rng.permutation(len(grid))[:n]]
    return np.round(grid + rng.uniform(0, 8, grid.shape), 2)
