r"""Teach a lean copy of the shipped detector (`recipes.he.lean`) what the shipped one says.

python -m recipes.he.student_data --data DIR --out student.npz
python -m recipes.he.lean_train --data DIR --crops student.npz --out RUN
python -m recipes.he.int8 --data DIR --bundle weights/he-v2 --lean RUN/lean.safetensors

Changed crops and what the shipped network says of them are computed once (`--pool`) and gone
through again and again. The rate follows the clock: any machine ends with a rate of zero after the
given seconds. Writes ``lean.safetensors`` (the moving average) and ``lean.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from recipes.he.int8 import tiles_of
from recipes.he.lean import Lean, hidden_as_shipped, lean_copy
from recipes.he.student_data import MPP, Crops, unpack
from recipes.he.student_teacher import Lesson, Teacher

SIZE_PX, BATCH, POOL = 256, 8, 2224
EDGE = 8
"""Of the output grid, where the teacher itself sees too little around a nucleus."""
SHARES = {
    "prob": 2.0,
    "logit": 0.05,
    "dist": 0.3,
    "overlap": 0.8,
    "marker": 0.3,
    "near": 0.25,
    "head": 0.25,
}
WARM, DECAY, CLIP = 0.04, 0.99, 3.0
WEIGHTS, LOG = "lean.safetensors", "lean.json"


@torch.no_grad()
def make_pool(teacher: Teacher, crops: Crops, count: int) -> dict[str, Tensor]:
    """Crops and what the teacher says of them, as `Lean` says it, in half precision."""
    rows: dict[str, list[Tensor]] = {}
    for start in range(0, count, BATCH):
        crops.strength = 1.0 if start // BATCH % 2 else 0.4
        x = crops.draw(BATCH)[0]
        rows.setdefault("pixels", []).append((x * 255).round().byte())
        for name, values in teacher.logits(x)._asdict().items():
            rows.setdefault(name, []).append(values.half())
    return {name: torch.cat(values) for name, values in rows.items()}


def losses(
    found: Lesson, lesson: Lesson, reader: Tensor, spread: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Scalars by the names of `SHARES`.

    Parameters
    ----------
    found, lesson : Lesson
        Of the copy and of the teacher, as `Lean` says it.
    reader : Tensor, (K, 128, 1, 1)
        What he-v2's head makes of near features first.
    spread : tuple of Tensor
        Standard deviations of near features and of what `reader` makes of them.
    """
    inner = (..., slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    half = (..., slice(EDGE // 2, -EDGE // 2), slice(EDGE // 2, -EDGE // 2))
    wanted, logit = lesson.prob[inner], found.prob[inner]
    prob = wanted.sigmoid()
    bce = F.binary_cross_entropy_with_logits(logit, prob) - F.binary_cross_entropy(prob, prob)
    # Near the threshold it is decided which nuclei there are.
    unsure = 4 * prob * (1 - prob)
    gap = (unsure * (logit - wanted).square()).sum() / unsure.sum()
    # Rays are measured again on points towards the boundary, where the probability is low.
    weight = prob + 0.15 * (prob > 0.1)
    total = weight.sum() + 1e-6
    rays, dist = found.dist[inner], lesson.dist[inner]
    dist_loss = (weight * (rays - dist).abs().mean(dim=1)).sum() / total
    a, b = rays.clamp(min=0.1), dist.clamp(min=0.1)
    overlap = (torch.maximum(a, b).sum(dim=1) / torch.minimum(a, b).sum(dim=1)).log()
    inside = 0.05 + F.avg_pool2d(lesson.prob.sigmoid()[:, None], 2)[half]
    inside = inside / inside.sum()
    marker = lesson.marker.sigmoid()[half]
    told = F.binary_cross_entropy_with_logits(found.marker[half], marker, reduction="none")
    told = told - F.binary_cross_entropy(marker, marker, reduction="none")
    error = found.near - lesson.near
    near = (error / spread[0]).square()[half].mean(dim=1, keepdim=True)
    head = (F.conv2d(error, reader) / spread[1]).square()[half].mean(dim=1, keepdim=True)
    return {
        "prob": bce,
        "logit": gap,
        "dist": dist_loss,
        "overlap": (weight * overlap).sum() / total,
        "marker": (inside * told).sum(),
        "near": (inside * near).sum(),
        "head": (inside * head).sum(),
    }


def spreads(near: Tensor, reader: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations of near features (B, 128, h, w), and of what `reader` makes of them."""

    def spread(x: Tensor) -> Tensor:
        std = x.std(dim=(0, 2, 3), keepdim=True)
        return std.clamp(min=0.2 * float(std.mean()))

    return spread(near), spread(F.conv2d(near, reader))


def rate_at(progress: float) -> float:
    """Share of the highest rate: up along a line, down along a cosine, to zero at 1."""
    return min(1.0, progress / WARM + 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    lean: Lean, pool: dict[str, Tensor], reader: Tensor, seconds: float, rate: float
) -> tuple[Lean, int]:
    """Teach `lean`; the moving average of its weights, and the steps taken."""
    learned = list(lean.parameters())
    for p in learned:
        p.requires_grad_(True)
    channels_last(lean).train()
    average = deepcopy(lean).eval()
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=1e-4, betas=(0.9, 0.99))
    spread = spreads(pool["near"][:32].float(), reader)
    rng, order, step = np.random.default_rng(1), np.empty(0, np.intp), 0
    began = time.perf_counter()
    while (passed := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_at(passed)
        if len(order) < BATCH:
            order = rng.permutation(len(pool["pixels"]))
        some, order = torch.from_numpy(order[:BATCH]), order[BATCH:]
        batch = {name: values[some].float() for name, values in pool.items()}
        x = batch.pop("pixels").div(255).contiguous(memory_format=torch.channels_last)
        parts = losses(lean(x), Lesson(**batch), reader, spread)
        loss = torch.stack([SHARES[name] * value for name, value in parts.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, CLIP)
        optimizer.step()
        step += 1
        with torch.no_grad():
            share = 1 - min(DECAY, (1 + step) / (10 + step))
            for mean, now in zip(average.parameters(), lean.parameters(), strict=True):
                mean.lerp_(now, share)
        if step % 50 == 1:
            said = {name: round(float(value.detach()), 4) for name, value in parts.items()}
            print(f"step {step}, {passed:.0%}: {said}", flush=True)
    return average, step


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tiles = [
        torch.from_numpy(tile).permute(0, 3, 1, 2).float() / 255
        for tile in tiles_of(arguments.data, MPP)
    ]
    teacher = Teacher(arguments.weights).eval()
    lean = lean_copy(arguments.weights, tiles)
    crops = Crops(unpack(arguments.crops), SIZE_PX, torch.device("cpu"), arguments.seed)
    pool = make_pool(teacher, crops, arguments.pool)
    seconds, rate = arguments.seconds, arguments.rate
    average, steps = train(lean, pool, teacher.reader, seconds, rate)
    hidden_as_shipped(average, teacher, tiles)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in average.state_dict().items()}
    save_file(weights, arguments.out / WEIGHTS)
    log = {"steps": steps, "seconds": seconds, "rate": rate, "crops": arguments.pool}
    (arguments.out / LOG).write_text(json.dumps(log, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
