"""A lean copy of the shipped detector: fewer filters where nothing is lost by it.

Inside the encoder's residual blocks the filters that say least go, and the second convolution of
each is fitted by least squares to what the shipped network has there (He, Zhang & Sun 2017,
*channel pruning for accelerating very deep neural networks*): the trunk that joins the blocks keeps
its width. The decoder's convolutions and the marker head's context are computed through few
channels, those in which their outputs vary most (Zhang et al. 2016, *accelerating very deep
convolutional networks*). All names of weights are those that `lymphinfer.layers.Layers` looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.blocks import ConvBlock, ResidualBlock
from lymphinfer.nuclei.stardist.network import MarkerContext, ResidualStarDistNet
from recipes.he.student_teacher import Lesson, Teacher

KEPT = (1.0, 0.25, 0.25)
"""Share of the filters inside a residual block, by level: the finest needs all."""
FEW = {"marker.0": 32}
"""Channels that a convolution is computed through. Of those that outlines are read from none is
here: through few channels they lost 0.013 of PQ (decoder's 16, 32 and 64, outlines' 32)."""
FEW_IN_CONTEXT = 32
RIDGE = 1e-4
LEAST_SHARE = 2e-4
"""Of a narrow map's values ReLU may cut off so many at first."""


class NarrowConv(nn.Conv2d):
    """A convolution to few channels, ReLU, and one of a single pixel behind it."""

    def __init__(self, like: nn.Conv2d, few: int):
        super().__init__(few, like.out_channels, 1)
        size, pad = cast(Any, like.kernel_size), cast(Any, like.padding)
        self.inner = nn.Conv2d(like.in_channels, few, size, padding=pad)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        return super().forward(F.relu(self.inner(x)))


class NarrowContext(nn.Module):
    """What a `MarkerContext` says, through few channels.

    Parameters
    ----------
    width : int
        Filters on the head's grid.
    features : int
        Filters before the heads.
    few, c_out : int
    """

    def __init__(self, width: int, features: int, few: int, c_out: int):
        super().__init__()
        self.near = nn.Conv2d(2 * width + features, few, 1)
        self.blurred = nn.Conv2d(2 * width, few, 1, bias=False)
        self.outlines = nn.Conv2d(features, few, 1, bias=False)
        self.coarse = nn.Conv2d(2 * width, few, 1, bias=False)
        self.around = nn.Conv2d(width, few, 1, bias=False)
        self.out = nn.Conv2d(few, c_out, 1)

    @staticmethod
    def inputs(
        encoded: Sequence[Tensor], decoded: Sequence[Tensor], features: Tensor, read: Tensor
    ) -> tuple[Tensor, ...]:
        """Arguments of `forward`; see `MarkerContext.inputs` for those that are given."""
        fine = torch.cat([encoded[1], decoded[1]], dim=1)
        wide = _mean3(F.avg_pool2d(decoded[1], 4))
        return fine, read, F.avg_pool2d(features, 2), encoded[2], wide

    def forward(
        self, fine: Tensor, read: Tensor, features: Tensor, coarse: Tensor, around: Tensor
    ) -> Tensor:
        """`inputs` to (B, c_out, H, W)."""
        total = self.near(torch.cat([fine, read], dim=1)) + _mean3(self.blurred(fine))
        total = total + self.outlines(features)
        for x in (self.coarse(coarse), self.around(around)):
            total = total + F.interpolate(x, total.shape[-2:], mode="bilinear")
        return F.relu(self.out(total))


class Lean(nn.Module):
    """The lean copy of a `Teacher`: one trunk, the marker heads of both bundles.

    Parameters
    ----------
    teacher : Teacher
        As `prune` and `narrow` have changed it.
    """

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.net, self.context, self.last = teacher.net, teacher.context, teacher.last

    def forward(self, x: Tensor) -> Lesson:
        """Predict (B, 3, H, W) in [0, 1]; `prob` and `marker` are logits, the latter at half."""
        net = self.net
        assert net.marker is not None and net.marker_context is not None
        encoded = net.encode(x)
        decoded = net.decode(encoded)
        features = net.features(decoded[0])
        around = net.marker_context.inputs(encoded, decoded, features, net.marker[0](decoded[1]))
        marker = self.last(self.context(*around))
        return Lesson(
            net.prob(features)[:, 0], net.dist(features), marker, net.marker_context(*around)
        )

    def weights(self, bundle: str) -> dict[str, Tensor]:
        """What a bundle's graph is built of, by the names of `lymphinfer.layers`."""
        found = dict(self.net.state_dict())
        if bundle == "he-v1-fast":
            found |= {f"marker_context.{k}": v for k, v in self.context.state_dict().items()}
            found |= {f"marker.1.{k}": v for k, v in self.last.state_dict().items()}
        return {k: v.contiguous() for k, v in found.items()}


@torch.no_grad()
def lean_copy(weights: Path, tiles: Sequence[Tensor]) -> Lean:
    """Of the shipped detector, fitted to what it says of real tiles (1, 3, H, W)."""
    teacher = Teacher(weights).eval()
    lean = Lean(deepcopy(teacher))
    prune(lean.net, teacher.net, tiles)
    narrow(lean, teacher, tiles)
    return lean


@torch.no_grad()
def prune(net: ResidualStarDistNet, shipped: ResidualStarDistNet, tiles: Sequence[Tensor]) -> None:
    """Take filters out of a network's residual blocks, those that say least on tiles."""
    before = [shipped.stem(x) for x in tiles]
    now = [x.clone() for x in before]
    for level, share in enumerate(KEPT):
        blocks = zip(cast(Any, net.down[level]), cast(Any, shipped.down[level]), strict=True)
        for block, old in blocks:
            said = [old.second(old.first(x)) + old.shortcut(x) for x in before]
            beside = [block.shortcut(x) for x in now]
            inside = _fewer_filters(block, now, share)
            wanted = [one - other for one, other in zip(said, beside, strict=True)]
            block.second.conv = fitted(inside, wanted)
            now = [F.relu(block.second.conv(x) + y) for x, y in zip(inside, beside, strict=True)]
            before = [F.relu(x) for x in said]


def _fewer_filters(block: ResidualBlock, seen: Sequence[Tensor], share: float) -> list[Tensor]:
    """Leave a share of a block's inner filters; what they say of each tile."""
    first, second = block.first.conv, block.second.conv
    inside = [F.relu(first(x)) for x in seen]
    power = torch.stack([x.square().mean(dim=(0, 2, 3)) for x in inside]).mean(dim=0)
    says = power * second.weight.square().sum(dim=(0, 2, 3))
    kept = says.argsort(descending=True)[: round(len(says) * share)].sort().values
    stride = cast(Any, first.stride)
    fewer = nn.Conv2d(first.in_channels, len(kept), 3, stride=stride, padding=1)
    assert first.bias is not None and fewer.bias is not None
    fewer.weight.copy_(first.weight[kept])
    fewer.bias.copy_(first.bias[kept])
    block.first.conv = fewer
    return [x[:, kept] for x in inside]


def fitted(inside: Sequence[Tensor], wanted: Sequence[Tensor], places: int = 4000) -> nn.Conv2d:
    """The 3x3 convolution that says of maps, as nearly as one can, what is wanted.

    Parameters
    ----------
    inside, wanted : sequence of Tensor, (1, c_in, H, W) and (1, c_out, H, W)
        By tile.
    places : int
        Of each tile that count, drawn at random.
    """
    width = inside[0].shape[1]
    gram = torch.zeros(9 * width + 1, 9 * width + 1, dtype=torch.double)
    right = torch.zeros(len(gram), wanted[0].shape[1], dtype=torch.double)
    for x, y in zip(inside, wanted, strict=True):
        around = F.unfold(x, 3, padding=1)[0]
        some = torch.randperm(around.shape[1])[:places]
        rows = torch.cat([around[:, some], torch.ones(1, len(some))]).double()
        gram += rows @ rows.T
        right += rows @ y[0].flatten(1)[:, some].T.double()
    gram += RIDGE * torch.diag(torch.diag(gram))
    found = torch.linalg.solve(gram, right).float()
    conv = nn.Conv2d(width, right.shape[1], 3, padding=1)
    assert conv.bias is not None
    conv.weight.copy_(found[:-1].T.reshape(conv.weight.shape))
    conv.bias.copy_(found[-1])
    return conv


@torch.no_grad()
def narrow(lean: Lean, teacher: Teacher, tiles: Sequence[Tensor]) -> None:
    """Compute the decoder and the contexts of the marker heads through few channels."""
    net, shipped = lean.net, teacher.net
    assert net.marker is not None and shipped.marker is not None
    encoded = [shipped.encode(x) for x in tiles]
    decoded = [[maps[-1]] for maps in encoded]
    for level in reversed(range(len(net.up))):
        inputs = []
        for maps, above in zip(encoded, decoded, strict=True):
            x = F.interpolate(net.lateral[level](above[0]), scale_factor=2, mode="nearest")
            inputs.append(torch.cat([x, maps[level]], dim=1))
        if f"up.{level}" in FEW:
            _through_few(cast(ConvBlock, net.up[level]), FEW[f"up.{level}"], inputs)
        for x, above in zip(inputs, decoded, strict=True):
            above.insert(0, net.up[level](x))
    if "features" in FEW:
        _through_few(net.features, FEW["features"], [maps[0] for maps in decoded])
    _through_few(cast(ConvBlock, net.marker[0]), FEW["marker.0"], [maps[1] for maps in decoded])
    assert shipped.marker_context is not None
    cast(Any, net).marker_context = _narrow_context(shipped.marker_context, teacher, encoded)
    cast(Any, lean).context = _narrow_context(teacher.context, teacher, encoded)


def _through_few(block: ConvBlock, few: int, inputs: Sequence[Tensor]) -> None:
    """Put a `NarrowConv` in a block's place, by the main axes of what the block says."""
    conv = block.conv
    assert conv.bias is not None
    said = _rows([conv(x) for x in inputs])
    mean, axes = _main_axes(said, few)
    along = (said - mean) @ axes
    # Moved up, so that ReLU cuts off next to nothing.
    least = torch.quantile(along[torch.randperm(len(along))[:200_000]].float(), LEAST_SHARE, dim=0)
    found = NarrowConv(conv, few)
    assert found.inner.bias is not None and found.bias is not None
    weight = torch.einsum("or,oikl->rikl", axes, conv.weight.double())
    found.inner.weight.copy_(weight)
    found.inner.bias.copy_(axes.T @ (conv.bias.double() - mean) - least)
    found.weight.copy_(axes[:, :, None, None])
    found.bias.copy_(mean + axes @ least.double())
    block.conv = found


def _narrow_context(
    old: MarkerContext, teacher: Teacher, encoded: Sequence[Sequence[Tensor]]
) -> NarrowContext:
    net = teacher.net
    assert net.marker is not None
    said = []
    for maps in encoded:
        decoded = net.decode(maps)
        features, read = net.features(decoded[0]), net.marker[0](decoded[1])
        near, coarse, around = MarkerContext.inputs(maps, decoded, features, read)
        total = old.near(near)
        for x in (old.coarse(coarse), old.around(around)):
            total = total + F.interpolate(x, total.shape[-2:], mode="bilinear")
        said.append(total)
    mean, axes = _main_axes(_rows(said), FEW_IN_CONTEXT)
    down = axes.T.float()
    width, n_features = old.around.in_channels, net.features.conv.out_channels
    new = NarrowContext(width, n_features, FEW_IN_CONTEXT, len(axes))
    weight = (down @ old.near.weight[:, :, 0, 0])[:, :, None, None]
    fine, blurred, read_, pooled = weight.split([2 * width, 2 * width, n_features, n_features], 1)
    assert old.near.bias is not None and new.near.bias is not None and new.out.bias is not None
    values: Mapping[nn.Conv2d, Tensor] = {
        new.near: torch.cat([fine, read_], dim=1),
        new.blurred: blurred,
        new.outlines: pooled,
        new.coarse: (down @ old.coarse.weight[:, :, 0, 0])[:, :, None, None],
        new.around: (down @ old.around.weight[:, :, 0, 0])[:, :, None, None],
        new.out: axes.float()[:, :, None, None],
    }
    for layer, value in values.items():
        layer.weight.copy_(value)
    new.near.bias.copy_(down @ (old.near.bias - mean.float()))
    new.out.bias.copy_(mean)
    return new


def _main_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) of rows (N, C) and the axes (C, count) along which they vary most."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    return mean, torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:]


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Pixels of maps (1, C, H, W), (N, C) in double precision."""
    return torch.cat([x[0].flatten(1).T for x in maps]).double()


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
