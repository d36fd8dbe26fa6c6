"""Where cells stand, and which types are likely there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.simulate.celltypes import TYPE_NAMES, TYPES
from lymphinfer.simulate.layout import Layout, poisson_disc

Array = NDArray[np.float64]

CONTEXTS: tuple[str, ...] = ("stroma", "aggregate", "gland", "tumour", "vessel")

# Least distance of two nuclei (µm) and candidates per µm² before thinning, by context.
_SPACING_UM = np.array([7.2, 5.8, 5.9, 7.6, 8.5])
_CANDIDATES = np.array([0.0065, 0.14, 0.20, 0.09, 0.25])

# Relative frequency of each type in each context, columns as CONTEXTS.
_WEIGHTS: dict[str, tuple[float, ...]] = {
    "epithelial": (0.0, 0.0, 1.0, 0.02, 0.0),
    "tumour": (0.02, 0.0, 0.0, 1.0, 0.0),
    "fibroblast": (1.0, 0.08, 0.0, 0.01, 0.10),
    "endothelial": (0.07, 0.03, 0.0, 0.0, 1.0),
    "macrophage": (0.14, 0.04, 0.004, 0.02, 0.02),
    "neutrophil": (0.05, 0.01, 0.005, 0.02, 0.03),
    "plasma": (0.20, 0.05, 0.002, 0.003, 0.01),
    "b-cell": (0.05, 0.70, 0.002, 0.003, 0.01),
    "t-cell": (0.12, 0.30, 0.010, 0.008, 0.01),
    "t-cell-cd4": (0.10, 0.30, 0.004, 0.006, 0.01),
    "t-cell-cd8": (0.08, 0.12, 0.020, 0.020, 0.01),
}


@dataclass(frozen=True)
class Sites:
    """Places for nuclei.

    Attributes
    ----------
    y, x : ndarray of float64, (cells,)
        Centres, fine px (pixel centres at integers).
    context : ndarray of intp, (cells,)
        Index in `CONTEXTS`.
    angle : ndarray of float64, (cells,)
        Direction of a long nucleus' major axis, from x to y, radians.
    """

    y: Array
    x: Array
    context: NDArray[np.intp]
    angle: Array

    def __len__(self) -> int:
        return len(self.y)


def _contexts(layout: Layout) -> NDArray[np.intp]:
    """Context of each coarse pixel, -1 where no nucleus may stand."""
    depth, height, vessel = layout.depth, layout.height, layout.vessel
    context = np.zeros(depth.shape, np.intp)
    context[layout.aggregate > 0] = CONTEXTS.index("aggregate")
    context[vessel > -2.5] = -1
    context[(vessel > 0.5) & (vessel < 2.2)] = CONTEXTS.index("vessel")
    tumour = layout.tumour > 0
    normal_row = (depth > 4.8) & (depth < 8.6) & ~tumour
    layers = (depth > 4.5) & (depth < height - 7.0) & tumour
    context[depth > -3.5] = -1
    context[normal_row] = CONTEXTS.index("gland")
    context[layers] = CONTEXTS.index("tumour")
    context[layout.tissue < 4] = -1
    return context


def place_sites(rng: np.random.Generator, layout: Layout, mpp: float) -> Sites:
    """Scatter nuclei over a layout.

    Places do not depend on the types that will stand there, so that the type is conditionally
    independent of everything else given the context.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    layout : Layout
        Regions.
    mpp : float
        Size of a fine pixel, µm.

    Returns
    -------
    Sites
    """
    context_map = _contexts(layout)
    rate = np.where(context_map >= 0, _CANDIDATES[context_map], 0.0) * layout.coarse_um**2
    # Loose stroma holds fewer cells than dense.
    stroma = context_map == 0
    rate[stroma] *= np.exp(-0.55 * layout.loose[stroma])
    counts = rng.poisson(rate)
    flat = np.repeat(np.arange(counts.size), counts.ravel())
    row, column = np.divmod(flat, context_map.shape[1])
    y = row + rng.random(len(flat))
    x = column + rng.random(len(flat))
    context = context_map.ravel()[flat]
    keep = poisson_disc(rng, y, x, _SPACING_UM[context] / layout.coarse_um)
    y, x, context, flat = y[keep], x[keep], context[keep], flat[keep]
    angle = layout.angle.ravel()[flat].astype(np.float64)
    spread = np.array([0.22, 1.6, 0.10, 0.22, 0.12])[context]
    return Sites(
        y=y * layout.factor - 0.5,
        x=x * layout.factor - 0.5,
        context=context,
        angle=angle + spread * rng.standard_normal(len(angle)),
    )


def type_prior(
    context: NDArray[np.intp], marker_share: dict[str, float], *, iterations: int = 60
) -> Array:
    """Probability of each type in each context such that markers have the asked frequency.

    The relative frequencies of this module are scaled by iterative proportional fitting: rows
    (contexts) sum to 1, and over the given cells each group of types with the same markers has its
    asked share.

    Parameters
    ----------
    context : ndarray of intp, (cells,)
        Context of every cell.
    marker_share : dict of str to float
        Share of cells that carry each marker of `TYPES`: ``{"CD45": .18, "CD3e": .04, "CD4": .006,
        "CD8a": .006}``.
    iterations : int
        Rounds of fitting.

    Returns
    -------
    ndarray of float64, (contexts, types)
        Rows sum to 1.

    Raises
    ------
    ValueError
        If the shares contradict the hierarchy: a marker's children need no more than it has.
    """
    groups = {t.markers for t in TYPES}
    shares: dict[tuple[str, ...], float] = {}
    for markers in groups:
        own = marker_share[markers[-1]] if markers else 1.0
        children = {
            m[len(markers)]
            for m in groups
            if len(m) > len(markers) and m[: len(markers)] == markers
        }
        shares[markers] = own - sum(marker_share[c] for c in children)
        if shares[markers] < -1e-9:
            raise ValueError(f"marker shares {marker_share}: {children} exceed {markers}")
    weights = np.array([_WEIGHTS[name] for name in TYPE_NAMES]).T
    cells = np.bincount(context, minlength=len(CONTEXTS)).astype(np.float64)
    table = weights / weights.sum(axis=1, keepdims=True) * cells[:, None]
    total = max(cells.sum(), 1.0)
    for _ in range(iterations):
        for markers, share in shares.items():
            columns = [i for i, t in enumerate(TYPES) if t.markers == markers]
            table[:, columns] *= max(share, 0.0) * total / max(table[:, columns].sum(), 1e-12)
        table *= cells[:, None] / np.maximum(table.sum(axis=1, keepdims=True), 1e-12)
    prior = np.where(cells[:, None] > 0, table, weights)
    return np.asarray(prior / prior.sum(axis=1, keepdims=True))
