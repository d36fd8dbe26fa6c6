"""Weights of the weighted binary cross-entropy; the loss itself is `markers.masked_bce`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError


def positive_weights(labels: NDArray[np.integer], markers: Sequence[str]) -> NDArray[np.float32]:
    """Negatives over positives of each marker in the training set (the inverse positive ratio).

    Parameters
    ----------
    labels : ndarray of int, (N, M)
        1, 0; negative where unknown.
    markers : sequence of str, length M
        Their names, for the message.

    Returns
    -------
    ndarray of float32, (M,)

    Raises
    ------
    DataError
        Markers without a positive or without a negative cell, all of them named.

    Examples
    --------
    >>> positive_weights(np.array([[1, 0], [0, 1], [0, -1]]), ("first", "second")).tolist()
    [2.0, 1.0]
    """
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    problems = [
        f"{name} has {p:,} positive and {n:,} negative cells"
        for name, p, n in zip(markers, positive, negative, strict=True)
        if not p or not n
    ]
    if problems:
        raise DataError(
            "the training set cannot teach every marker: "
            + "; ".join(problems)
            + ". Look at the gates of these markers (`lymphinfer gate show`), or add slides."
        )
    ratio: NDArray[np.float32] = (negative / positive).astype(np.float32)
    return ratio
