"""Tiny hand-made cohorts in ORION's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from lymphinfer.orion.celltable import COLUMNS, CellTable
from lymphinfer.orion.manifest import CHANNELS

WIDTH, HEIGHT = 420, 300
NAMES = ("CD45", "CD3e", "CD4", "CD8a")
AF_SHARE = {"CD45": 0.5, "CD3e": 0.8, "CD4": 0.25, "CD8a": 0.3}
SIGNAL = {"CD45": 900.0, "CD3e": 600.0, "CD4": 180.0, "CD8a": 200.0}


@dataclass
class Intensities:
    """Raw means by channel and what is true of every cell."""

    channels: dict[str, np.ndarray]
    truth: np.ndarray

    def table(self) -> CellTable:
        n = len(self.truth)
        zeros = np.zeros(n)
        return CellTable(Path("made.csv"), np.arange(1, n + 1), zeros, zeros, self.channels)


def make_intensities(
    n: int,
    seed: int = 0,
    *,
    cd45: float = 0.25,
    cd3e: float = 0.4,
    cd4: float = 0.5,
    cd8: float = 0.3,
    artefacts: float = 0.0,
) -> Intensities:
    """Offset + autofluorescence + skewed background + log-normal signal, nested as the panel is.

    Shares of children are of their parent.
    """
    rng = np.random.default_rng(seed)
    af = 200 + rng.lognormal(np.log(130), 0.35, n)
    truth = np.zeros((n, 4), bool)
    truth[:, 0] = rng.random(n) < cd45
    truth[:, 1] = truth[:, 0] & (rng.random(n) < cd3e)
    kind = rng.random(n)
    truth[:, 2] = truth[:, 1] & (kind < cd4)
    truth[:, 3] = truth[:, 1] & (kind >= cd4) & (kind < cd4 + cd8)
    channels = {"AF1": af, "Argo550": 210 + rng.normal(0, 5, n)}
    for i, name in enumerate(NAMES):
        background = 200 + AF_SHARE[name] * (af - 200) + rng.gamma(4, 2.5, n) + rng.normal(0, 4, n)
        signal = SIGNAL[name] * rng.lognormal(0, 0.45, n)
        channels[name] = background + np.where(truth[:, i], signal, 0)
    if artefacts:
        lit = rng.random(n) < artefacts
        for name in NAMES:
            channels[name] = np.where(lit, 20_000 * rng.lognormal(0, 0.2, n), channels[name])
    return Intensities(channels, truth)


def write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    n = len(next(iter(columns.values())))
    full = {name: columns.get(name, np.full(n, 1.0)) for name in COLUMNS}
    np.savetxt(
        path,
        np.column_stack(list(full.values())),
        fmt=["%d", *["%.6g"] * (len(COLUMNS) - 1)],
        delimiter=",",
        header=",".join(full),
        comments="",
    )


def write_he(path: Path, seed: int = 0, mpp: float | None = 0.325, size=(WIDTH, HEIGHT)) -> None:
    rng = np.random.default_rng(seed)
    width, height = size
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    metadata = {"axes": "YXS"}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
    # zlib, so that pixels come back as they are; ORION's own tiles are JPEG.
    tifffile.imwrite(
        path,
        image,
        ome=True,
        photometric="rgb",
        tile=(128, 128),
        compression="zlib",
        metadata=metadata,
    )


def make_slide(
    root: Path,
    folder: str,
    *,
    n: int = 400,
    seed: int = 0,
    full: bool = False,
    number: int = 29,
    **shares: float,
) -> Path:
    """Write a slide's folder: H&E and cell table, and with `full` the other three files."""
    home = root / folder
    home.mkdir(parents=True)
    made = make_intensities(n, seed, **shares)
    rng = np.random.default_rng(seed + 1000)
    columns = {name: np.full(n, 300.0) for name in CHANNELS} | made.channels
    columns["CellID"] = np.arange(1, n + 1, dtype=float)
    columns["X_centroid"] = rng.random(n) * (WIDTH - 1)
    columns["Y_centroid"] = rng.random(n) * (HEIGHT - 1)
    write_table(home / f"P37_S{number}-{folder}.csv", columns)
    write_he(home / f"18459_LSP{number}_US_SCAN_OR_001__093059-registered.ome.tif", seed)
    if full:
        size = {"PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325}
        tifffile.imwrite(
            home / f"P37_S{number}-{folder}-mask.ome.tif",
            np.zeros((HEIGHT, WIDTH), np.int32),
            ome=True,
            tile=(128, 128),
            compression="zlib",
            metadata={"axes": "YX"} | size,
        )
        tifffile.imwrite(
            home / f"P37_S{number}_A24_C59kX_E15_20220106_014304_946511-zlib.ome.tiff",
            np.zeros((19, HEIGHT, WIDTH), np.uint16),
            ome=True,
            photometric="minisblack",
            tile=(128, 128),
            compression="zlib",
            metadata={"axes": "CYX"} | size,
        )
        (home / "markers.csv").write_text("\n".join(CHANNELS) + "\n")
    return home
