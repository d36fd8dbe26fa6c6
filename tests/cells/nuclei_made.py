"""Made nuclei for the tests of tables and their views."""

import numpy as np

from lymphinfer.cells.outlines import clean
from lymphinfer.cells.table import build_table
from lymphinfer.panel import TCELL_PANEL


def outlines(n, seed=0, spread=150_000):
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radius = 12 + 2 * np.cos(2 * angle + rng.uniform(0, 6, (n, 1)))
    return radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1) + rng.uniform(
        50, spread, (n, 1, 2)
    )


def nuclei(polygons, seed=0, panel=TCELL_PANEL, **changes):
    cleaned = clean(polygons)
    n = len(cleaned.rings)
    rng = np.random.default_rng(seed)
    values = {
        "slide_identity": "slide-1",
        "bundle_sha256": "ab" * 32,
        "rings": cleaned.rings,
        "detection_probability": rng.uniform(0.4, 1, n),
        "probabilities": np.sort(rng.uniform(0, 1, (n, len(panel))))[:, ::-1],
        "calls": np.arange(n) % len(panel.calls),
        "mpp": 0.25,
    }
    return build_table(panel, **{**values, **changes})
