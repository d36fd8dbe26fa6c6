r"""Teach a thin copy of the shipped detector at a larger pixel size what the shipped one says.

python -m recipes.he.student_data --data DIR --out student.npz
python -m recipes.he.thin_train pool --data student.npz --out RUN [--crops 1500] [--mpp 0.5]
python -m recipes.he.thin_train train --out RUN [--seconds 3600] [--batch 8]

``pool`` draws changed crops and keeps what the teacher says of them, brought to the student's
grids, so that training computes the student alone; ``train`` makes the copy (`recipes.he.thin`) and
trains it. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.nuclei.stardist.batch_norm import fold_batch_norm, unfold_batch_norm
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.network import build_network
from recipes.he.student import SHARES, Scale, losses, rate_at
from recipes.he.student_data import MPP, Crops, unpack
from recipes.he.student_teacher import Lesson, Teacher
from recipes.he.thin import thinned

CROP_PX = 320
"""Of a crop at the teacher's pixel size; at 0.5 µm/px that is 208 px."""


def positions(count: int, step: float, first: float, to: tuple[float, float]) -> Tensor:
    """Where places of one grid lie on another one, as indices of it.

    Parameters
    ----------
    count : int
        Places, ``step`` µm apart, the first at ``first`` µm.
    to : tuple of float
        Step and first place of the other grid, µm.
    """
    return (torch.arange(count) * step + first - to[1]) / to[0]


def sampled(maps: Tensor, index: Tensor, mode: str = "bilinear") -> Tensor:
    """Maps (B, C, H, W) at (fractional) rows and columns `index` (n,), (B, C, n, n)."""
    side = maps.shape[-1]
    at = (index + 0.5) / side * 2 - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="ij")[::-1], dim=-1)
    return F.grid_sample(
        maps, grid.expand(len(maps), -1, -1, -1), mode=mode, padding_mode="border",
        align_corners=False,
    )  # fmt: skip


@torch.no_grad()
def make_pool(data: Path, weights: Path, count: int, mpp: float, seed: int) -> dict[str, Tensor]:
    """Crops at the student's pixel size, and what the teacher says of them, on its grids."""
    crops = Crops(unpack(data), CROP_PX, torch.device("cpu"), seed)
    teacher = channels_last(Teacher(weights)).eval()
    side = round(CROP_PX * MPP / mpp)
    # Pixels, the output grid and the near features': where the first lies, and the steps, µm.
    outputs = positions(side // 2, 2 * mpp, 0.5 * mpp, (2 * MPP, 0.5 * MPP))
    near = positions(side // 4, 4 * mpp, 1.5 * mpp, (4 * MPP, 1.5 * MPP))
    on_pixels = positions(side // 2, 2 * mpp, 0.5 * mpp, (MPP, 0.5 * MPP))
    labels = positions(side // 4, 4 * mpp, 1.5 * mpp, (MPP, 0.5 * MPP))
    rows: dict[str, list[Tensor]] = {}
    began = time.perf_counter()
    for start in range(0, count, 8):
        crops.strength = 1.0 if start % 16 else 0.5
        x, known, label = crops.draw(8)
        lesson = teacher(x)
        small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        found = {
            "pixels": (small * 255).round().byte(),
            "prob": sampled(lesson.prob[:, None], outputs).half(),
            "dist": (sampled(lesson.dist, outputs) * (MPP / mpp)).half(),
            "marker": sampled(lesson.marker, outputs).half(),
            "near": sampled(lesson.near, near).half(),
            "known": sampled(known[:, None], on_pixels, "nearest").half(),
            "label": sampled(label[:, None], labels, "nearest").byte(),
        }
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
        if start % 80 == 0:
            print(f"{start} of {count}, {time.perf_counter() - began:.0f} s", flush=True)
    return {k: torch.cat(v).contiguous() for k, v in rows.items()}


class ThinTraining:
    """A run on a pool.

    Parameters
    ----------
    pool : dict of str to Tensor
        Of `make_pool`.
    net : StarDistNet
        Without batch normalisation.
    reader : Tensor, (K, 128, 1, 1)
        What he-v2's head makes of near features first.
    """

    def __init__(self, pool: dict[str, Tensor], net: Any, reader: Tensor, batch: int, rate: float):
        self.pool, self.batch, self.rate, self.reader = pool, batch, rate, reader
        start = pool["pixels"][:24].float() / 255
        self.net = channels_last(unfold_batch_norm(net, start)).train()
        self.average = deepcopy(self.net).eval()
        self.probe = nn.Conv2d(128, 1, 1)
        learned = [*self.net.parameters(), *self.probe.parameters()]
        groups = [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        near = pool["near"][:64].float()
        head = F.conv2d(near, reader)

        def spread(x: Tensor) -> Tensor:
            std = x.std(dim=(0, 2, 3), keepdim=True)
            return std.clamp(min=0.2 * float(std.mean()))

        self.scale = Scale(spread(near), spread(head))
        self.order = torch.empty(0, dtype=torch.long)
        self.random = torch.Generator().manual_seed(1)
        self.step, self.seconds = 0, 0.0
        theirs = self.net.state_dict()
        ours = {k: v for k, v in self.average.state_dict().items() if v.is_floating_point()}
        self.followed, self.followers = [theirs[k] for k in ours], list(ours.values())

    def take(self, progress: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_at(progress)
        if len(self.order) < self.batch:
            self.order = torch.randperm(len(self.pool["pixels"]), generator=self.random)
        index, self.order = self.order[: self.batch], self.order[self.batch :]
        of = {k: v[index] for k, v in self.pool.items()}
        x = (of["pixels"].float() / 255).contiguous(memory_format=torch.channels_last)
        lesson = Lesson(
            of["prob"][:, 0].float(), of["dist"].float(), of["marker"].float(), of["near"].float()
        )
        found = self.net(x)
        known, label = of["known"][:, 0].float(), of["label"][:, 0].float()
        parts = losses(found, lesson, known, label, self.probe, self.reader, self.scale)
        total = torch.stack([SHARES[k] * v for k, v in parts.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            decay = min(0.995, (self.step + 1) / (self.step + 20))
            torch._foreach_lerp_(self.followers, self.followed, 1 - decay)
        return {k: float(v) for k, v in {**parts, "total": total}.items()}

    def result(self) -> dict[str, Tensor]:
        plain = fold_batch_norm(deepcopy(self.average).float())
        return {k: v.contiguous() for k, v in plain.state_dict().items()}

    def save_state(self, file: Path) -> None:
        part = file.with_suffix(".part")
        torch.save(
            {
                "net": self.net.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "step": self.step,
                "seconds": self.seconds, "probe": self.probe.state_dict(),
            },
            part,
        )  # fmt: skip
        part.replace(file)

    def load_state(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        for name in ("net", "average", "optimizer", "probe"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.random.manual_seed(1_000_003 + self.step)


def config_of(teacher: StarDistConfig, values: dict[str, Any]) -> StarDistConfig:
    return replace(teacher, marker_features=True, **values)


THIN: dict[str, Any] = {} if __import__("os").environ.get("FULL") else {
    "n_blocks": 2, "inner": (16, 32, 64, 128), "lateral": (8, 24, 48), "n_conv_after_unet": 48,
}  # fmt: skip


def train(
    out: Path, weights: Path, seconds: float, batch: int, rate: float, initial: Path | None
) -> None:
    teacher = Teacher(weights)
    pool = load_file(out / "pool.safetensors")
    config = config_of(teacher.net.config, THIN)
    net = build_network(config)
    if initial is not None:
        net.load_state_dict(load_file(initial))
    elif (out / "start.safetensors").exists():
        net.load_state_dict(load_file(out / "start.safetensors"))
    else:
        x = torch.from_numpy(np.load(out / "start_pixels.npy")).float() / 255
        net = thinned(teacher.net, config, x)
        save_file(net.state_dict(), out / "start.safetensors")
    training = ThinTraining(pool, net, teacher.reader, batch, rate)
    state = out / "state.pt"
    if state.exists():
        training.load_state(state)
        print(f"goes on from step {training.step}", flush=True)
    began, before, saved = time.perf_counter(), training.seconds, training.seconds
    sums: dict[str, float] = {}
    rows = []
    while True:
        training.seconds = before + time.perf_counter() - began
        progress = training.seconds / seconds
        if progress >= 1 or training.seconds - saved > 120:
            saved = training.seconds
            save_file(training.result(), out / "thin.safetensors")
            training.save_state(state)
        if progress >= 1:
            return
        for k, v in training.take(progress).items():
            sums[k] = sums.get(k, 0) + v
        if not math.isfinite(sums["total"]):
            raise SystemExit("the losses are no numbers any more")
        if training.step % 20 == 0:
            rows.append(
                {
                    "step": training.step,
                    "s": training.seconds,
                    **{k: round(v / 20, 4) for k, v in sums.items()},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            sums = {}


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["pool", "train"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--crops", type=int, default=1500)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--initial", type=Path)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    if a.what == "pool":
        save_file(make_pool(a.data, a.weights, a.crops, a.mpp, a.seed), a.out / "pool.safetensors")
        return
    train(a.out, a.weights, a.seconds, a.batch, a.rate, a.initial)


if __name__ == "__main__":
    main()
