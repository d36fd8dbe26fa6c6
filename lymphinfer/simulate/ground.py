"""What lies between the cells: collagen, epithelial cytoplasm, mucin, lumens, vessels, glass."""

from __future__ import annotations

import numpy as np

from lymphinfer.simulate.layout import Layout
from lymphinfer.simulate.texture import (
    FibreBank,
    Float,
    band_noise,
    fibre_bank,
    smooth_noise,
    upsample,
)


def _step(values: Float, low: float, high: float) -> Float:
    """0 below `low`, 1 above `high`, linear between."""
    return np.asarray(np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1))


def _tiled(noise: Float, y0: int, x0: int, height: int, width: int) -> Float:
    rows = (np.arange(height) + y0) % noise.shape[0]
    columns = (np.arange(width) + x0) % noise.shape[1]
    return np.asarray(noise[np.ix_(rows, columns)])


class Ground:
    """Textures of one piece of tissue; `band` renders a rectangle of it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    layout : Layout
        Regions.
    mpp : float
        Pixel size, µm.
    """

    def __init__(self, rng: np.random.Generator, layout: Layout, mpp: float) -> None:
        self.layout = layout
        self.mpp = mpp
        period = 512
        self.strands: FibreBank = fibre_bank(rng, period, 7.0 / mpp, 0.60 / mpp)
        self.threads: FibreBank = fibre_bank(rng, period, 4.0 / mpp, 0.26 / mpp)
        self.grain: Float = band_noise(rng, (period, period), 0.30 / mpp)
        self.cloud: Float = smooth_noise(rng, (period, period), 2.2 / mpp)
        self.vacuole: Float = band_noise(rng, (period, period), 1.5 / mpp, 2.0)

    def band(self, y0: int, height: int, width: int) -> Float:
        """Render rows of the ground.

        Parameters
        ----------
        y0 : int
            First row.
        height, width : int
            Size, px.

        Returns
        -------
        ndarray of float32, (height, width, 2)
            Haematoxylin and eosin densities, log10 units.
        """
        layout = self.layout

        def fine(coarse: Float) -> Float:
            return upsample(coarse, layout.factor, y0, 0, height, width)

        depth, lumen_at, tumour = fine(layout.depth), fine(layout.height), fine(layout.tumour)
        vessel, loose = fine(layout.vessel), fine(layout.loose)
        rows = (np.arange(y0, y0 + height) // layout.factor) % layout.direction.shape[0]
        columns = (np.arange(width) // layout.factor) % layout.direction.shape[1]
        direction = layout.direction[np.ix_(rows, columns)]
        strands = self.strands.sample(direction, y0, 0)
        threads = self.threads.sample(direction, y0, 0)
        grain = _tiled(self.grain, y0, 0, height, width)
        cloud = _tiled(self.cloud, y0, 0, height, width)
        vacuole = _tiled(self.vacuole, y0, 0, height, width)

        out = np.empty((height, width, 2), np.float32)
        h, e = out[..., 0], out[..., 1]

        # Collagen: strands with clefts between them, wider where the stroma is loose.
        body = np.float32(0.8) * strands + np.float32(0.6) * threads + np.float32(0.25) * cloud
        body = _step(body - np.float32(0.80) * loose, -2.4, 0.9)
        e[...] = np.float32(0.035) + body * (
            np.float32(0.18)
            + np.float32(0.028) * strands
            + np.float32(0.034) * threads
            + np.float32(0.02) * grain
        )
        h[...] = np.float32(0.012) + np.float32(0.035) * body

        aggregate = _step(fine(layout.aggregate), -0.05, 0.12)
        inter = np.float32(0.11) + np.float32(0.03) * cloud + np.float32(0.025) * grain
        e += aggregate * (inter - e)
        h += aggregate * (np.float32(0.06) + np.float32(0.015) * cloud - h)

        # Vessel: a thin wall around a lumen with plasma in it.
        wall = _step(vessel, -2.0, -0.8)
        e += wall * (np.float32(0.22) + np.float32(0.03) * threads - e)
        inside = _step(vessel, 2.4, 3.6)
        e += inside * (np.float32(0.03) - e)
        h += inside * (np.float32(0.005) - h)

        # Epithelium: granular cytoplasm, mucin vacuoles towards the lumen, a brush border.
        gland = _step(depth, -0.6, 0.6)
        toward = depth / lumen_at
        cyto_e = np.float32(0.20) + np.float32(0.022) * threads + np.float32(0.02) * cloud
        cyto_e += np.float32(0.03) * tumour + np.float32(0.018) * grain
        cyto_h = np.float32(0.07) + np.float32(0.05) * tumour + np.float32(0.014) * cloud
        goblet = (
            _step(vacuole, 0.75, 1.05) * _step(toward, 0.42, 0.55) * (1 - np.float32(0.75) * tumour)
        )
        cyto_e *= 1 - np.float32(0.72) * goblet
        cyto_h *= 1 - np.float32(0.45) * goblet
        brush = np.exp(-(((depth - lumen_at + np.float32(1.2)) / np.float32(1.0)) ** 2))
        cyto_e += np.float32(0.10) * brush
        e += gland * (cyto_e - e)
        h += gland * (cyto_h - h)
        # Shrinkage opens a cleft between gland and stroma here and there.
        cleft = np.exp(-(((depth + np.float32(2.2)) / np.float32(1.3)) ** 2))
        cleft *= np.float32(0.85) * _step(loose, -0.3, 0.9)
        lumen = _step(depth - lumen_at + np.float32(0.5) * cloud, 0.0, 1.6)
        debris = np.float32(0.035) * _step(cloud + np.float32(0.4) * grain, 0.6, 1.6)
        empty = np.maximum(cleft, lumen)
        e *= 1 - empty
        h *= 1 - empty
        e += lumen * (np.float32(0.012) + debris)
        h += lumen * (np.float32(0.004) + np.float32(0.4) * debris)

        tissue = fine(layout.tissue)
        if float(tissue.min()) < 12:
            present = _step(tissue + np.float32(4) * strands, 0.0, 3.0)[..., None]
            out *= present
        np.maximum(out, 0, out=out)
        return out


def render_ground(
    rng: np.random.Generator,
    layout: Layout,
    size_px: tuple[int, int],
    mpp: float,
    *,
    rows: int = 256,
) -> Float:
    """Render everything but the cells.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    layout : Layout
        Regions.
    size_px : tuple of int
        (height, width), px.
    mpp : float
        Pixel size, µm.
    rows : int
        Rows rendered at once: bounds the memory.

    Returns
    -------
    ndarray of float32, (height, width, 2)
        Haematoxylin and eosin densities, log10 units.
    """
    height, width = size_px
    ground = Ground(rng, layout, mpp)
    canvas = np.empty((height, width, 2), np.float32)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        canvas[top:bottom] = ground.band(top, bottom - top, width)
    return canvas
