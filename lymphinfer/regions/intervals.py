"""Intervals of counts and densities: by the cells themselves, and from block to block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
FEWEST_BLOCKS = 5
_MOST_STEPS = 5_000_000

CELLS = (
    "Poisson-binomial: how many of these nuclei are positive, if their calibrated probabilities "
    "are right and independent of each other"
)
BLOCKS = (
    "between blocks: how far the mean of such blocks of tissue may be off, from their differences "
    "(ratio estimator, Student's t); narrower than the truth where neighbouring blocks are alike"
)


def cells_interval(probabilities: NDArray[np.floating[Any]], level: float = LEVEL) -> Interval:
    """Interval of the number of positives among independent nuclei: the Poisson-binomial's.

    Few nuclei: exact, by the discrete Fourier transform of the characteristic function (Hong 2013,
    On computing the distribution function for the Poisson binomial distribution: DFT-CF),
    within 12 standard deviations of the mean. Many: normal with the correction for skewness
    (Cornish and Fisher).

    Parameters
    ----------
    probabilities : ndarray of float, shape (N,)
        In [0, 1].
    level : float

    Returns
    -------
    tuple of float
        Whole numbers; below and above lie at most (1 - level) / 2 each.

    Examples
    --------
    >>> cells_interval(np.full(10, 0.5))
    (2.0, 8.0)
    """
    # Sums of float32 may reach a little beyond.
    p = np.clip(np.asarray(probabilities, np.float64), 0, 1)
    mean, variance = float(p.sum()), float((p * (1 - p)).sum())
    if variance < 1e-12:
        return float(round(mean)), float(round(mean))
    spread = variance**0.5
    size = int(np.ceil(24 * spread)) + 40
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if len(p) * size > _MOST_STEPS:
        from scipy.special import ndtri

        skewness = float((p * (1 - p) * (1 - 2 * p)).sum()) / spread**3
        z = ndtri(tails)
        found = np.rint(mean + spread * (z + skewness * (z**2 - 1) / 6))
        low, high = np.clip(found, 0, len(p))
        return float(low), float(high)
    turns = np.exp(2j * np.pi * np.arange(size // 2 + 1) / size)
    values = np.array([np.prod(1 - p + p * turn) for turn in turns])
    first = round(mean) - size // 2
    # The masses come modulo the size: the window around the mean holds all of them.
    masses = np.roll(np.fft.irfft(values.conj(), size), -(first % size))
    below = np.cumsum(np.clip(masses, 0, None))
    low, high = first + np.searchsorted(below, tails * below[-1])
    return float(low), float(high)


def blocks_interval(top: F64, bottom: F64, level: float = LEVEL) -> Interval | None:
    """Interval of a ratio of sums over blocks, such as cells to mm².

    Cochran, Sampling Techniques (1977), section 6.3: the variance of the ratio estimator.

    Parameters
    ----------
    top, bottom : ndarray of float64, shape (B,)
        Of each block.
    level : float

    Returns
    -------
    tuple of float or None
        None with fewer than `FEWEST_BLOCKS` blocks that have any of `bottom`.
    """
    from scipy.stats import t

    used = (bottom > 0) | (top > 0)
    top, bottom = top[used], bottom[used]
    n = len(top)
    if (bottom > 0).sum() < FEWEST_BLOCKS:
        return None
    ratio = top.sum() / bottom.sum()
    off = ((top - ratio * bottom) ** 2).sum() / (n - 1)
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(np.sqrt(n * off)) / float(bottom.sum())
    return max(0.0, float(ratio) - half), float(ratio) + half
