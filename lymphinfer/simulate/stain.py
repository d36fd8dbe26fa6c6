"""From dye densities to RGB: Beer and Lambert's law, a slide's own stain, the camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lymphinfer.simulate.texture import Float


@dataclass(frozen=True)
class Stain:
    """A slide's stain.

    Attributes
    ----------
    haematoxylin, eosin : tuple of float
        Optical density of the dye in red, green and blue, unit length (Ruifrok and Johnston 2001).
    haematoxylin_gain, eosin_gain : float
        Concentrations relative to the mean slide.
    white : tuple of float
        RGB of the empty slide, 0-255.
    blur_um : float
        Standard deviation of the optics' blur, µm.
    noise : float
        Standard deviation of the camera's noise, grey levels.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    haematoxylin_gain: float = 1.0
    eosin_gain: float = 1.0
    white: tuple[float, float, float] = (244.0, 243.0, 245.0)
    blur_um: float = 0.24
    noise: float = 1.6


_HAEMATOXYLIN = np.array([0.62, 0.68, 0.34])
_EOSIN = np.array([0.16, 0.88, 0.42])


def _unit(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    a, b, c = (vector / np.linalg.norm(vector)).tolist()
    return a, b, c


def sample_stain(rng: np.random.Generator, spread: float = 1.0) -> Stain:
    """Draw a slide's stain.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    spread : float
        Scale of the variation between slides; 0 is the mean stain.

    Returns
    -------
    Stain
    """
    tilt = rng.normal(0, 1)
    h = _HAEMATOXYLIN + spread * (tilt * np.array([-0.055, 0.02, 0.035]) + rng.normal(0, 0.02, 3))
    e = _EOSIN + spread * (
        rng.normal(0, 1) * np.array([0.03, -0.01, -0.06]) + rng.normal(0, 0.02, 3)
    )
    white = np.clip(np.array([244.0, 243.0, 245.0]) + spread * rng.normal(0, 2.0, 3), 230, 252)
    return Stain(
        haematoxylin=_unit(np.clip(h, 0.05, None)),
        eosin=_unit(np.clip(e, 0.02, None)),
        haematoxylin_gain=float(np.exp(spread * rng.normal(0, 0.13))),
        eosin_gain=float(np.exp(spread * rng.normal(0, 0.16))),
        white=(float(white[0]), float(white[1]), float(white[2])),
        blur_um=float(0.24 * np.exp(spread * rng.normal(0, 0.12))),
        noise=float(1.6 * np.exp(spread * rng.normal(0, 0.15))),
    )


def to_rgb(
    rng: np.random.Generator, densities: Float, stain: Stain, mpp: float, *, rows: int = 512
) -> NDArray[np.uint8]:
    """Render dye densities.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the camera's noise.
    densities : ndarray of float32, (height, width, 2)
        Haematoxylin and eosin, in units of log10 optical density. Periodic edges.
    stain : Stain
        The slide's stain.
    mpp : float
        Pixel size, µm.
    rows : int
        Rows rendered at once: bounds the memory.

    Returns
    -------
    ndarray of uint8, (height, width, 3)
    """
    height, width = densities.shape[:2]
    matrix = np.stack(
        [
            np.array(stain.haematoxylin) * stain.haematoxylin_gain,
            np.array(stain.eosin) * stain.eosin_gain,
        ]
    ).astype(np.float32) * np.float32(np.log(10))
    white = np.array(stain.white, np.float32)
    sigma = stain.blur_um / mpp
    pad = max(1, int(np.ceil(3 * sigma)))
    # One second of noise is made, then reused at random places of the picture.
    grain = rng.standard_normal((640, 1024), dtype=np.float32) * np.float32(stain.noise)
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        index = np.arange(top - pad, bottom + pad) % height
        band = densities[index]
        for channel in range(3):
            light = band[..., 0] * -matrix[0, channel]
            light -= band[..., 1] * matrix[1, channel]
            np.exp(light, out=light)
            light = ndimage.gaussian_filter(
                light, sigma, mode=("nearest", "wrap"), truncate=3.0, output=np.float32
            )[pad : pad + bottom - top]
            light *= white[channel]
            light += _noise(rng, grain, bottom - top, width)
            np.clip(light, 0, 255, out=light)
            out[top:bottom, :, channel] = light + np.float32(0.5)
    return out


def _noise(rng: np.random.Generator, grain: Float, height: int, width: int) -> Float:
    dy, dx = (int(k) for k in rng.integers(0, grain.shape))
    tile = np.roll(grain, (dy, dx), (0, 1))
    repeats = (-(-height // grain.shape[0]), -(-width // grain.shape[1]))
    return np.asarray(np.tile(tile, repeats)[:height, :width])
