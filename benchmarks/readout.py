"""Output layers for networks of random weights, so that they find about the right nuclei.

Published weights of the peers are no part of this repository, and what random ones put out is no
tissue: decoding it would take any time. So all layers but the last keep their random values, and
the last, which is linear, is fitted by ridge regression to nuclei that `lymphinfer predict` found
(what is called a random-feature model). A network's forward pass costs the same whatever its
weights; the fitted last layer is to give its post-processing about as many nuclei as real maps
would. How well these networks segment is thereby no one's measure. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def fit(
    features: NDArray[np.floating], targets: NDArray[np.floating], ridge: float = 1e-3
) -> tuple[Float, Float]:
    """Weights and bias of a linear layer by ridge regression.

    Parameters
    ----------
    features : ndarray, (n, channels)
        What the layer reads.
    targets : ndarray, (n, outputs)
        What it shall put out.
    ridge : float
        Penalty on the weights of features of unit variance, as a share of `n`.

    Returns
    -------
    weights : ndarray of float32, (channels, outputs)
    bias : ndarray of float32, (outputs,)
    """
    x = features.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / deviation
    y = targets.astype(np.float64)
    middle = y.mean(axis=0)
    within = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(within, x.T @ (y - middle)) / deviation[:, None]
    return weights.astype(np.float32), (middle - mean @ weights).astype(np.float32)


def nearest_count(
    count: Callable[[float], int], levels: Sequence[float], wanted: int
) -> tuple[float, int]:
    """The threshold at which the number of nuclei comes closest to the wanted one, and that number.

    Parameters
    ----------
    count : callable
        Number of nuclei at a threshold.
    levels : sequence of float
        The thresholds to try.
    wanted : int
        Number of nuclei.
    """
    found = {level: count(level) for level in levels}
    level = min(found, key=lambda x: abs(found[x] - wanted))
    return level, found[level]


def whole_nuclei(labels: NDArray[np.integer], rows: slice, columns: slice) -> int:
    """Number of nuclei in a part of a label image; those that its border cuts count half."""
    part = labels[rows, columns]
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    there, cut = (len(np.unique(x[x > 0])) for x in (part, border))
    return round(there - cut / 2)


def read_labels(path: Path) -> NDArray[np.int32]:
    """A label image (H, W): 0 the background, 1 to n the nuclei."""
    with np.load(path) as file:
        return np.asarray(file["labels"], np.int32)
