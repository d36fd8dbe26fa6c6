"""`--dry-run`: the steps of a retraining, what is done, how large and how long the rest is."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.filesize import decimal

from lymphinfer.errors import DataError
from lymphinfer.markers.classifier import MarkerClassifier, masked_bce
from lymphinfer.orion.patches import PatchStore
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.device import make_accelerator
from lymphinfer.training.inputs import Inputs, open_inputs
from lymphinfer.training.start import build_classifier

# Patches a second that were cut from JPEG pyramids on two slow cores; most disks keep up.
CUT_PER_SECOND = 400
# Bytes of a cell table that are parsed in a second.
TABLE_BYTES_PER_SECOND = 60e6


@dataclass(frozen=True)
class PlannedStep:
    """One step of a retraining.

    Attributes
    ----------
    name : str
    done : str
        What is there already.
    size : str
    seconds : float
        Estimate of what is left.
    """

    name: str
    done: str
    size: str
    seconds: float

    @property
    def duration(self) -> str:
        """Seconds for people: ``40 s``, ``12 min``, ``3.5 h``."""
        if self.seconds < 100:
            return f"{self.seconds:.0f} s"
        if self.seconds < 6000:
            return f"{self.seconds / 60:.0f} min"
        return f"{self.seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Speed:
    """What the network reaches here, patches a second; weights in millions."""

    train: float
    predict: float
    millions: float


def measure_speed(config: RetrainConfig, n_markers: int, device: str, steps: int = 3) -> Speed:
    """Time a few training steps on random patches."""
    accelerator = make_accelerator(config.fit.precision, device)
    blank = type(config.model)(
        backbone=config.model.backbone,
        independent=config.model.independent,
        hidden=config.model.hidden,
        pretrained="no",
    )
    names = tuple(str(i) for i in range(n_markers))
    net, _ = build_classifier(blank, names, config.data.patch_px)
    net.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters()))
    batch, px = config.fit.batch_size, config.data.patch_px
    x = torch.rand(batch, 3, px, px, device=accelerator.device)
    y = torch.zeros(batch, n_markers, device=accelerator.device)

    def train_step() -> None:
        accelerator.backward(masked_bce(model(x), y))
        optimizer.step()
        optimizer.zero_grad()

    def predict_step() -> None:
        with torch.no_grad():
            model(x)

    train_step()
    rates = []
    for step in (train_step, predict_step):
        began = time.monotonic()
        for _ in range(steps):
            step()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(batch * steps / (time.monotonic() - began))
    return Speed(rates[0], rates[1], parameter_count(net) / 1e6)


def parameter_count(net: MarkerClassifier) -> int:
    """Number of weights."""
    return sum(p.numel() for p in net.parameters())


def plan_retrain(
    cohort: Path, gates: Path, config: RetrainConfig, out: Path, work: Path, device: str = "auto"
) -> list[PlannedStep]:
    """Say what `retrain` would do; only a few training steps on random patches are computed.

    Parameters
    ----------
    cohort, gates : Path
    config : RetrainConfig
    out, work : Path
    device : str

    Returns
    -------
    list of PlannedStep

    Raises
    ------
    DataError
        Listing every problem of cohort, gates and configuration.
    """
    inputs = open_inputs(cohort, gates, config)
    speed = measure_speed(config, len(inputs.panel), device)
    folder = work / f"patches-{config.data.patch_px}px"
    tables = sum(s.cells.stat().st_size for s in inputs.cohort.slides)
    images = sum(s.he.stat().st_size for s in inputs.cohort.slides)
    cells = {
        split: len(getattr(inputs.splits, split)) * config.data.cells_per_patient
        for split in ("train", "val", "test")
    }
    there = _finished_patches(folder, inputs)
    missing = max(0, sum(cells.values()) - there)
    store_bytes = sum(cells.values()) * config.data.patch_px**2 * 3
    epoch = cells["train"] / speed.train + cells["val"] / speed.predict
    steps = math.ceil(cells["train"] / config.fit.batch_size / config.fit.accumulation)
    fit = config.fit
    return [
        PlannedStep(
            "check",
            "",
            f"{len(inputs.cohort.slides)} slides, {decimal(images)} of H&E, {decimal(tables)} of "
            "cell tables",
            tables / TABLE_BYTES_PER_SECOND,
        ),
        PlannedStep(
            "patches",
            f"{there:,} patches" if there else "",
            f"at most {sum(cells.values()):,} patches of {config.data.patch_px} px, "
            f"{decimal(store_bytes)}",
            (tables / TABLE_BYTES_PER_SECOND if missing else 0) + missing / CUT_PER_SECOND,
        ),
        PlannedStep(
            "train",
            "begun" if list(work.glob("train-*")) else "",
            f"{config.model.backbone}, {speed.millions:.1f} M weights; {cells['train']:,} + "
            f"{cells['val']:,} patches an epoch, {steps:,} steps; at most {fit.epochs} epochs at "
            f"{speed.train:,.0f} patches/s here",
            epoch * fit.epochs,
        ),
        PlannedStep(
            "calibrate",
            "",
            f"{cells['val']:,} validation patches",
            cells["val"] / speed.predict + tables / TABLE_BYTES_PER_SECOND / 5,
        ),
        PlannedStep(
            "evaluate",
            "",
            f"{cells['test'] or cells['val']:,} patches",
            (cells["test"] or cells["val"]) / speed.predict,
        ),
        PlannedStep("bundle", "", f"{out}, {decimal(int(speed.millions * 2e6))}", 5.0),
    ]


def _finished_patches(folder: Path, inputs: Inputs) -> int:
    total = 0
    for slide in inputs.cohort.slides:
        try:
            total += len(PatchStore(folder / f"{slide.folder}.zarr"))
        except DataError:
            continue
    return total
