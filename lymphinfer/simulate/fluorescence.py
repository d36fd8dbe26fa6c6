"""The immunofluorescence image of a simulated tissue: 19 channels of raw camera counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.simulate.layout import Layout
from lymphinfer.simulate.nuclei import LabelImage
from lymphinfer.simulate.panel19 import CHANNELS
from lymphinfer.simulate.texture import Float, upsample

OFFSET = 200.0
"""The camera's counts in the dark."""


@dataclass(frozen=True)
class Acquisition:
    """How one slide was stained and imaged.

    Attributes
    ----------
    offset : float
        Dark counts.
    gain : ndarray of float64, (19,)
        Brightness of each channel relative to the mean slide.
    autofluorescence : float
        The tissue's autofluorescence relative to the mean slide.
    blank : float
        Counts that follow the tissue in the blank channel, Argo550: high on a bad slide (CRC10's).
    artefacts_per_mm2 : float
        Over-exposed specks.
    """

    offset: float
    gain: NDArray[np.float64]
    autofluorescence: float
    blank: float
    artefacts_per_mm2: float


def sample_acquisition(
    batch: np.random.Generator, slide: np.random.Generator, *, bright_blank: bool
) -> Acquisition:
    """Draw how a slide was imaged.

    Parameters
    ----------
    batch : numpy.random.Generator
        Source of what the slides of one batch share; start it anew for each of them.
    slide : numpy.random.Generator
        Source of the slide's own.
    bright_blank : bool
        The blank channel is bright.

    Returns
    -------
    Acquisition
    """
    n = len(CHANNELS)
    gain = np.exp(0.18 * batch.standard_normal(n) + 0.12 * slide.standard_normal(n))
    return Acquisition(
        offset=float(OFFSET + 2 * batch.standard_normal() + 2 * slide.standard_normal()),
        gain=gain,
        autofluorescence=float(np.exp(0.15 * batch.normal() + 0.15 * slide.normal())),
        blank=float(90 * slide.uniform(0.8, 1.2)) if bright_blank else float(slide.uniform(4, 12)),
        artefacts_per_mm2=float(slide.uniform(1.5, 4.0)),
    )


def _artefacts(
    rng: np.random.Generator, shape: tuple[int, int], mpp: float, per_mm2: float
) -> list[tuple[slice, slice, Float, NDArray[np.float64]]]:
    """Over-exposed specks: where, their picture (0-1), and counts in each channel."""
    height, width = shape
    specks = []
    for _ in range(int(rng.poisson(per_mm2 * height * width * mpp**2 / 1e6))):
        radius = rng.uniform(5, 22) / mpp
        half = int(2.2 * radius) + 1
        cy, cx = int(rng.integers(height)), int(rng.integers(width))
        rows = np.arange(max(cy - half, 0), min(cy + half + 1, height))
        columns = np.arange(max(cx - half, 0), min(cx + half + 1, width))
        stretch, turn = rng.uniform(1, 2), rng.uniform(0, np.pi)
        dy, dx = rows[:, None] - cy, columns[None, :] - cx
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / radius
        v = (dy * np.cos(turn) - dx * np.sin(turn)) * stretch / radius
        picture = np.exp(-((u**2 + v**2) ** 2)).astype(np.float32)
        counts = np.exp(rng.uniform(np.log(4e3), np.log(5e4)))
        lit = rng.random(len(CHANNELS)) < rng.choice([0.15, 0.9], p=[0.6, 0.4])
        lit[rng.integers(2, len(CHANNELS))] = True
        lit[0] = False
        amount = np.where(lit, counts * rng.uniform(0.4, 1.2, len(CHANNELS)), 0.0)
        specks.append(
            (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1), picture, amount)
        )
    return specks


def _profiles(image: LabelImage, rows: slice, mpp: float) -> dict[str, Float]:
    """Where in and around its nucleus a cell shines, by locus, 0-1."""
    distance = image.distance[rows] * np.float32(mpp)
    nucleus = np.clip(0.5 - distance / np.float32(0.8), 0, 1).astype(np.float32)
    rim = np.exp(-(((distance - np.float32(0.55)) / np.float32(0.75)) ** 2))
    return {
        "nucleus": nucleus,
        "membrane": np.asarray(np.float32(0.18) + np.float32(0.9) * rim),
        "cytoplasm": np.asarray(1 - np.float32(0.5) * nucleus),
    }


def _regions(layout: Layout, y0: int, x0: int, height: int, width: int) -> dict[str, Float]:
    depth = upsample(layout.depth, layout.factor, y0, x0, height, width)
    lumen = upsample(layout.height, layout.factor, y0, x0, height, width)
    vessel = upsample(layout.vessel, layout.factor, y0, x0, height, width)
    gland = np.clip(depth + 0.5, 0, 1) * np.clip(lumen - depth, 0, 1)
    wall = np.clip((vessel + 2) / 2, 0, 1) * np.clip((3.5 - vessel) / 2, 0, 1)
    return {
        "gland": gland.astype(np.float32),
        "vessel": wall.astype(np.float32),
        "stroma": np.clip(-depth, 0, 1).astype(np.float32),
    }


def render_fluorescence(
    rng: np.random.Generator,
    image: LabelImage,
    eosin: Float,
    layout: Layout,
    expression: NDArray[np.float64],
    acquisition: Acquisition,
    mpp: float,
    *,
    origin: tuple[int, int] = (0, 0),
    rows: int = 512,
) -> NDArray[np.uint16]:
    """Render the image.

    Counts are the dark offset, plus every cell's expression shaped by its locus, plus
    extracellular stain, plus autofluorescence that follows the eosinophilic matrix, plus specks,
    with read and shot noise.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    image : LabelImage
        Each pixel's cell.
    eosin : ndarray of float32, (height, width)
        Eosin density, log10 units.
    layout : Layout
        Regions.
    expression : ndarray of float64, (cells, 19)
        As `draw_expression` returns it.
    acquisition : Acquisition
        How the slide was imaged.
    mpp : float
        Pixel size, µm.
    origin : tuple of int
        (y, x) of the image's corner in the layout, px.
    rows : int
        Rows rendered at once: bounds the memory.

    Returns
    -------
    ndarray of uint16, (19, height, width)
    """
    height, width = image.labels.shape
    table = np.zeros((len(CHANNELS), len(expression) + 1), np.float32)
    table[:, 1:] = (expression * acquisition.gain).T
    specks = _artefacts(rng, (height, width), mpp, acquisition.artefacts_per_mm2)
    grain = rng.standard_normal((1024, 1024), dtype=np.float32)
    out = np.empty((len(CHANNELS), height, width), np.uint16)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        n = band.stop - top
        labels = image.labels[band]
        profiles = _profiles(image, band, mpp)
        regions = _regions(layout, top + origin[0], origin[1], n, width)
        glow = (np.float32(12) + np.float32(620) * eosin[band]) * np.float32(
            acquisition.autofluorescence
        )
        for c, channel in enumerate(CHANNELS):
            light = np.take(table[c], labels)
            light *= profiles[channel.locus]
            light += glow * np.float32(channel.autofluorescence)
            if channel.region:
                counts = np.float32(channel.region_counts * acquisition.gain[c])
                light += regions[channel.region] * eosin[band] * (counts / np.float32(0.2))
            if channel.name == "Argo550":
                light += eosin[band] * np.float32(acquisition.blank / 0.2)
            _add_specks(light, specks, c, top)
            # Read noise of 4 counts, shot noise, by Gaussian noise from one square of it.
            deviation = np.sqrt(np.float32(16) + np.float32(0.8) * light)
            light += deviation * _rolled(rng, grain, n, width)
            light += np.float32(acquisition.offset + 0.5)
            out[c, band] = np.clip(light, 0, 65535)
    return out


def _add_specks(
    light: Float,
    specks: list[tuple[slice, slice, Float, NDArray[np.float64]]],
    channel: int,
    top: int,
) -> None:
    bottom = top + light.shape[0]
    for row, column, picture, amount in specks:
        if amount[channel] > 0 and row.start < bottom and row.stop > top:
            first, last = max(row.start, top), min(row.stop, bottom)
            part = picture[first - row.start : last - row.start]
            light[first - top : last - top, column] += part * np.float32(amount[channel])


def _rolled(rng: np.random.Generator, grain: Float, height: int, width: int) -> Float:
    """Noise of a rectangle: the square shifted at random and repeated."""
    dy, dx = (int(k) for k in rng.integers(0, grain.shape))
    rows = (np.arange(height) + dy) % grain.shape[0]
    tile = np.take(np.roll(grain, dx, axis=1), rows, axis=0)
    return np.tile(tile, (1, -(-width // grain.shape[1])))[:, :width]
