"""Background and signal of one channel: mode, robust width, two-component Gaussian mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_MAD_PER_SIGMA = 0.6744897501960817
_MIN_SD = 1e-3


@dataclass(frozen=True)
class Background:
    """The cells that do not carry a marker.

    Attributes
    ----------
    mode : float
        Where most of them are.
    sigma : float
        Standard deviation of the side below the mode, which no positive cell widens.
    """

    mode: float
    sigma: float


@dataclass(frozen=True)
class TwoGaussians:
    """A mixture of two Gaussians, the lower one first.

    Attributes
    ----------
    weight : tuple of float
        Sum to 1.
    mean, sd : tuple of float
    """

    weight: tuple[float, float]
    mean: tuple[float, float]
    sd: tuple[float, float]

    @property
    def separation(self) -> float:
        """Ashman's D, distance of the means over the mean width; above 2 there are two modes."""
        return (self.mean[1] - self.mean[0]) / float(np.hypot(*self.sd) / np.sqrt(2))

    def posterior(self, values: Values) -> Values:
        """Probability that a value is of the upper component, float64 of the same shape.

        Beyond each mean it is held at its value there: a wide component must not win on the far
        side of a narrow one.
        """
        low, high = self._log_densities(np.clip(values, *self.mean))
        return np.asarray(1 / (1 + np.exp(np.clip(low - high, -500, 500))))

    def _log_densities(self, values: Values) -> tuple[Values, Values]:
        both = [
            np.log(w) - np.log(s) - 0.5 * ((values - m) / s) ** 2
            for w, m, s in zip(self.weight, self.mean, self.sd, strict=True)
        ]
        return both[0], both[1]


def find_background(values: Values) -> Background:
    """Find the background of a channel where it has more cells at its mode than any signal has.

    The mode is the highest point of a histogram of fine bins, smoothed by a Gaussian of
    Silverman's width for the lower half of the data. A signal is far wider than the background, so
    it does not hold the mode even where most cells are positive.

    Parameters
    ----------
    values : ndarray of float64, (N,)
        Finite intensities; positive cells among them.

    Returns
    -------
    Background
    """
    from scipy.ndimage import gaussian_filter1d

    low, quarter, median = np.quantile(values, (0.001, 0.25, 0.5))
    spread = max(float(median - quarter), 1e-6)
    bandwidth = 0.9 * spread / _MAD_PER_SIGMA * len(values) ** -0.2
    step = bandwidth / 8
    top = median + 6 * spread
    bins = int(min(max((top - low) / step, 16), 20_000))
    counts, edges = np.histogram(values, bins=bins, range=(float(low), float(top)))
    width = edges[1] - edges[0]
    smooth = gaussian_filter1d(counts.astype(np.float64), bandwidth / width, mode="constant")
    peak = int(np.argmax(smooth))
    mode = float((edges[peak] + edges[peak + 1]) / 2)
    below = mode - values[values < mode]
    sigma = float(np.median(below)) / _MAD_PER_SIGMA if len(below) else 0.0
    return Background(mode, max(sigma, width, 1e-6))


def fit_two_gaussians(
    values: Values,
    means: tuple[float, float],
    sds: tuple[float, float],
    *,
    max_clutter: float = 0.0,
    max_iterations: int = 500,
) -> TwoGaussians:
    """Fit two Gaussians by expectation maximisation.

    Parameters
    ----------
    values : ndarray of float64, (N,)
        At least two.
    means, sds : tuple of float
        Where to begin; both weights begin at a half.
    max_clutter : float
        Largest share of a third, uniform component over the range of the values. It takes up
        artefacts, which would widen a Gaussian, and is not part of the result.
    max_iterations : int
        Where to stop if the log-likelihood still rises by over 1e-8 a cell.

    Returns
    -------
    TwoGaussians
        By rising mean.
    """
    mean = np.array(means, np.float64)
    sd = np.maximum(np.array(sds, np.float64), _MIN_SD)
    weight = np.array([0.5, 0.5]) * (1 - max_clutter)
    clutter = max_clutter
    uniform = -np.log(max(float(np.ptp(values)), _MIN_SD))
    previous = -np.inf
    for _ in range(max_iterations):
        log_density = (
            np.log(weight)
            - np.log(sd)
            - 0.5 * (((values[:, None] - mean) / sd) ** 2 + np.log(2 * np.pi))
        )
        total = np.logaddexp(log_density[:, 0], log_density[:, 1])
        if clutter > 0:
            total = np.logaddexp(total, np.log(clutter) + uniform)
        share = np.exp(log_density - total[:, None])
        mass = np.maximum(share.sum(axis=0), 1e-9)
        clutter = min(max(1 - float(mass.sum()) / len(values), 0.0), max_clutter)
        weight = mass / mass.sum() * (1 - clutter)
        mean = (share * values[:, None]).sum(axis=0) / mass
        variance = (share * (values[:, None] - mean) ** 2).sum(axis=0) / mass
        sd = np.maximum(np.sqrt(variance), _MIN_SD)
        likelihood = float(total.mean())
        if abs(likelihood - previous) < 1e-8:
            break
        previous = likelihood
    a, b = np.argsort(mean, kind="stable")
    weight = weight / weight.sum()
    return TwoGaussians(
        (float(weight[a]), float(weight[b])),
        (float(mean[a]), float(mean[b])),
        (float(sd[a]), float(sd[b])),
    )


def split_in_two(values: Values) -> float:
    """Otsu's threshold: where two groups differ most from one another and least within.

    Parameters
    ----------
    values : ndarray of float64, (N,)
        At least two.

    Returns
    -------
    float
        The largest value of the lower group.
    """
    ordered = np.sort(values)
    n = np.arange(1, len(ordered))
    lower = np.cumsum(ordered)[:-1]
    upper = ordered.sum() - lower
    rest = len(ordered) - n
    between = n * rest * (lower / n - upper / rest) ** 2
    return float(ordered[int(np.argmax(between))])
