"""Pictures of cells from their latent features, many at a time, and their stamping on a canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.simulate.celltypes import FEATURES
from lymphinfer.simulate.texture import Float, band_noise, smooth_noise

_BATCH = 256
_PERIOD = 512
_HALF_SIZES = (16, 22, 30, 42, 60, 84, 120)


@dataclass(frozen=True)
class ChromatinBank:
    """Noise from which nuclei are cut, each (period, period) float32 of unit variance.

    Attributes
    ----------
    coarse, fine, wave : ndarray
        Chromatin clumps, chromatin grain, waves of the outline.
    """

    coarse: Float
    fine: Float
    wave: Float


def chromatin_bank(rng: np.random.Generator, mpp: float) -> ChromatinBank:
    """Make a `ChromatinBank` for pixels of `mpp` µm."""
    shape = (_PERIOD, _PERIOD)
    return ChromatinBank(
        coarse=band_noise(rng, shape, 0.42 / mpp),
        fine=band_noise(rng, shape, 0.22 / mpp),
        wave=smooth_noise(rng, shape, 1.5 / mpp),
    )


@dataclass(frozen=True)
class LabelImage:
    """Which nucleus each pixel belongs to.

    Attributes
    ----------
    labels : ndarray of int32, (height, width)
        Cell index + 1, nuclei dilated; 0 where there is none. Of two nuclei the nearer has a pixel.
    distance : ndarray of float32, (height, width)
        Distance from the outline of that nucleus, px, negative inside; the reach where there is
        none.
    """

    labels: NDArray[np.int32]
    distance: Float


@dataclass(frozen=True)
class Stamps:
    """Pictures of a batch of cells, all of one size ``n = 2 * half + 1``.

    Attributes
    ----------
    keep : ndarray of float32, (cells, n, n)
        Factor on the canvas below.
    add : ndarray of float32, (cells, n, n, 2)
        Density added: haematoxylin, eosin.
    distance : ndarray of float32, (cells, n, n)
        Distance from the nucleus' outline, px, negative inside, about.
    """

    keep: Float
    add: Float
    distance: Float


def _crops(rng: np.random.Generator, bank: Float, count: int, size: int) -> Float:
    windows = np.lib.stride_tricks.sliding_window_view(bank, (size, size))
    y = rng.integers(0, windows.shape[0], count)
    x = rng.integers(0, windows.shape[1], count)
    return np.asarray(windows[y, x])


def _soft(distance: Float, width: float) -> Float:
    """1 well inside (negative distance), 0 outside, linear over `width` px."""
    return np.asarray(np.clip(0.5 - distance / np.float32(width), 0, 1), dtype=np.float32)


def _ellipse(u: Float, v: Float, a: Float, b: Float, wave: Float | float) -> tuple[Float, Float]:
    """Normalised radius and approximate signed distance (px) of wavy ellipses."""
    ua, vb = u / a, v / b
    rho = np.sqrt(ua * ua + vb * vb) + np.float32(1e-6)
    slope = np.sqrt((ua / a) ** 2 + (vb / b) ** 2) / rho + np.float32(1e-6)
    rho = rho + wave
    return rho, (rho - 1) / slope


def draw_cells(
    rng: np.random.Generator,
    features: NDArray[np.float64],
    angle: NDArray[np.float64],
    offset: NDArray[np.float64],
    half: int,
    mpp: float,
    bank: ChromatinBank,
) -> Stamps:
    """Draw cells.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of what the features do not fix: texture, lobes' places, the outline's phase.
    features : ndarray of float64, (cells, features)
        Latent features.
    angle : ndarray of float64, (cells,)
        Direction of the major axis, radians.
    offset : ndarray of float64, (cells, 2)
        Sub-pixel (y, x) of the centre from the middle pixel.
    half : int
        Half size of the pictures, px.
    mpp : float
        Pixel size, µm.
    bank : ChromatinBank
        Textures.

    Returns
    -------
    Stamps
    """
    n, size = len(features), 2 * half + 1
    column = {
        name: features[:, i].astype(np.float32)[:, None, None] for i, name in enumerate(FEATURES)
    }
    grid = np.arange(-half, half + 1, dtype=np.float32)
    dy = grid[None, :, None] - offset[:, 0].astype(np.float32)[:, None, None]
    dx = grid[None, None, :] - offset[:, 1].astype(np.float32)[:, None, None]
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    radius = (np.exp(column["log_diameter"]) / (2 * mpp)).astype(np.float32)
    stretch = np.exp(np.clip(column["log_aspect"], 0, 1.9) / 2)
    a = (radius * stretch).astype(np.float32)
    b = (radius / stretch).astype(np.float32)
    wave_noise = _crops(rng, bank.wave, n, size)
    wave = wave_noise * np.clip(column["irregularity"], 0, 0.3)

    rho, distance = _ellipse(u, v, a, b, wave)
    lobes = np.clip(column["lobes"][:, 0, 0], 0, 1)
    lobed = np.flatnonzero(lobes > 0.25)
    if len(lobed):
        rho[lobed], distance[lobed] = _lobed(
            rng, u[lobed], v[lobed], radius[lobed], lobes[lobed], wave[lobed]
        )
    nucleus = _soft(distance, 1.6)

    chromatin = np.clip(column["chromatin"], 0.12, 1.1)
    vesicular = np.clip(column["vesicular"], 0, 1)
    rim = np.exp(-(((distance + np.float32(0.45 / mpp)) / np.float32(0.50 / mpp)) ** 2))
    coarse, fine = _crops(rng, bank.coarse, n, size), _crops(rng, bank.fine, n, size)
    clumping = np.clip(column["clumping"], 0, 0.8)
    # Clumps of condensed chromatin are darker patches on a paler ground, more so near the rim.
    texture = clumping * (np.maximum(coarse, -1.1) * np.float32(0.6) + np.float32(0.35) * fine)
    density = chromatin * (1 - np.float32(0.45) * vesicular + texture + vesicular * 0.9 * rim)
    density = density + _nucleoli(rng, u, v, a, b, column["nucleolus"], mpp)
    density = np.maximum(density, np.float32(0.05))

    # The cytoplasm is a larger ellipse, the nucleus standing off its centre.
    width = np.clip(column["cytoplasm"], 0.05, 6.0) / np.float32(mpp)
    phase = rng.uniform(0, 2 * np.pi, n).astype(np.float32)[:, None, None]
    shift = np.clip(column["eccentricity"], 0, 1) * width
    around = _ellipse(
        u - shift * np.cos(phase), v - shift * np.sin(phase), a + width, b + width, wave * 0.7
    )[1]
    cytoplasm = _soft(around, 1.3 / mpp)
    halo_width = np.float32(0.9 / mpp)
    halo = np.clip(column["halo"], 0, 0.9) * _soft(around - halo_width, 2.5 * float(halo_width))
    grain = 1 + np.float32(0.10) * wave_noise + np.float32(0.06) * fine
    eosin = np.clip(column["cytoplasm_eosin"], 0.02, 0.8) * grain
    basophilia = np.clip(column["cytoplasm_haematoxylin"], 0.0, 0.6) * grain

    cover = cytoplasm * np.float32(0.85)
    outside = 1 - nucleus
    keep = (1 - cover) * outside * (1 - halo * (1 - cytoplasm))
    add = np.empty((n, size, size, 2), np.float32)
    add[..., 0] = basophilia * cover * outside + density * nucleus
    add[..., 1] = eosin * cover * outside + np.float32(0.55) * eosin * nucleus
    return Stamps(keep=keep, add=add, distance=distance)


def _lobed(
    rng: np.random.Generator, u: Float, v: Float, radius: Float, lobes: Float, wave: Float
) -> tuple[Float, Float]:
    """Three discs around the centre, apart by the lobes' amount, as one body."""
    n = len(u)
    turn = rng.uniform(0, 2 * np.pi, n)
    bend = rng.uniform(1.5, 2.6, (n, 2))
    turns = np.stack([turn, turn + bend[:, 0], turn - bend[:, 1]], axis=1).astype(np.float32)
    small = radius * (1 - np.float32(0.40) * lobes[:, None, None])
    best: Float | None = None
    for k in range(3):
        reach = radius * (lobes * 0.72)[:, None, None]
        cu = reach * np.cos(turns[:, k])[:, None, None]
        cv = reach * np.sin(turns[:, k])[:, None, None]
        rho = np.sqrt((u - cu) ** 2 + (v - cv) ** 2) / small + wave
        best = rho if best is None else np.minimum(best, rho)
    assert best is not None
    return best, (best - 1) * small


def _nucleoli(
    rng: np.random.Generator, u: Float, v: Float, a: Float, b: Float, strength: Float, mpp: float
) -> Float:
    """Density of one or two nucleoli."""
    n = len(u)
    total = np.zeros_like(u)
    for k in range(2):
        reach = rng.uniform(0, 0.5, n).astype(np.float32)[:, None, None]
        turn = rng.uniform(0, 2 * np.pi, n).astype(np.float32)[:, None, None]
        size = rng.uniform(0.55, 0.95, n).astype(np.float32)[:, None, None] / np.float32(mpp)
        share = 1.0 if k == 0 else (rng.random(n) < 0.4).astype(np.float32)[:, None, None]
        du, dv = u - a * reach * np.cos(turn), v - b * reach * np.sin(turn)
        total += share * np.exp(-(du * du + dv * dv) / (2 * (0.7 * size) ** 2))
    return np.asarray(np.clip(strength, 0, 0.7) * 1.5 * total, dtype=np.float32)


def half_sizes_px(features: NDArray[np.float64], mpp: float) -> NDArray[np.intp]:
    """Half size of picture that each cell needs, px, one of a few."""
    value = {name: features[:, i] for i, name in enumerate(FEATURES)}
    major = np.exp(value["log_diameter"] + np.clip(value["log_aspect"], 0, 1.9) / 2) / 2
    reach = major * (1 + 0.5 * np.clip(value["irregularity"], 0, 0.3))
    reach = reach + np.maximum(np.clip(value["cytoplasm"], 0, 6) * 1.3 + 1.2, 5 * 0.325 + 0.4)
    need = reach / mpp + 2
    sizes = np.array(_HALF_SIZES)
    return np.asarray(sizes[np.minimum(np.searchsorted(sizes, need), len(sizes) - 1)])


def stamp_cells(
    rng: np.random.Generator,
    canvas: Float,
    features: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    angle: NDArray[np.float64],
    mpp: float,
    *,
    periodic: bool = False,
    label_reach_px: float | None = None,
) -> LabelImage | None:
    """Draw cells on a canvas, in random order.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    canvas : ndarray of float32, (height, width, 2)
        Haematoxylin and eosin densities, changed in place.
    features, y, x, angle : ndarray of float64, (cells, ...)
        Latent features, centres (px) and directions (radians).
    mpp : float
        Pixel size, µm.
    periodic : bool
        Cells over an edge come in again at the opposite one.
    label_reach_px : float, optional
        Make a label image too, each nucleus dilated by this many pixels.

    Returns
    -------
    LabelImage or None
    """
    bank = chromatin_bank(rng, mpp)
    height, width = canvas.shape[:2]
    image = None
    if label_reach_px is not None:
        image = LabelImage(
            np.zeros((height, width), np.int32),
            np.full((height, width), label_reach_px, np.float32),
        )
    halves = half_sizes_px(features, mpp)
    for half in np.unique(halves):
        members = np.flatnonzero(halves == half)
        for start in range(0, len(members), _BATCH):
            chosen = members[start : start + _BATCH]
            row, col = np.rint(y[chosen]).astype(int), np.rint(x[chosen]).astype(int)
            offset = np.stack([y[chosen] - row, x[chosen] - col], axis=1)
            stamps = draw_cells(rng, features[chosen], angle[chosen], offset, int(half), mpp, bank)
            for i, (cy, cx) in enumerate(zip(row.tolist(), col.tolist(), strict=True)):
                for sy, sx in _places(cy, cx, int(half), height, width, periodic):
                    y0, x0 = max(sy - half, 0), max(sx - half, 0)
                    y1, x1 = min(sy + half + 1, height), min(sx + half + 1, width)
                    if y0 >= y1 or x0 >= x1:
                        continue
                    part = (
                        slice(y0 - sy + half, y1 - sy + half),
                        slice(x0 - sx + half, x1 - sx + half),
                    )
                    window = canvas[y0:y1, x0:x1]
                    window *= stamps.keep[i][part][..., None]
                    window += stamps.add[i][part]
                    if image is not None:
                        own = stamps.distance[i][part]
                        best = image.distance[y0:y1, x0:x1]
                        closer = own < best
                        best[closer] = own[closer]
                        image.labels[y0:y1, x0:x1][closer] = chosen[i] + 1
    return image


def _places(
    cy: int, cx: int, half: int, height: int, width: int, periodic: bool
) -> list[tuple[int, int]]:
    if not periodic:
        return [(cy, cx)]
    rows = [cy] + [cy + s for s in (-height, height) if -half <= cy + s < height + half]
    cols = [cx] + [cx + s for s in (-width, width) if -half <= cx + s < width + half]
    return [(r, c) for r in rows for c in cols]
