r"""Train the far scale.

python -m recipes.he.far --slide DIR --data DIR --out RUN [--steps N] [--hold-out 4,8,16]

Interrupted, the same command goes on. ``--hold-out 4,8,16`` names the tile columns that are not
seen; ``--device cuda`` keeps slide, crops and augmentation on the GPU, where ``--seconds`` instead
of ``--steps`` fills a lease. ``--teacher RUN`` learns from what larger networks say too.
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

from lymphinfer.cells.files import atomic_write
from lymphinfer.compute import channels_last, half_type
from lymphinfer.markers.far_scale import FarConfig, FarNet, unfold_batch_norm
from lymphinfer.training.resuming import check_same, digest_arrays, digest_weights
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
from recipes.he.far_data import CHANNELS, Batch, FarData
from recipes.he.far_images import SIDE_PX, mean_density, read_others, source_px

OUTPUTS = (*CHANNELS, *(f"{child} given {parent}" for child, parent in PARENTS.items()))

# A rare marker's cross entropy is small, and with it what the network is moved by it.
MARKER_SHARES = (0.8, 1.0, 1.1, 1.6)


class FarTrainee(nn.Module):
    """The network and what it is taught by: channels, markers given their parents, the IF."""

    def __init__(self, config: FarConfig, drop: float = 0.0):
        super().__init__()
        self.net = FarNet(config)
        self.drop = nn.Dropout(drop)
        self.light = nn.Conv2d(config.features, len(MARKERS), 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the nuclei, (N, channels + conditionals), and the IF, (B', 4, S/2, S/2)."""
        features = self.net(batch.x)
        sampled = sample_batch(features, batch.crop, batch.where, self.net.config.out_stride)
        seen = len(batch.fluorescence)
        return self.net.tell(self.drop(sampled)).float(), self.light(features[:seen]).float()


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


def taught(logits: Tensor, told: Tensor) -> Tensor:
    """Cross entropy of the nuclei's logits against what teachers tell, (N, outputs).

    They are sure of nuclei whose label is unknown, and unsure of those whose label is spilled
    over from a neighbour (Hinton, Vinyals and Dean 2015, at temperature 1).
    """
    each = F.binary_cross_entropy_with_logits(logits, told, reduction="none").mean(0)
    n, k = len(MARKERS), len(CHANNELS)
    share = torch.tensor(MARKER_SHARES, device=each.device)
    return (each[:n] * share).mean() + 0.3 * each[n:k].mean() + 0.15 * each[k:].sum()


def rate_at(progress: float, peak: float, rising: float = 0.08) -> float:
    """Learning rate at a part of the training in [0, 1]: one cycle of cosines (Smith 2018)."""
    if progress < rising:
        return float(peak * (0.04 + 0.96 * (1 - np.cos(np.pi * progress / rising)) / 2))
    return float(peak * (1e-4 + (1 + np.cos(np.pi * (progress - rising) / (1 - rising))) / 2))


@torch.inference_mode()
def features_of(
    net: FarNet, slide: TiledSlide, columns: Sequence[int], *, device: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices and far features of all nuclei of some columns, read with what lies around."""
    reach, stride = net.config.halo_px, net.config.stride
    half = half_type(torch.device(device))
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
            with torch.autocast(torch.device(device).type, half, enabled=half is not None):
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
    parser.add_argument(
        "--data", type=Path, required=True, help="with brca-m2c and consep, or packed"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seconds", type=float, help="of training, whatever the steps")
    parser.add_argument("--hold-out", default=",".join(map(str, VALIDATION_COLUMNS)))
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--crops", type=int, default=10)
    parser.add_argument("--others", type=int, default=2, help="crops of other laboratories")
    parser.add_argument(
        "--other-part", type=int, choices=[0, 1], help="leave out each second image of these"
    )
    parser.add_argument("--initial", type=Path, help="a run, or a bundle, to begin from")
    parser.add_argument("--teacher", type=Path, nargs="*", default=[], help="runs to learn from")
    parser.add_argument("--taught", type=float, default=0.7, help="the teachers' share")
    parser.add_argument("--drop", type=float, default=0.0, help="share of features left out")
    parser.add_argument("--side", type=int, default=SIDE_PX, help="of a crop, px")
    parser.add_argument("--widths", default="48,80,128,192", help="filters of each level")
    parser.add_argument("--blocks", default="1,2,2,2", help="residual blocks of each level")
    parser.add_argument("--decay", type=float, default=1e-2, help="of weights")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw ahead")
    parser.add_argument("--plain", type=float, default=0.15, help="share of unchanged crops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--looks", type=int, default=3, help="times it is scored on the way")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    held_out = [int(c) for c in arguments.hold_out.split(",") if c]
    slide = read_slide(arguments.slide)
    shape = slide.he.shape[0], slide.he.shape[1]
    light = np.stack([read_channel(arguments.slide / name, shape) for name in MARKERS])
    others = read_others(arguments.data, source_px(arguments.side))
    if arguments.other_part is not None:
        others = [o for i, o in enumerate(others) if i % 2 != arguments.other_part]
    densities = np.stack([mean_density(o.pixels.permute(1, 2, 0).numpy()) for o in others])
    data = FarData(
        slide, held_out, light, others, densities,
        crops=arguments.crops, other_crops=arguments.others,
        seed=arguments.seed, device=arguments.device, plain=arguments.plain,
        side_px=arguments.side,
    )  # fmt: skip
    widths, blocks = numbers(arguments.widths), numbers(arguments.blocks)
    config = FarConfig(widths=widths, blocks=blocks, outputs=OUTPUTS, batch_norm=True)
    train(data, config, arguments, held_out, out)


def numbers(text: str) -> tuple[int, ...]:
    """``"48,80"`` to (48, 80)."""
    return tuple(int(n) for n in text.split(","))


def begun_with(
    data: FarData, arguments: argparse.Namespace, held_out: Sequence[int]
) -> dict[str, Any]:
    """What a run's weights follow from: it goes on with the same, or not at all."""
    names = (
        "steps", "seconds", "rate", "crops", "others", "other_part", "plain", "seed", "taught",
        "drop", "side", "widths", "blocks", "decay",
    )  # fmt: skip
    initial, *teachers = (
        None if run is None else load_file(run / "far.safetensors")
        for run in (arguments.initial, *arguments.teacher)
    )
    return {
        **{name: getattr(arguments, name) for name in names},
        "held-out columns": list(held_out),
        "initial weights": digest_weights(initial),
        "teachers' weights": [digest_weights(teacher) for teacher in teachers],
        "slide": digest_arrays([data.slide.he, data.slide.xy]),
    }


def train(
    data: FarData,
    config: FarConfig,
    arguments: argparse.Namespace,
    held_out: Sequence[int],
    out: Path,
) -> None:
    """Fit, with a moving average of the weights; writes ``far.safetensors``."""
    device, steps = arguments.device, arguments.steps
    begun = begun_with(data, arguments, held_out)
    torch.manual_seed(arguments.seed)
    trainee = channels_last(FarTrainee(config, arguments.drop), device)
    if arguments.initial is not None:
        begin_from(trainee, arguments.initial, data)
    teachers = [channels_last(load_trained(run), device) for run in arguments.teacher]
    mean = deepcopy(trainee).eval()
    optimizer = torch.optim.AdamW(
        trainee.parameters(), arguments.rate, weight_decay=arguments.decay, fused=device == "cuda"
    )
    labels = hard_labels(data.slide, MARKERS)
    state, first, before = out / "state.pt", 0, 0.0
    if state.exists():
        kept = torch.load(state, map_location=device, weights_only=True)
        check_same(out, kept["begun"], begun)
        trainee.load_state_dict(kept["trainee"])
        mean.load_state_dict(kept["mean"])
        optimizer.load_state_dict(kept["optimizer"])
        first, before = kept["step"], kept["seconds"]
        data.rng = np.random.default_rng((data.seed, first))
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    settings["teacher"] = [run.name for run in arguments.teacher]
    settings |= {"held_out": held_out, "slide": arguments.slide.name, "data": "", "out": out.name}
    (out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    # Without a scaler of gradients float16 is no choice.
    half = half_type(torch.device(device), arguments.precision) is torch.bfloat16
    torch.backends.cudnn.benchmark = True
    average, began, looked = None, time.perf_counter(), 0
    averaged = [[v for v in m.state_dict().values() if v.is_floating_point()]
                for m in (mean, trainee)]  # fmt: skip
    step, progress = first, 1.0 if first >= steps else 0.0
    batches = data.batches(arguments.workers)
    while progress < 1:
        seconds = before + time.perf_counter() - began
        progress = seconds / arguments.seconds if arguments.seconds else step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate_at(min(progress, 1.0), arguments.rate)
        trainee.train()
        batch = next(batches)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            logits, lit = trainee(batch)
            loss = loss_of(logits, lit, batch)
            if teachers:
                with torch.no_grad():
                    told = [t(batch._replace(x=batch.plain))[0].sigmoid() for t in teachers]
                share = arguments.taught
                loss = (1 - share) * loss + share * taught(logits, torch.stack(told).mean(0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 2.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(averaged[0], averaged[1], 1 - decay)
        step += 1
        seconds = before + time.perf_counter() - began
        progress = seconds / arguments.seconds if arguments.seconds else step / steps
        average = loss.detach() if average is None else average.lerp(loss.detach(), 0.02)
        if step % 50 == 0:
            each = (seconds - before) / (step - first)
            print(f"{step} loss {average.item():.4f} {each:.3f} s a step", flush=True)
        if step % 300 == 0 or progress >= 1:
            kept_state = {
                "trainee": trainee.state_dict(), "mean": mean.state_dict(), "step": step,
                "optimizer": optimizer.state_dict(), "seconds": seconds, "begun": begun,
            }  # fmt: skip
            with atomic_write(state) as file:
                torch.save(kept_state, file)
        if progress * arguments.looks >= looked + 1:
            looked = int(progress * arguments.looks)
            columns = held_out if progress >= 1 else held_out[:1]
            index, features = features_of(mean.net, data.slide, columns, device=device)
            with torch.inference_mode():
                logits = mean.net.tell(torch.from_numpy(features).to(device)).float().cpu().numpy()
            found = scores(logits, labels[index])
            print(step, json.dumps(found), flush=True)
            with (out / "looks.jsonl").open("a") as stream:
                stream.write(json.dumps({"step": step, "columns": list(columns), **found}) + "\n")
    weights = {k: v.contiguous() for k, v in mean.state_dict().items()}
    save_file(weights, out / "far.safetensors")


def begin_from(trainee: FarTrainee, initial: Path, data: FarData) -> None:
    """Take the weights of a run, or of a bundle, whose network has neither norms nor IF layer."""
    weights = load_file(initial / "far.safetensors")
    if not (initial / "bundle.toml").exists():
        trainee.load_state_dict(weights)
        return
    plain = FarNet(replace(trainee.net.config, batch_norm=False)).eval()
    plain.load_state_dict({name: w.float() for name, w in weights.items()})
    trainee.net.load_state_dict(unfold_batch_norm(plain, data.batch().x.cpu()).state_dict())
    # An IF layer that says nothing yet moves nothing behind it.
    nn.init.zeros_(trainee.light.weight)


def load_trained(run: Path) -> FarTrainee:
    """What `train` has written."""
    settings = json.loads((run / "settings.json").read_text())
    config = FarConfig(outputs=OUTPUTS, batch_norm=True)
    if "widths" in settings:
        widths, blocks = numbers(settings["widths"]), numbers(settings["blocks"])
        config = replace(config, widths=widths, blocks=blocks)
    trainee = FarTrainee(config)
    trainee.load_state_dict(load_file(run / "far.safetensors"))
    return trainee.eval()


if __name__ == "__main__":
    main()
