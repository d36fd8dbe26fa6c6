"""A thinner copy of the shipped detector: fewer filters inside, fewer blocks, nothing learned yet.

Of each layer that becomes thinner the filters stay that the layers behind it read most; then every
layer, in the order in which they are computed, is fitted by least squares to what the teacher's
computes at its place (He, Zhang and Sun 2017, *Channel pruning for accelerating very deep neural
networks*), so that it mends what those before it have lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.blocks import ConvBlock, ResidualBlock
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.network import ResidualStarDistNet

SAMPLES = 30_000
"""Places of the maps that a layer is fitted on, at most."""
RIDGE = 3e-3
"""Strength with which a fitted layer is held to the weights that it was cut out of, as a share of
the mean square of what it reads."""


def kept(reads: list[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Filters that are read most, as an index in ascending order.

    Parameters
    ----------
    reads : list of (Tensor, Tensor)
        Of each layer behind: its weights (C_out, C, k, k), and the maps (B, C, H, W) it reads.
    count : int
    """
    score = torch.zeros(reads[0][1].shape[1])
    for weight, x in reads:
        energy = x.square().mean(dim=(0, 2, 3)) - x.mean(dim=(0, 2, 3)).square()
        score += weight.square().sum(dim=(0, 2, 3)) * energy / weight.square().sum()
    return score.topk(count).indices.sort().values


@torch.no_grad()
def fit(
    conv: nn.Conv2d, x: Tensor, target: Tensor, generator: torch.Generator, margin: int = 2
) -> tuple[float, float]:
    """Fit a convolution to the outputs that it should have; in place.

    Parameters
    ----------
    conv : Conv2d
    x : Tensor, (B, C, H, W)
        What it reads.
    target : Tensor, (B, c_out, h, w)
        What it should compute.
    generator : torch.Generator
        Draws the places.
    margin : int
        Outputs at the border that are left out.

    Returns
    -------
    tuple of float
        Share of the target's variance that was missed before and after.
    """
    k, stride, (h, w) = conv.kernel_size[0], conv.stride[0], target.shape[-2:]
    padded = F.pad(x, [k // 2] * 4)
    count = min(SAMPLES, len(x) * (h - 2 * margin) * (w - 2 * margin))
    b = torch.randint(len(x), (count,), generator=generator)
    r = torch.randint(margin, h - margin, (count,), generator=generator)
    c = torch.randint(margin, w - margin, (count,), generator=generator)
    ramp = torch.arange(k)
    rows = (r * stride)[:, None, None] + ramp[:, None]
    columns = (c * stride)[:, None, None] + ramp
    seen = padded[b[:, None, None], :, rows, columns].permute(0, 3, 1, 2).reshape(count, -1)
    wanted = target[b, :, r, c]
    before = conv.weight.flatten(1)
    offset = torch.zeros(len(before)) if conv.bias is None else conv.bias
    residual = wanted - seen @ before.T - offset
    spread = (wanted - wanted.mean(dim=0)).square().sum()
    missed = float(residual.square().sum() / spread)
    mean_seen, mean_left = seen.mean(dim=0), residual.mean(dim=0)
    if conv.bias is None:
        mean_seen, mean_left = torch.zeros_like(mean_seen), torch.zeros_like(mean_left)
    a, y = (seen - mean_seen).double(), (residual - mean_left).double()
    gram = a.T @ a
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-8)
    step = torch.linalg.solve(gram, a.T @ y).float()
    conv.weight.add_(step.T.reshape(conv.weight.shape))
    if conv.bias is not None:
        conv.bias.add_(mean_left - mean_seen @ step)
    left = wanted - seen @ conv.weight.flatten(1).T - (0 if conv.bias is None else conv.bias)
    return missed, float(left.square().sum() / spread)


def outputs_of(net: nn.Module, x: Tensor, run: Callable[[Tensor], object]) -> dict[str, tuple]:
    """What each convolution of a network reads and computes, by name: (inputs, outputs)."""
    seen: dict[str, tuple] = {}
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            # A ReLU behind it works in place: what it computes is copied.
            hooks.append(
                module.register_forward_hook(
                    lambda _m, given, y, name=name: seen.update(
                        {name: (given[0].clone(), y.clone())}
                    )
                )
            )
    run(x)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def thinned(
    teacher: ResidualStarDistNet, config: StarDistConfig, x: Tensor, *, say: bool = True
) -> ResidualStarDistNet:
    """A copy of a network with fewer filters and blocks.

    Parameters
    ----------
    teacher : ResidualStarDistNet
        Without batch normalisation, its marker head with context.
    config : StarDistConfig
        Like the teacher's, with `inner`, `lateral`, `n_conv_after_unet` and `n_blocks` no larger.
    x : Tensor, (B, 3, H, W)
        Images that both compute, RGB in [0, 1] at the teacher's pixel size.
    say : bool
        Whether to print what each layer misses, before and after it is fitted.

    Returns
    -------
    ResidualStarDistNet
        In evaluation mode, without batch normalisation.
    """
    generator = torch.Generator().manual_seed(0)
    theirs = outputs_of(teacher, x, teacher)
    student = ResidualStarDistNet(replace(config, batch_norm=False)).eval()
    old, new = dict(teacher.named_modules()), dict(student.named_modules())

    def reads(name: str, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        return old[name].weight[:, part], theirs[name][0][:, part]

    halvings = len(teacher.stem) - 1
    everything = torch.arange
    out: dict[str, Tensor] = {}
    for i in range(halvings):
        out[f"stem.{i}.conv"] = kept(
            [reads(f"stem.{i + 1}.conv")], len(new[f"stem.{i}.conv"].weight)
        )
    blocks = {}
    for level in range(config.n_depth):
        # The first, which halves, and the last ones.
        last = old[f"down.{level}"]
        count = len(last)
        chosen = [0, *range(count - config.n_blocks + 1, count)]
        for i, j in enumerate(chosen):
            blocks[f"down.{level}.{i}"] = f"down.{level}.{j}"
            name = f"down.{level}.{j}"
            size = len(new[f"down.{level}.{i}.first.conv"].weight)
            out[f"{name}.first.conv"] = kept([reads(f"{name}.second.conv")], size)
        brought = len(old[f"lateral.{level}.conv"].weight)
        size = len(new[f"lateral.{level}.conv"].weight)
        out[f"lateral.{level}.conv"] = kept([reads(f"up.{level}.conv", slice(brought))], size)
    n_old, n_new = teacher.config.n_conv_after_unet, config.n_conv_after_unet
    width = config.level_widths[1]
    out["features.conv"] = kept(
        [
            reads("prob"),
            reads("dist"),
            reads("marker_context.near", slice(4 * width + n_old, None)),
        ],
        n_new,
    )
    read = slice(4 * width, 4 * width + n_old)
    out["marker.0.conv"] = kept([reads("marker_context.near", read)], n_new)

    def cut(name: str, source: str, ins: Tensor | None = None) -> None:
        layer, full = new[name], old[source]
        weight = full.weight
        index = out.get(source)
        if index is not None:
            weight = weight[index]
        if ins is not None:
            weight = weight[:, ins]
        layer.weight.copy_(weight)
        if full.bias is not None:
            layer.bias.copy_(full.bias if index is None else full.bias[index])

    cut("stem.0.conv", "stem.0.conv")
    for i in range(halvings):
        cut(f"stem.{i + 1}.conv", f"stem.{i + 1}.conv", out[f"stem.{i}.conv"])
    for block, source in blocks.items():
        cut(f"{block}.first.conv", f"{source}.first.conv")
        cut(f"{block}.second.conv", f"{source}.second.conv", out[f"{source}.first.conv"])
        if f"{block}.shortcut.conv" in new:
            cut(f"{block}.shortcut.conv", f"{source}.shortcut.conv")
    for level in range(config.n_depth):
        cut(f"lateral.{level}.conv", f"lateral.{level}.conv")
        c = config.level_widths[level]
        brought = len(old[f"lateral.{level}.conv"].weight)
        ins = torch.cat([out[f"lateral.{level}.conv"], brought + everything(c)])
        cut(f"up.{level}.conv", f"up.{level}.conv", ins)
    cut("features.conv", "features.conv")
    for name in ("prob", "dist"):
        cut(name, name, out["features.conv"])
    cut("marker.0.conv", "marker.0.conv")
    ins = torch.cat([
        everything(4 * width), 4 * width + out["marker.0.conv"],
        4 * width + n_old + out["features.conv"],
    ])  # fmt: skip
    cut("marker_context.near", "marker_context.near", ins)
    for name in ("marker_context.coarse", "marker_context.around", "marker.1"):
        cut(name, name)

    def mend(name: str, source: str, target: Tensor | None = None, less: str = "") -> None:
        ours = outputs_of(student, x, student)
        wanted = theirs[source][1] if target is None else target
        if source in out and target is None:
            wanted = wanted[:, out[source]]
        if less:
            wanted = wanted - ours[less][1]
        missed = fit(new[name], ours[name][0], wanted, generator)
        if say:
            print(f"{name}: missed {missed[0]:.3f}, {missed[1]:.3f}", flush=True)

    def stream(source: str) -> Tensor:
        """What a block of the teacher adds up, before its ReLU."""
        added = theirs[f"{source}.second.conv"][1]
        if f"{source}.shortcut.conv" in theirs:
            return added + theirs[f"{source}.shortcut.conv"][1]
        return added + theirs[f"{source}.first.conv"][0]

    for i in range(halvings):
        mend(f"stem.{i + 1}.conv", f"stem.{i + 1}.conv")
    for block, source in blocks.items():
        mend(f"{block}.first.conv", f"{source}.first.conv")
        ours = outputs_of(student, x, student)
        own = f"{block}.shortcut.conv"
        beside = ours[own][1] if own in ours else ours[f"{block}.first.conv"][0]
        mend(f"{block}.second.conv", "", stream(source) - beside)
    for level in reversed(range(config.n_depth)):
        mend(f"lateral.{level}.conv", f"lateral.{level}.conv")
        mend(f"up.{level}.conv", f"up.{level}.conv")
    for name in ("features.conv", "prob", "dist", "marker.0.conv"):
        mend(name, name)
    mend("marker_context.near", "marker_context.near")
    return student


__all__ = ["ConvBlock", "ResidualBlock", "fit", "kept", "thinned"]
