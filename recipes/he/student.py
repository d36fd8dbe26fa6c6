r"""Teach a compact detector what the shipped one predicts, feature maps of the near head included.

python -m recipes.he.student_data --data DIR --out student.npz
python -m recipes.he.student --data student.npz --out RUN [--weights weights] [--seconds 540]
    [--batch 64] [--device cuda] [--state FILE] [--initial RUN/student.safetensors]

Teacher and student see the same changed pixels (Beyer et al. 2022, *a good teacher is patient and
consistent*). The rate follows the clock, so that any machine ends with a rate of zero after the
given seconds. Writes ``student.safetensors`` (the moving average, batch normalisation folded) and
``student.json``; with a state file, a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.nuclei.stardist.batch_norm import fold_batch_norm, unfold_batch_norm
from lymphinfer.nuclei.stardist.network import (
    StarDistConfig,
    StarDistNet,
    StarDistOutput,
    build_network,
)
from recipes.he.student_data import Crops, unpack
from recipes.he.student_teacher import Lesson, Teacher

NETWORK = StarDistConfig(
    encoder="compact",
    n_filter_base=24,
    n_depth=3,
    widths=(48, 96, 160),
    blocks=(0, 1, 2),
    n_conv_after_unet=64,
    batch_norm=True,
    n_markers=1,
    n_marker_context=128,
    marker_features=True,
)
MARGIN_PX = 16
"""Of a crop, where the teacher itself sees too little around a nucleus."""
LABEL_SHARE = 0.25
"""Of an annotation in the target probability, where there is one."""
TOLD = (0.02, 0.94)
"""Target of a label of CD45: the first where it is not, the sum where it is."""
DECAY, WARM, LATE, LATE_STRENGTH = 0.999, 0.03, 0.7, 0.5
"""From the share `LATE` of the run on crops are changed less: nearer to images as they are."""
SHARES = {
    "prob": 2.0,
    "dist": 0.2,
    "overlap": 0.5,
    "near": 0.25,
    "head": 0.25,
    "marker": 0.3,
    "told": 0.3,
}
WEIGHTS, LOG = "student.safetensors", "student.json"


@dataclass
class Scale:
    """Standard deviations of the teacher's near features and of what he-v2's head makes of them."""

    near: Tensor
    head: Tensor


@torch.no_grad()
def measure_scale(
    teacher: Teacher, reader: Tensor, crops: Crops, batch: int, dtype: torch.dtype
) -> Scale:
    """`Scale` on a batch."""
    near = teacher(crops.draw(batch)[0].to(dtype)).near
    head = F.conv2d(near, reader)

    def spread(x: Tensor) -> Tensor:
        std = x.std(dim=(0, 2, 3), keepdim=True)
        return std.clamp(min=0.2 * float(std.mean()))

    return Scale(spread(near), spread(head))


def losses(
    found: StarDistOutput,
    lesson: Lesson,
    known: Tensor,
    label: Tensor,
    probe: nn.Conv2d,
    reader: Tensor,
    scale: Scale,
) -> dict[str, Tensor]:
    """Scalars by the names of `SHARES`.

    Parameters
    ----------
    found : StarDistOutput
        Of the student.
    lesson : Lesson
    known : Tensor, (B, H, W)
        Object probability of an annotation, negative where there is none.
    label : Tensor, (B, H, W)
        Of `Crops.draw`.
    probe : Conv2d
        From near features to CD45.
    reader : Tensor, (K, 128, 1, 1)
        What he-v2's head makes of near features first.
    scale : Scale
    """
    assert found.marker_logit is not None and found.marker_features is not None
    edge = MARGIN_PX // 2
    inner = (..., slice(edge, -edge), slice(edge, -edge))
    half = (..., slice(edge // 2, -edge // 2), slice(edge // 2, -edge // 2))
    prob, dist = lesson.prob[inner], lesson.dist[inner]
    known = known[:, ::2, ::2][inner]
    target = torch.where(known >= 0, torch.lerp(prob, known, LABEL_SHARE), prob)
    logit = found.prob_logit[:, 0].float()[inner]
    # What is left of it once the probabilities agree is the target's own entropy: taken off.
    least = F.binary_cross_entropy(target, target)
    prob_loss = F.binary_cross_entropy_with_logits(logit, target) - least
    # Rays are measured again on points towards the boundary, where the probability is low.
    weight = prob + 0.15 * (prob > 0.1)
    total = weight.sum() + 1e-6
    rays = found.dist.float()[inner]
    dist_loss = (weight * (rays - dist).abs().mean(dim=1)).sum() / total
    a, b = rays.clamp(min=0.1), dist.clamp(min=0.1)
    overlap = (torch.maximum(a, b).sum(dim=1) / torch.minimum(a, b).sum(dim=1)).log()
    overlap_loss = (weight * overlap).sum() / total
    marker = found.marker_logit.float()[inner]
    bce = F.binary_cross_entropy_with_logits(marker, lesson.marker[inner], reduction="none")
    inside = 0.05 + prob[:, None]
    marker_loss = (inside * bce).sum() / inside.sum()
    error = found.marker_features.float() - lesson.near
    inside = 0.1 + F.avg_pool2d(prob[:, None], 2)
    inside = inside / inside.sum()
    near_loss = (inside * (error / scale.near).square()[half].mean(dim=1, keepdim=True)).sum()
    read = F.conv2d(error, reader) / scale.head
    head_loss = (inside * read.square()[half].mean(dim=1, keepdim=True)).sum()
    # Every second pixel of a disc lies in the middle of a place of the near features.
    label = label[:, 2::4, 2::4][half]
    told = probe(found.marker_features.float())[:, 0][half]
    each = F.binary_cross_entropy_with_logits(
        told, TOLD[0] + TOLD[1] * (label > 1.5), reduction="none"
    )
    told_loss = (each * (label > 0.5)).sum() / ((label > 0.5).sum() + 1)
    parts = (prob_loss, dist_loss, overlap_loss, near_loss, head_loss, marker_loss, told_loss)
    return dict(zip(SHARES, parts, strict=True))


def rate_at(progress: float) -> float:
    """Share of the highest rate: up along a line, down along a cosine, to zero at 1."""
    if progress < WARM:
        return 0.05 + 0.95 * progress / WARM
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM) / (1 - WARM))))


class Training:
    """A run: see the module.

    Parameters
    ----------
    crops : Crops
    teacher : Teacher
    network : StarDistConfig
        With batch normalisation.
    batch : int
        Crops a step.
    rate : float
        Highest learning rate.
    initial : Path, optional
        Weights of an earlier run's student to begin with.
    """

    def __init__(
        self,
        crops: Crops,
        teacher: Teacher,
        network: StarDistConfig = NETWORK,
        *,
        batch: int = 64,
        rate: float = 3e-3,
        initial: Path | None = None,
    ):
        self.crops, self.batch, self.rate, device = crops, batch, rate, crops.device
        self.on_gpu = device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.reader = teacher.reader.to(device)
        self.teacher = channels_last(teacher, device).to(self.dtype).eval()
        self.net = build_network(network)
        if initial is not None:
            plain = build_network(replace(network, batch_norm=False))
            plain.load_state_dict(load_file(initial))
            self.net = unfold_batch_norm(plain, crops.draw(16)[0].cpu())
        self.net = channels_last(self.net, device).train()
        self.average: StarDistNet = deepcopy(self.net).eval()
        self.probe = nn.Conv2d(128, 1, 1).to(device)
        learned = [*self.net.parameters(), *self.probe.parameters()]
        weights = [p for p in learned if p.ndim > 1]
        others = [p for p in learned if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": 0.02}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=self.on_gpu)
        self.scale = measure_scale(self.teacher, self.reader, crops, batch, self.dtype)
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, Tensor] = {}
        # The tensors stay the same ones: states are copied into them.
        theirs = self.net.state_dict()
        ours = {k: v for k, v in self.average.state_dict().items() if v.is_floating_point()}
        self.followed, self.followers = [theirs[k] for k in ours], list(ours.values())

    def take(self, progress: float) -> None:
        """One step at a share of the whole run."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_at(progress)
        self.crops.strength = LATE_STRENGTH if progress > LATE else 1.0
        x, known, label = self.crops.draw(self.batch)
        lesson = self.teacher(x.to(self.dtype))
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.on_gpu):
            found = self.net(x)
        parts = losses(found, lesson, known, label, self.probe, self.reader, self.scale)
        total = torch.stack([SHARES[k] * v for k, v in parts.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        self._follow(min(DECAY, (self.step + 1) / (self.step + 20)))
        for name, value in {**parts, "total": total}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        torch._foreach_lerp_(self.followers, self.followed, 1 - decay)

    def means(self, steps: int) -> dict[str, float]:
        """Mean losses since the last call; waits for the device."""
        found = {k: float(v) / steps for k, v in self.sums.items()}
        self.sums = {}
        return found

    def result(self) -> dict[str, Tensor]:
        """Weights of the moving average without batch normalisation, on the CPU."""
        plain = fold_batch_norm(deepcopy(self.average).cpu().float())
        return {k: v.contiguous() for k, v in plain.state_dict().items()}

    def save_state(self, file: Path) -> None:
        """All that goes on from here."""
        part = file.with_suffix(".part")
        state: dict[str, Any] = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        part.replace(file)

    def load_state(self, file: Path) -> None:
        """Go on from there, with other crops."""
        state = torch.load(file, map_location=self.crops.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.crops.random.manual_seed(1_000_003 + self.step)


def run(
    training: Training,
    out: Path,
    *,
    seconds: float,
    steps: int | None = None,
    state: Path | None = None,
    look_every: int = 25,
    save_seconds: float = 60.0,
) -> list[dict[str, float]]:
    """Train until the seconds, or the steps, are over; returns the log, a row every some steps."""
    out.mkdir(parents=True, exist_ok=True)
    if state is not None and state.exists():
        training.load_state(state)
        print(f"goes on from step {training.step}, {training.seconds:.0f} s", flush=True)
    began, before = time.perf_counter(), training.seconds
    saved, rows, looked = before, cast(list[dict[str, float]], []), training.step
    while True:
        training.seconds = before + time.perf_counter() - began
        progress = training.seconds / seconds
        if steps is not None:
            progress = max(progress, training.step / steps)
        over = progress >= 1
        if training.step - looked >= look_every or (over and training.step > looked):
            row = {"step": training.step, **training.means(training.step - looked)}
            # The losses were waited for: only now it is known how long the steps took.
            training.seconds = before + time.perf_counter() - began
            rows.append({**row, "seconds": round(training.seconds, 2)})
            looked = training.step
            if len(rows) % 10 == 1 or over:
                print(json.dumps({k: round(v, 4) for k, v in rows[-1].items()}), flush=True)
        if over or training.seconds - saved > save_seconds:
            saved = training.seconds
            save_file(training.result(), out / WEIGHTS)
            (out / LOG).write_text(json.dumps({"batch": training.batch, "rows": rows}))
            if state is not None:
                training.save_state(state)
        if over:
            return rows
        training.take(progress)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--steps", type=int, help="at most; the schedule ends with them")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--crop-px", type=int, default=256)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--initial", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True
    device = torch.device(arguments.device)
    began = time.perf_counter()
    crops = Crops(unpack(arguments.data), arguments.crop_px, device, arguments.seed)
    options = {"batch": arguments.batch, "rate": arguments.rate, "initial": arguments.initial}
    training = Training(crops, Teacher(arguments.weights), **options)
    print(f"ready after {time.perf_counter() - began:.1f} s on {device}", flush=True)
    run(
        training,
        arguments.out,
        seconds=arguments.seconds,
        steps=arguments.steps,
        state=arguments.state,
    )


if __name__ == "__main__":
    main()
