"""H&E and immunofluorescence of one made section, in two frames."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

HE_MPP, IF_MPP = 1.0, 1.3
SIDE_UM = 2000


def made_nuclei(n: int = 7_000, seed: int = 0) -> np.ndarray:
    """Nuclei in µm, crowded in places and absent from others, float64 (N, 2)."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(300, SIDE_UM - 300, (30, 2))
    spread = rng.uniform(60, 260, 30)
    which = rng.integers(0, 30, n)
    xy = centres[which] + rng.normal(0, 1, (n, 2)) * spread[which, None]
    return xy[((xy > 20) & (xy < SIDE_UM - 20)).all(axis=1)]


def true_transform(angle_deg: float, shift_um: float) -> np.ndarray:
    """(2, 3): from µm of the H&E to µm of the IF, turned about the middle."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    linear = np.array([[c, -s], [s, c]])
    middle = np.full(2, SIDE_UM / 2)
    shift = np.array([0.8, 0.6]) * shift_um
    return np.column_stack([linear, middle - linear @ middle + shift])


def dots(xy_um: np.ndarray, mpp: float, seed: int, side_um: int = SIDE_UM) -> np.ndarray:
    """Nuclei as blobs of 5 µm, 0 to about 1, (H, W): drawn between pixels, not on them."""
    rng = np.random.default_rng(seed)
    side = round(side_um / mpp)
    image = np.zeros((side, side))
    place = xy_um / mpp - 0.5
    base = np.floor(place).astype(int)
    part = place - base
    light = rng.uniform(0.6, 1.4, len(xy_um))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1]) * light
            x, y = base[:, 0] + dx, base[:, 1] + dy
            ok = (x >= 0) & (y >= 0) & (x < side) & (y < side)
            np.add.at(image, (y[ok], x[ok]), weight[ok])
    blurred = gaussian_filter(image, 2.2 / mpp)
    return np.clip(blurred * 2 * np.pi * (2.2 / mpp) ** 2, 0, 1.5)


def write_he(path: Path, xy_um: np.ndarray, seed: int = 1, side_um: int = SIDE_UM) -> None:
    rng = np.random.default_rng(seed)
    nuclei = dots(xy_um, HE_MPP, seed, side_um)[..., None]
    stroma = gaussian_filter(rng.normal(0, 1, nuclei.shape[:2]), 12)[..., None] * 120
    pale = np.array([232.0, 190, 215]) + stroma
    image = pale * (1 - 0.6 * np.minimum(nuclei, 1)) + rng.normal(0, 3, (*nuclei.shape[:2], 3))
    write_image(path, np.clip(image, 0, 255).astype(np.uint8), "YXS", HE_MPP)


def write_if(path: Path, xy_um: np.ndarray, transform: np.ndarray, seed: int = 2) -> None:
    """Two planes, uint16: the nuclei, and one marker on every third of them."""
    rng = np.random.default_rng(seed)
    moved = xy_um @ transform[:, :2].T + transform[:, 2]
    # A tenth of the nuclei is not to be seen in the other image.
    moved = moved[rng.random(len(moved)) > 0.1]
    planes = [dots(moved, IF_MPP, seed), dots(moved[::3], IF_MPP, seed + 1)]
    image = np.stack([200 + 4000 * p + rng.normal(0, 20, p.shape) for p in planes])
    write_image(path, np.clip(image, 0, 65535).astype(np.uint16), "CYX", IF_MPP)


def write_image(path: Path, image: np.ndarray, axes: str, mpp: float) -> None:
    """A tiled OME-TIFF."""
    tifffile.imwrite(
        path,
        image,
        ome=True,
        photometric="rgb" if "S" in axes else "minisblack",
        tile=(256, 256),
        compression="zlib",
        metadata={"axes": axes, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp},
    )
