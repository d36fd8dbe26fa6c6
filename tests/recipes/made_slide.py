"""A small slide in the layout of ORION's CRC01, and images of other laboratories, made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from recipes.he.crc01 import GATES, MARKERS, TILE_PX


def write_slide(folder: Path, columns: int = 3, seed: int = 0) -> np.ndarray:
    """Pale tissue with a dark dot at each nucleus; every third is positive for all markers."""
    rng = np.random.default_rng(seed)
    height, width = TILE_PX, columns * TILE_PX
    image = np.full((height, width, 3), (235, 205, 225), np.uint8)
    xy = np.stack(np.meshgrid(np.arange(12, width, 24), np.arange(12, height, 24)), -1)
    xy = xy.reshape(-1, 2) + rng.integers(-4, 5, (xy.size // 2, 2))
    positive = np.arange(len(xy)) % 3 == 0
    light = np.zeros((height, width), np.uint8)
    for (x, y), p in zip(xy, positive, strict=True):
        image[y - 1 : y + 2, x - 1 : x + 2] = (70, 40, 120)
        if p:
            light[y - 2 : y + 3, x - 2 : x + 3] = 120
    for name in ("he", *MARKERS):
        (folder / name).mkdir(parents=True)
    for column in range(columns):
        part = np.s_[:, column * TILE_PX : (column + 1) * TILE_PX]
        Image.fromarray(image[part]).save(folder / "he" / f"{column}_0.jpg", quality=95)
        for name in MARKERS:
            Image.fromarray(light[part]).save(folder / name / f"{column}_0.jpg", quality=95)
    values = {name: np.where(positive, 120, 0).astype(np.uint8) for name in GATES}
    table = {"x": xy[:, 0].astype(np.int32), "y": xy[:, 1].astype(np.int32), **values}
    pq.write_table(pa.table(table), folder / "cells.parquet")
    return xy


def write_others(data: Path, seed: int = 0) -> None:
    """One image of BRCA-M2C's kind and one of CoNSeP's."""
    rng = np.random.default_rng(seed)
    brca, consep = data / "brca-m2c" / "train", data / "consep" / "train"
    for folder in (brca, consep):
        folder.mkdir(parents=True)
    for name in ("TCGA-A7-0001_1", "TCGA-A8-0002_1"):
        pixels = rng.integers(120, 240, (600, 620, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(brca / f"{name}.jpg")
        rows = "".join(f"{x},{y},{1 + (x + y) // 40 % 3}\n" for x in range(20, 600, 40)
                       for y in range(20, 580, 40))  # fmt: skip
        (brca / f"{name}.csv").write_text("x,y,label\n" + rows)
    instances = np.zeros((400, 400), np.uint16)
    for number, (y, x) in enumerate(np.argwhere(np.ones((8, 8))) * 48 + 8, start=1):
        instances[y : y + 20, x : x + 20] = number
    ids = np.arange(1, instances.max() + 1)
    np.savez(consep / "train_1.npz", inst_map=instances, nucleus_id=ids, class7=ids % 7 + 1)
    Image.fromarray(rng.integers(120, 240, (400, 400, 3), dtype=np.uint8)).save(
        consep / "train_1.png"
    )
