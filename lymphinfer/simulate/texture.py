"""Periodic noise textures: the raw material of collagen, cytoplasm and chromatin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

ORIENTATIONS = 32
"""Directions over 180 degrees in a `FibreBank`."""


def _frequencies(shape: tuple[int, int]) -> tuple[Float, Float]:
    fy = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    return fy, fx


def _standardize(values: NDArray[np.floating]) -> Float:
    centred = values - values.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-12), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> Float:
    """Periodic Gaussian noise low-passed with a Gaussian.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (height, width), px.
    sigma_px : float
        Standard deviation of the Gaussian, px.

    Returns
    -------
    ndarray of float32, shape
        Zero mean, unit variance, periodic in both directions.
    """
    fy, fx = _frequencies(shape)
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    spectrum *= np.exp(-2 * np.pi**2 * sigma_px**2 * (fx**2 + fy**2))
    return _standardize(np.fft.irfft2(spectrum, s=shape))


def band_noise(
    rng: np.random.Generator, shape: tuple[int, int], sigma_px: float, ratio: float = 2.5
) -> Float:
    """Periodic noise between two Gaussian scales, `sigma_px` and `ratio` times it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (height, width), px.
    sigma_px : float
        Finer scale, px.
    ratio : float
        Coarser over finer scale.

    Returns
    -------
    ndarray of float32, shape
        Zero mean, unit variance, periodic in both directions.
    """
    fy, fx = _frequencies(shape)
    square = fx**2 + fy**2
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    low = np.exp(-2 * np.pi**2 * sigma_px**2 * square)
    spectrum *= low - np.exp(-2 * np.pi**2 * (ratio * sigma_px) ** 2 * square)
    return _standardize(np.fft.irfft2(spectrum, s=shape))


@dataclass(frozen=True)
class FibreBank:
    """The same noise drawn out along each of `ORIENTATIONS` directions.

    Attributes
    ----------
    images : ndarray of float32, (ORIENTATIONS, period, period)
        Unit-variance streaks; image i runs along the angle ``i * pi / ORIENTATIONS`` from the x
        axis (towards positive y, which points down).
    """

    images: Float

    def sample(self, direction: NDArray[np.intp], y0: int, x0: int) -> Float:
        """Streaks of a rectangle, each pixel along its own direction.

        Parameters
        ----------
        direction : ndarray of intp, (height, width)
            Index of the direction.
        y0, x0 : int
            Position of the rectangle in the periodic plane, px.

        Returns
        -------
        ndarray of float32, (height, width)
        """
        period = self.images.shape[1]
        rows = (np.arange(direction.shape[0]) + y0) % period
        columns = (np.arange(direction.shape[1]) + x0) % period
        flat = direction * (period * period) + (rows[:, None] * period + columns[None, :])
        return np.asarray(np.take(self.images.ravel(), flat))


def fibre_bank(
    rng: np.random.Generator, period: int, along_px: float, across_px: float
) -> FibreBank:
    """Build a `FibreBank`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    period : int
        Side of the periodic square, px.
    along_px, across_px : float
        Gaussian scales along and across a streak, px.

    Returns
    -------
    FibreBank
    """
    fy, fx = _frequencies((period, period))
    spectrum = np.fft.rfft2(rng.standard_normal((period, period), dtype=np.float32))
    images = np.empty((ORIENTATIONS, period, period), np.float32)
    for i in range(ORIENTATIONS):
        angle = np.pi * i / ORIENTATIONS
        fu = fx * np.cos(angle) + fy * np.sin(angle)
        fv = fy * np.cos(angle) - fx * np.sin(angle)
        gain = np.exp(-2 * np.pi**2 * ((along_px * fu) ** 2 + (across_px * fv) ** 2))
        images[i] = _standardize(np.fft.irfft2(spectrum * gain, s=(period, period)))
    return FibreBank(images)


def upsample(field: Float, factor: int, y0: int, x0: int, height: int, width: int) -> Float:
    """Bilinear interpolation of a rectangle of a periodic coarse field.

    Coarse pixel (i, j) is centred on fine pixel ``((i + .5) * factor - .5, ...)``.

    Parameters
    ----------
    field : ndarray of float32, (rows, columns)
        Coarse field, periodic.
    factor : int
        Fine pixels in a coarse one.
    y0, x0 : int
        First fine row and column.
    height, width : int
        Size of the rectangle, fine px.

    Returns
    -------
    ndarray of float32, (height, width)
    """
    y = (np.arange(y0, y0 + height, dtype=np.float32) + 0.5) / factor - 0.5
    x = (np.arange(x0, x0 + width, dtype=np.float32) + 0.5) / factor - 0.5
    row, column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    wy, wx = (y - row)[:, None], (x - column)[None, :]
    n_rows, n_columns = field.shape
    needed = np.arange(row[0], row[-1] + 2) % n_rows
    lines = field[needed]
    left, right = lines[:, column % n_columns], lines[:, (column + 1) % n_columns]
    lines = left + (right - left) * wx
    top = row - row[0]
    upper = lines[top]
    return np.asarray(upper + (lines[top + 1] - upper) * wy, dtype=np.float32)
