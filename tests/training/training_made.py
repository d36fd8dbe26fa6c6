"""Tiny patch stores (a positive patch is darker in one channel, by marker) and configurations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lymphinfer.orion.patches import PatchWriter, StoreCells, StoreInfo
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.config_file import parse_config
from lymphinfer.training.data import StoreSet

SIDE = 32


def make_store(path: Path, *, patient: str, split: str, n: int = 96, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    cd45 = rng.random(n) < 0.5
    cd3e = cd45 & (rng.random(n) < 0.6)
    cd4 = cd3e & (rng.random(n) < 0.5)
    cd8a = cd3e & ~cd4
    labels = np.stack([cd45, cd3e, cd4, cd8a], axis=1).astype(np.int8)
    patches = rng.integers(120, 220, (n, SIDE, SIDE, 3)).astype(np.int16)
    patches[cd45, 8:24, 8:24, 0] -= 80
    patches[cd3e, 8:24, 8:24, 1] -= 80
    patches[cd4, 8:16, 8:24, 2] -= 80
    patches[cd8a, 16:24, 8:24, 2] -= 80
    labels[rng.random(labels.shape) < 0.05] = -1
    info = StoreInfo(
        slide=path.stem,
        patient=patient,
        split=split,
        patch_px=SIDE,
        mpp=0.325,
        gates_sha256="0" * 64,
        panel=TCELL_PANEL.names,
        fingerprint=f"{path.stem}-{seed}-{n}",
    )
    x = rng.uniform(0, 1000, n)
    writer = PatchWriter(path, info, StoreCells(np.arange(1, n + 1), x, x[::-1].copy(), labels))
    if not writer.complete:
        writer.append(patches.astype(np.uint8))
        writer.finish()
    return path


def make_sets(folder: Path) -> tuple[StoreSet, StoreSet]:
    train = [
        make_store(folder / f"CRC0{i}.zarr", patient=f"C{i}", split="train", seed=i, n=96 + i)
        for i in (1, 2)
    ]
    val = [make_store(folder / "CRC03.zarr", patient="C3", split="val", seed=3, n=80)]
    return StoreSet(train), StoreSet(val)


def tiny_config(**fit: object) -> RetrainConfig:
    return parse_config(
        {
            "model": {"backbone": "test_resnet", "hidden": 8, "pretrained": "no"},
            "data": {"patch_px": SIDE},
            "fit": {
                "batch_size": 16,
                "accumulation": 2,
                "epochs": 3,
                "workers": 0,
                "learning_rate": 2e-3,
                "precision": "no",
                "checkpoint_steps": 2,
                **fit,
            },
        }
    )


@dataclass(frozen=True)
class Case:
    """What a retraining is given."""

    cohort: Path
    gates: Path
    config: RetrainConfig


def retrain_config(detector: Path, **sections: dict[str, object]) -> RetrainConfig:
    values: dict[str, dict[str, object]] = {
        "data": {"patch_px": 32, "cells_per_patient": 200},
        "model": {"backbone": "test_resnet", "hidden": 8, "pretrained": "no"},
        "fit": {
            "batch_size": 16,
            "accumulation": 1,
            "epochs": 2,
            "workers": 0,
            "learning_rate": 2e-3,
            "precision": "no",
            "checkpoint_steps": 5,
        },
        "bundle": {"detector": str(detector), "bootstrap": 50},
    }
    for name, table in sections.items():
        values[name] |= table
    return parse_config(values)
