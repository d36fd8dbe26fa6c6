"""Coherent probabilities and calls along the panel's hierarchy (CD4 implies CD3e implies CD45)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from lymphinfer.panel import Panel


class HierarchyMode(StrEnum):
    """What is done where a child's probability exceeds its parent's.

    ``none`` leaves it. ``clip`` lowers the child to its parent. ``conditional`` keeps the
    conditional probability of the child given its parent, and multiplies down the lineage.
    """

    NONE = "none"
    CLIP = "clip"
    CONDITIONAL = "conditional"


def apply_hierarchy(
    probabilities: NDArray[np.floating],
    parents: Sequence[int],
    mode: HierarchyMode | str = HierarchyMode.CONDITIONAL,
    *,
    conditional_heads: Sequence[bool] | None = None,
) -> NDArray[np.float32]:
    """Turn head outputs into one coherent probability a marker.

    Parameters
    ----------
    probabilities : ndarray of float, (N, M)
        Head outputs in [0, 1], markers in panel order, parents before children.
    parents : sequence of int, length M
        Index of each marker's parent, -1 for a root (``Panel.parent_indices``).
    mode : HierarchyMode or str
        ``none``, ``clip``: p(child) = min(p(child), p(parent)); ``conditional``:
        p(child) = min(1, p_head(child) / p_head(parent)) · p(parent), the product of conditionals.
    conditional_heads : sequence of bool, length M, optional
        Heads whose output is P(marker | parent) rather than P(marker), such as a base rate. They
        are multiplied by their parent's probability in every mode.

    Returns
    -------
    ndarray of float32, (N, M)
        In [0, 1]. With ``clip`` and ``conditional`` no child exceeds its parent; coherent marginals
        come back unchanged.

    Raises
    ------
    ValueError
        Wrong shape, values outside [0, 1] or not finite, or an unknown mode.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.array([[0.5, 0.8, 0.4, 0.2]])
    >>> apply_hierarchy(p, (-1, 0, 1, 1), "clip").round(3).tolist()
    [[0.5, 0.5, 0.4..., 0.2...]]
    >>> apply_hierarchy(p, (-1, 0, 1, 1), "conditional").round(3).tolist()
    [[0.5, 0.5, 0.25, 0.125]]
    """
    mode = HierarchyMode(mode)
    heads = np.asarray(probabilities, dtype=np.float32)
    if heads.ndim != 2 or heads.shape[1] != len(parents):
        raise ValueError(f"probabilities {heads.shape}: expected (N, {len(parents)})")
    if not (np.isfinite(heads).all() and (heads >= 0).all() and (heads <= 1).all()):
        raise ValueError("probabilities must be finite and within [0, 1]")
    conditional = list(conditional_heads or [False] * len(parents))
    marginal = heads.copy()
    result = heads.copy()
    for child, parent in enumerate(parents):
        if parent < 0:
            continue
        if conditional[child]:
            marginal[:, child] = heads[:, child] * marginal[:, parent]
            result[:, child] = heads[:, child] * result[:, parent]
        elif mode is HierarchyMode.CLIP:
            result[:, child] = np.minimum(result[:, child], result[:, parent])
        elif mode is HierarchyMode.CONDITIONAL:
            coherent = marginal[:, child] <= marginal[:, parent]
            unchanged = result[:, parent] == marginal[:, parent]
            # At most 1, and no division by what is zero or too small to divide by.
            share = np.divide(
                marginal[:, child],
                marginal[:, parent],
                out=np.ones(len(heads), np.float32),
                where=marginal[:, child] < marginal[:, parent],
            )
            product = share * result[:, parent]
            # Dividing and multiplying back would move coherent values by a rounding error.
            result[:, child] = np.where(coherent & unchanged, marginal[:, child], product)
    return result


def call_phenotypes(
    probabilities: NDArray[np.floating],
    panel: Panel,
    thresholds: Sequence[float],
    *,
    callable_markers: Sequence[bool] | None = None,
) -> NDArray[np.int8]:
    """Name each nucleus by its deepest positive marker.

    A marker is positive where its probability reaches its threshold and its parent is positive, so
    no call contradicts the hierarchy. Of two positive siblings the more probable one is called.

    Parameters
    ----------
    probabilities : ndarray of float, (N, M)
        Coherent probabilities.
    panel : Panel
    thresholds : sequence of float, length M
    callable_markers : sequence of bool, length M, optional
        Markers that may be called at all; one without learned evidence may not.

    Returns
    -------
    ndarray of int8, (N,)
        Indices into ``panel.calls``; 0 is ``Other``.
    """
    p = np.asarray(probabilities, dtype=np.float32)
    may = list(callable_markers) if callable_markers is not None else [True] * len(panel)
    positive = np.zeros(p.shape, bool)
    calls = np.zeros(len(p), np.int8)
    best = np.zeros(len(p), np.float32)
    depth = np.zeros(len(p), np.int8)
    for i, (parent, name) in enumerate(zip(panel.parent_indices, panel.names, strict=True)):
        if not may[i]:
            continue
        positive[:, i] = p[:, i] >= np.float32(thresholds[i])
        if parent >= 0:
            positive[:, i] &= positive[:, parent]
        own_depth = len(panel.lineage(name))
        more_probable = (depth < own_depth) | ((depth == own_depth) & (p[:, i] > best))
        better = positive[:, i] & more_probable
        calls[better], depth[better], best[better] = i + 1, own_depth, p[better, i]
    return calls
