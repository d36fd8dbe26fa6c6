r"""Train the far scale.

python -m recipes.he.far --slide DIR --data DIR --out RUN [--steps N] [--hold-out 4,8,16]

Interrupted, the same command goes on. ``--hold-out 4,8,16`` names the tile columns that are not
seen; ``--device cuda`` keeps slide, crops and augmentation on the GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.markers.far_scale import FarConfig, FarNet, unfold_batch_norm
from recipes.he.crc01 import (
    MARKERS,
    PARENTS,
    TILE_PX,
    VALIDATION_COLUMNS,
    TiledSlide,
    hard_labels,
    read_channel,
    read_slide,
)
from recipes.he.far_data import (
    CHANNELS,
    Batch,
    FarData,
    mean_density,
    read_brca,
    read_consep,
)
from recipes.he.open_sets import CONSEP_HELD_OUT

OUTPUTS = (*CHANNELS, *(f"{child} given {parent}" for child, parent in PARENTS.items()))

# A rare marker's cross entropy is small, and with it what the network is moved by it.
MARKER_SHARES = (0.8, 1.0, 1.1, 1.6)


class FarTrainee(nn.Module):
    """The network and what it is taught by: channels, markers given their parents, the IF."""

    def __init__(self, config: FarConfig):
        super().__init__()
        self.net = FarNet(config)
        self.light = nn.Conv2d(config.features, len(MARKERS), 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the nuclei, (N, channels + conditionals), and the IF, (B', 4, S/2, S/2)."""
        features = self.net(batch.x)
        sampled = sample_batch(features, batch.crop, batch.where, self.net.config.out_stride)
        seen = len(batch.fluorescence)
        return self.net.tell(sampled).float(), self.light(features[:seen]).float()


def sample_batch(features: Tensor, crop: Tensor, where: Tensor, stride: int) -> Tensor:
    """Features of nuclei of several crops, bilinear, (N, C)."""
    height, width = features.shape[-2:]
    p = where / stride - 0.5
    x, y = p[:, 0].clamp(0, width - 1.001), p[:, 1].clamp(0, height - 1.001)
    x0, y0 = x.long(), y.long()
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    maps = features.permute(0, 2, 3, 1)
    top = maps[crop, y0, x0] * (1 - fx) + maps[crop, y0, x0 + 1] * fx
    bottom = maps[crop, y0 + 1, x0] * (1 - fx) + maps[crop, y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


def loss_of(logits: Tensor, light: Tensor, batch: Batch) -> Tensor:
    """Markers in full, other channels and the IF by a part, markers given their parents."""
    n, k = len(MARKERS), len(CHANNELS)
    each = F.binary_cross_entropy_with_logits(logits[:, :k], batch.label, reduction="none")
    per = (each * batch.weight).sum(0) / batch.weight.sum(0).clamp(min=1)
    share = torch.tensor(MARKER_SHARES, device=per.device)
    total = (per[:n] * share).mean() + 0.3 * per[n:].mean()
    for i, (child, parent) in enumerate(PARENTS.items()):
        c, p = CHANNELS.index(child), CHANNELS.index(parent)
        weight = batch.weight[:, c] * (batch.label[:, p] * batch.weight[:, p] >= 0.99)
        given = F.binary_cross_entropy_with_logits(
            logits[:, k + i], batch.label[:, c], reduction="none"
        )
        total = total + 0.15 * (given * weight).sum() / weight.sum().clamp(min=1)
    bright = torch.log1p(batch.fluorescence * 255) / np.log(256)
    return total + 2.0 * F.mse_loss(light, bright)


@torch.inference_mode()
def features_of(
    net: FarNet, slide: TiledSlide, columns: Sequence[int], *, device: str, half: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices and far features of all nuclei of some columns, read with what lies around."""
    reach, stride = net.config.halo_px, net.config.stride
    index, found = [], []
    net = net.eval()
    for column in columns:
        for row in range(slide.there.shape[0]):
            here = np.flatnonzero((slide.column == column) & (slide.row == row))
            if not len(here):
                continue
            x0, y0 = column * TILE_PX - reach, row * TILE_PX - reach
            side = TILE_PX + 2 * reach
            pixels = np.full((side, side, 3), 255, np.uint8)
            ys, xs = max(y0, 0), max(x0, 0)
            part = slide.he[ys : y0 + side, xs : x0 + side]
            pixels[ys - y0 : ys - y0 + part.shape[0], xs - x0 : xs - x0 + part.shape[1]] = part
            assert side % stride == 0
            x = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).to(device).float() / 255
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                maps = net(x)
            where = torch.from_numpy(slide.xy[here] - (x0, y0) + 0.5).to(device)
            crop = torch.zeros(len(here), dtype=torch.long, device=device)
            index.append(here)
            found.append(sample_batch(maps, crop, where, net.config.out_stride).float().cpu())
    return np.concatenate(index), torch.cat(found).numpy()


def scores(logits: NDArray[np.float32], labels: NDArray[np.int8]) -> dict[str, Any]:
    """AUROC and average precision of the markers, and of each given its parent."""
    k = len(CHANNELS)
    result: dict[str, Any] = {}
    for i, name in enumerate(MARKERS):
        known = labels[:, i] >= 0
        y, s = labels[known, i], logits[known, i]
        result[name] = [round(roc_auc_score(y, s), 4), round(average_precision_score(y, s), 3)]
    for i, (child, parent) in enumerate(PARENTS.items()):
        c, p = MARKERS.index(child), MARKERS.index(parent)
        known = (labels[:, p] == 1) & (labels[:, c] >= 0)
        given = roc_auc_score(labels[known, c], logits[known, k + i])
        plain = roc_auc_score(labels[known, c], logits[known, c])
        result[f"{child} given {parent}"] = [round(given, 3), round(plain, 3)]
    return result


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True, help="laid out like orion-crc01")
    parser.add_argument("--data", type=Path, required=True, help="with brca-m2c and consep")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--hold-out", default=",".join(map(str, VALIDATION_COLUMNS)))
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--crops", type=int, default=10)
    parser.add_argument("--others", type=int, default=2, help="crops of other laboratories")
    parser.add_argument(
        "--other-part", type=int, choices=[0, 1], help="leave out each second image of these"
    )
    parser.add_argument("--initial", type=Path, help="a run, or a bundle, to begin from")
    parser.add_argument("--plain", type=float, default=0.15, help="share of unchanged crops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--looks", type=int, default=3, help="times it is scored on the way")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    held_out = [int(c) for c in arguments.hold_out.split(",") if c]
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    settings |= {"held_out": held_out, "slide": arguments.slide.name, "data": "", "out": out.name}
    (out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    slide = read_slide(arguments.slide)
    shape = slide.he.shape[0], slide.he.shape[1]
    light = np.stack([read_channel(arguments.slide / name, shape) for name in MARKERS])
    brca, consep = arguments.data / "brca-m2c" / "train", arguments.data / "consep" / "train"
    others = read_brca(brca) + read_consep(consep, tuple(CONSEP_HELD_OUT))
    if arguments.other_part is not None:
        others = [o for i, o in enumerate(others) if i % 2 != arguments.other_part]
    densities = np.stack([mean_density(o.pixels.permute(1, 2, 0).numpy()) for o in others])
    data = FarData(
        slide, held_out, light, others, densities,
        crops=arguments.crops, other_crops=arguments.others,
        seed=arguments.seed, device=arguments.device, plain=arguments.plain,
    )  # fmt: skip
    train(data, FarConfig(outputs=OUTPUTS, batch_norm=True), arguments, held_out, out)


def train(
    data: FarData,
    config: FarConfig,
    arguments: argparse.Namespace,
    held_out: Sequence[int],
    out: Path,
) -> None:
    """Fit, with a moving average of the weights; writes ``far.safetensors``."""
    device, steps = arguments.device, arguments.steps
    torch.manual_seed(arguments.seed)
    trainee = channels_last(FarTrainee(config), device)
    if arguments.initial is not None:
        begin_from(trainee, arguments.initial, data)
    mean = deepcopy(trainee).eval()
    optimizer = torch.optim.AdamW(trainee.parameters(), arguments.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.rate, total_steps=steps, pct_start=0.08
    )
    labels = hard_labels(data.slide, MARKERS)
    state, first = out / "state.pt", 0
    if state.exists():
        kept = torch.load(state, map_location=device, weights_only=True)
        trainee.load_state_dict(kept["trainee"])
        mean.load_state_dict(kept["mean"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        first = kept["step"]
        data.rng = np.random.default_rng((data.seed, first))
    half = arguments.precision == "bf16"
    looks = {steps * (i + 1) // arguments.looks for i in range(arguments.looks)}
    average, began = None, time.perf_counter()
    for step in range(first, steps):
        trainee.train()
        batch = data.batch()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            logits, lit = trainee(batch)
            loss = loss_of(logits, lit, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        decay = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for kept, new in zip(
                mean.state_dict().values(), trainee.state_dict().values(), strict=True
            ):
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - decay)
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        done = step + 1
        if done % 50 == 0:
            seconds = (time.perf_counter() - began) / (done - first)
            print(f"{done} loss {average:.4f} {seconds:.2f} s a step", flush=True)
        if done % 300 == 0 or done == steps:
            kept_state = {
                "trainee": trainee.state_dict(), "mean": mean.state_dict(), "step": done,
                "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
            }  # fmt: skip
            torch.save(kept_state, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
        if done in looks:
            columns = held_out if done == steps else held_out[:1]
            index, features = features_of(mean.net, data.slide, columns, device=device, half=half)
            with torch.inference_mode():
                logits = mean.net.tell(torch.from_numpy(features).to(device)).float().cpu().numpy()
            found = scores(logits, labels[index])
            print(done, json.dumps(found), flush=True)
            with (out / "looks.jsonl").open("a") as stream:
                stream.write(json.dumps({"step": done, "columns": list(columns), **found}) + "\n")
    weights = {k: v.contiguous() for k, v in mean.state_dict().items()}
    save_file(weights, out / "far.safetensors")


def begin_from(trainee: FarTrainee, initial: Path, data: FarData) -> None:
    """Take the weights of a run, or of a bundle, whose network has neither norms nor IF layer."""
    weights = load_file(initial / "far.safetensors")
    if not (initial / "bundle.toml").exists():
        trainee.load_state_dict(weights)
        return
    plain = FarNet(replace(trainee.net.config, batch_norm=False)).eval().to(data.device)
    plain.load_state_dict({name: w.float() for name, w in weights.items()})
    trainee.net.load_state_dict(unfold_batch_norm(plain, data.batch().x).state_dict())
    # An IF layer that says nothing yet moves nothing behind it.
    nn.init.zeros_(trainee.light.weight)


def load_trained(run: Path) -> FarTrainee:
    """What `train` has written."""
    trainee = FarTrainee(FarConfig(outputs=OUTPUTS, batch_norm=True))
    trainee.load_state_dict(load_file(run / "far.safetensors"))
    return trainee.eval()


if __name__ == "__main__":
    main()
