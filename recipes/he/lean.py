"""A lean copy of the shipped detector: fewer filters where nothing is lost by it.

Inside the encoder's residual blocks the filters that say least go, and the second convolution of
each is fitted by least squares to what the shipped network has there (He, Zhang & Sun 2017,
*channel pruning for accelerating very deep neural networks*): the trunk that joins the blocks keeps
its width. The decoder's convolutions and the marker head's context are computed through few
channels, those in which their outputs vary most (Zhang et al. 2016, *accelerating very deep
convolutional networks*). Outlines of two by two points are read from one map of half their grid:
distances hardly differ between neighbours. All names of weights are those that
`lymphinfer.layers.Layers` looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.stardist.blocks import ConvBlock, ResidualBlock
from lymphinfer.nuclei.stardist.network import MarkerContext, ResidualStarDistNet
from recipes.he.lean_layers import FourPointConv, NarrowContext, NarrowConv
from recipes.he.student_teacher import Lesson, Teacher

KEPT = ((1.0,) * 3, (0.1875,) * 3, (0.125,) * 3)
"""Share of the filters inside each residual block, by level: the finest needs all."""
FEW = {"up.2": 32, "up.1": 32, "marker.0": 32}
"""Channels that a convolution is computed through. The decoder's finest is not here: through 16 it
lost 0.012 of PQ untrained, the two coarser ones through 32 lose 0.003 together."""
FEW_IN_CONTEXT = 32
HIDDEN = 32
"""Of the units from which he-v1-fast's marker is read, those that say most: while it learns. What
is taught to a bundle is taught to all of the shipped network's, see `hidden_as_shipped`."""
RIDGE = 1e-4
MOST_LOGIT, LEAST_WEIGHT = 12.0, 0.05
"""Logits beyond it say no more; what places without a nucleus count for, beside one within."""
LEAST_SHARE = 2e-4
"""Of a narrow map's values ReLU may cut off so many at first."""


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
        around = NarrowContext.inputs(encoded, decoded, features, net.marker[0](decoded[1]))
        marker = self.last(self.context(*around))
        prob, dist = F.pixel_shuffle(net.prob(features), 2), F.pixel_shuffle(net.dist(features), 2)
        return Lesson(prob[:, 0], dist, marker, net.marker_context(*around))

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
    for level, shares in enumerate(KEPT):
        blocks = cast(Any, net.down[level]), cast(Any, shipped.down[level])
        for block, old, share in zip(*blocks, shares, strict=True):
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
    own, encoded = [net.encode(x) for x in tiles], [shipped.encode(x) for x in tiles]
    decoded = [[maps[-1]] for maps in own]
    told = [shipped.decode(maps) for maps in encoded]
    for level in reversed(range(len(net.up))):
        inputs = [_below(net, level, x[0], maps) for x, maps in zip(decoded, own, strict=True)]
        block = cast(ConvBlock, shipped.up[level])
        said = [
            block.conv(_below(shipped, level, x[level + 1], maps))
            for x, maps in zip(told, encoded, strict=True)
        ]
        if f"up.{level}" in FEW:
            _through_few(cast(ConvBlock, net.up[level]), FEW[f"up.{level}"], inputs, said)
        for x, above in zip(inputs, decoded, strict=True):
            above.insert(0, net.up[level](x))
    outlines = _four_points(net, shipped, [x[0] for x in told], [x[0] for x in decoded])
    read = cast(ConvBlock, shipped.marker[0])
    said = [read.conv(x[1]) for x in told]
    _through_few(cast(ConvBlock, net.marker[0]), FEW["marker.0"], [x[1] for x in decoded], said)
    assert shipped.marker_context is not None
    for room, name, old in (
        (net, "marker_context", shipped.marker_context),
        (lean, "context", teacher.context),
    ):
        setattr(room, name, _narrow_context(old, teacher, encoded, outlines))
    _fewer_hidden(lean, teacher, tiles)


@torch.no_grad()
def hidden_as_shipped(lean: Lean, teacher: Teacher, tiles: Sequence[Tensor]) -> None:
    """Read he-v1-fast's marker from as many units as shipped, fitted to what those say."""
    sums, wanted = [], []
    context = cast(NarrowContext, lean.context)
    old = teacher.context
    for x in tiles:
        sums.append(context.total(*around_of(lean.net, x, NarrowContext.inputs)))
        wanted.append(_before_relu(old, *around_of(teacher.net, x, MarkerContext.inputs)))
    rows = _rows(sums)
    context.out = _of_a_pixel(*_read_by(rows, _rows(wanted), torch.ones(len(rows), 1)))
    lean.last = deepcopy(teacher.last)


def around_of(net: ResidualStarDistNet, x: Tensor, inputs: Any) -> tuple[Tensor, ...]:
    """What a marker head's context reads of a tile; `inputs` is that of its class."""
    encoded = net.encode(x)
    decoded = net.decode(encoded)
    read = cast(nn.Sequential, net.marker)[0](decoded[1])
    found: tuple[Tensor, ...] = inputs(encoded, decoded, net.features(decoded[0]), read)
    return found


def _fewer_hidden(lean: Lean, teacher: Teacher, tiles: Sequence[Tensor]) -> None:
    """Leave `HIDDEN` units before he-v1-fast's marker, and read it anew from those."""
    hidden, wanted = [], []
    for x in tiles:
        hidden.append(lean.context(*around_of(lean.net, x, NarrowContext.inputs)))
        wanted.append(teacher.logits(x).marker)
    rows = _rows(hidden)
    says = rows.square().mean(dim=0) * cast(nn.Conv2d, lean.last).weight[0, :, 0, 0].square()
    kept = says.argsort(descending=True)[:HIDDEN].sort().values
    out = cast(nn.Conv2d, lean.context.out)
    assert out.bias is not None
    cast(Any, lean.context).out = _of_a_pixel(out.weight[kept, :, 0, 0], out.bias[kept])
    lean.last = _of_a_pixel(*_read_by(rows[:, kept], _rows(wanted), torch.ones(len(rows), 1)))


def _below(
    net: ResidualStarDistNet, level: int, above: Tensor, encoded: Sequence[Tensor]
) -> Tensor:
    """What the decoder's convolution of a level reads."""
    x = F.interpolate(net.lateral[level](above), scale_factor=2, mode="nearest")
    return torch.cat([x, encoded[level]], dim=1)


def _four_points(
    net: ResidualStarDistNet,
    shipped: ResidualStarDistNet,
    told: Sequence[Tensor],
    decoded: Sequence[Tensor],
) -> nn.Conv2d:
    """Read outlines of two by two points from one map; what the shipped map's mean is there.

    The filters begin as the means of the shipped ones around the four points, and what is read
    from them is fitted by least squares, where nuclei are before all.

    Parameters
    ----------
    net, shipped : ResidualStarDistNet
    told, decoded : sequence of Tensor
        The shipped and the lean decoder's finest map of each tile.
    """
    old = shipped.features.conv
    conv = FourPointConv(old.in_channels, old.out_channels)
    assert conv.bias is not None and old.bias is not None
    conv.bias.copy_(old.bias)
    conv.weight.zero_()
    for dy, dx in product((0, 1), repeat=2):
        conv.weight[:, :, dy : dy + 3, dx : dx + 3] += old.weight / 4
    net.features.conv = conv
    inside, said, means, shares = [], [], [], []
    for old_map, x in zip(told, decoded, strict=True):
        features = shipped.features(old_map)
        prob = shipped.prob(features)
        outlines = torch.cat([prob.clamp(-MOST_LOGIT, MOST_LOGIT), shipped.dist(features)], dim=1)
        inside.append(net.features(x))
        said.append(F.pixel_unshuffle(outlines, 2))
        means.append(F.avg_pool2d(features, 2))
        shares.append(LEAST_WEIGHT + F.avg_pool2d(prob.sigmoid(), 2))
    read = _read_by(_rows(inside), _rows(said), _rows(shares))
    n_rays = shipped.dist.out_channels
    parts = zip(*(x.split([4, 4 * n_rays]) for x in read), strict=True)
    net.prob, net.dist = (_of_a_pixel(*part) for part in parts)
    return _of_a_pixel(*_read_by(_rows(inside), _rows(means), _rows(shares)))


def _read_by(inside: Tensor, said: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, c) and bias (C,) by which rows (N, c) say (N, C), rows by shares (N, 1)."""
    rows = torch.cat([inside, torch.ones(len(inside), 1)], dim=1)
    gram = rows.T @ (rows * shares)
    gram += RIDGE * torch.diag(torch.diag(gram))
    found = torch.linalg.solve(gram, rows.T @ (said * shares))
    return found[:-1].T, found[-1]


def _of_a_pixel(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The convolution of one pixel with weights (C, c) and a bias (C,)."""
    conv = nn.Conv2d(weight.shape[1], len(weight), 1)
    assert conv.bias is not None
    conv.weight.copy_(weight[:, :, None, None])
    conv.bias.copy_(bias)
    return conv


def _through_few(
    block: ConvBlock, few: int, inputs: Sequence[Tensor], wanted: Sequence[Tensor]
) -> None:
    """Put a `NarrowConv` in a block's place, by the main axes of what is wanted before its ReLU."""
    conv = block.conv
    assert conv.bias is not None
    said = _rows(wanted)
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
    old: MarkerContext, teacher: Teacher, encoded: Sequence[Sequence[Tensor]], mean_of: nn.Conv2d
) -> NarrowContext:
    """Of `encoded`, the shipped encoder's maps; `mean_of` says what `_four_points` tells."""
    net = teacher.net
    assert net.marker is not None
    said = []
    for maps in encoded:
        decoded = net.decode(maps)
        features, read = net.features(decoded[0]), net.marker[0](decoded[1])
        said.append(_before_relu(old, *MarkerContext.inputs(maps, decoded, features, read)))
    mean, axes = _main_axes(_rows(said), FEW_IN_CONTEXT)
    down = axes.T.float()
    width, n_features = old.around.in_channels, net.features.conv.out_channels
    new = NarrowContext(width, n_features, FEW_IN_CONTEXT, len(axes))
    weight = (down @ old.near.weight[:, :, 0, 0])[:, :, None, None]
    fine, blurred, read_, pooled = weight.split([2 * width, 2 * width, n_features, n_features], 1)
    assert old.near.bias is not None and new.near.bias is not None and new.out.bias is not None
    assert mean_of.bias is not None
    means = pooled[:, :, 0, 0] @ mean_of.weight[:, :, 0, 0]
    values: Mapping[nn.Conv2d, Tensor] = {
        new.near: torch.cat([fine, read_], dim=1),
        new.blurred: blurred,
        new.outlines: means[:, :, None, None],
        new.coarse: (down @ old.coarse.weight[:, :, 0, 0])[:, :, None, None],
        new.around: (down @ old.around.weight[:, :, 0, 0])[:, :, None, None],
        new.out: axes.float()[:, :, None, None],
    }
    for layer, value in values.items():
        layer.weight.copy_(value)
    new.near.bias.copy_(down @ (old.near.bias - mean.float()) + pooled[:, :, 0, 0] @ mean_of.bias)
    new.out.bias.copy_(mean)
    return new


def _before_relu(context: MarkerContext, near: Tensor, coarse: Tensor, around: Tensor) -> Tensor:
    """What a shipped context says, before its ReLU, of `MarkerContext.inputs`."""
    total: Tensor = context.near(near)
    for x in (context.coarse(coarse), context.around(around)):
        total = total + F.interpolate(x, total.shape[-2:], mode="bilinear")
    return total


def _main_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) of rows (N, C) and the axes (C, count) along which they vary most."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    return mean, torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:]


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Pixels of maps (1, C, H, W), (N, C) in double precision."""
    return torch.cat([x[0].flatten(1).T for x in maps]).double()
