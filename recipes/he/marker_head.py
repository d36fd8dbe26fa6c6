"""The marker head of a trained detector, learned from what its frozen maps say of each nucleus.

A network of one hidden layer on some 600 numbers learns in a minute what takes crops and the whole
network an hour, sees nuclei in batches of a thousand, and leaves the outlines as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.nuclei.augment import Augmentation, perturb_optics, perturb_pigment, perturb_stain
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.stardist.infer import to_input
from lymphinfer.nuclei.stardist.network import (
    ResidualStarDistNet,
    StarDistNet,
    build_network,
)
from lymphinfer.training.detectors.stardist import resample
from recipes.he.rounds import MILD

# The maps come from a network that has seen stronger changes; melanin is what this head is for.
CHANGES = replace(
    MILD,
    scale=(0.93, 1.08),
    stain=0.12,
    contrast=0.1,
    sharpen=0.7,
    blur=0.5,
    jpeg=0.2,
    noise=2.0,
    coarse=0.05,
    melanin=0.35,
    veil=0.2,
)
# Of each set: changed copies of an image, and the weight of all its nuclei beside CoNSeP's.
SHARES = {"consep": (7, 1.0), "tnbc": (3, 0.05), "nuinsseg": (2, 0.05)}
CELLS = 5
HIDDEN = 128
BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1024, 4, 2e-3, 0.05, (0.4, 0.5)
# Shares of the negative and of the positive labels that are taken to be wrong.
DOUBT = (0.02, 0.04)


@torch.inference_mode()
def maps_of(net: ResidualStarDistNet, pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
    """What `MarkerContext` reads of a whole image, padded to the network's stride."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = net.read_around(to_input(pixels[None], net.config.stride))
    return tuple(m.float() for m in maps)


def cells(
    net: ResidualStarDistNet,
    pixels: NDArray[np.uint8],
    instances: NDArray[np.int32],
    n: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """What `MarkerContext` reads at some points of each nucleus, as one vector each.

    (n, CELLS, D) of labels 1..n, and which of them have a cell of the head's grid at all.
    """
    maps = maps_of(net, pixels)
    step = 2 * net.config.grid
    height, width = maps[0].shape[-2:]
    labels = np.zeros((height, width), np.int64)
    inside = np.maximum(instances[step // 2 :: step, step // 2 :: step], 0)
    labels[: inside.shape[0], : inside.shape[1]] = inside
    order = np.argsort(labels, axis=None, kind="stable")
    of_label = labels.ravel()[order]
    first = np.searchsorted(of_label, np.arange(1, n + 1))
    count = np.searchsorted(of_label, np.arange(1, n + 1), side="right") - first
    drawn = first[:, None] + (rng.random((n, CELLS)) * count[:, None]).astype(int)
    row, column = np.divmod(order[np.minimum(drawn, len(order) - 1)], width)
    where = np.stack([(column + 0.5) / width, (row + 0.5) / height], axis=-1) * 2 - 1
    grid = torch.from_numpy(where).float()[None]
    read_at = [F.grid_sample(m, grid, padding_mode="border", align_corners=False)[0] for m in maps]
    return torch.cat(read_at).permute(1, 2, 0).half().numpy(), count > 0


def copies(
    image: AnnotatedImage, mpp: float, number: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Pixels and instances of an image as it is, and of a number of changed copies."""
    yield resample(image, mpp)
    for _ in range(number):
        zoom = float(np.exp(rng.uniform(*np.log(CHANGES.scale))))
        pixels, instances = resample(image, mpp / zoom)
        yield changed(pixels, instances, image.leukocyte, rng, CHANGES)


def changed(
    pixels: NDArray[np.uint8],
    instances: NDArray[np.int32],
    leukocyte: NDArray[np.integer],
    rng: np.random.Generator,
    changes: Augmentation,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Pixels with other pigment, stain and optics, mirrored at random with their instances."""
    pixels = perturb_pigment(pixels, instances, leukocyte, rng, changes)
    pixels = perturb_optics(perturb_stain(pixels, rng, changes), rng, changes)
    for axis in (0, 1):
        if rng.random() < 0.5:
            pixels, instances = np.flip(pixels, axis).copy(), np.flip(instances, axis).copy()
    return pixels, instances


def with_context(
    net: StarDistNet, sets: Mapping[str, Sequence[AnnotatedImage]], mpp: float, seed: int = 0
) -> StarDistNet:
    """The same detector with a marker head that reads `MarkerContext`, trained on labelled nuclei.

    Parameters
    ----------
    net : StarDistNet
        A residual one with a marker head, without batch normalisation.
    sets : mapping of str to sequence of AnnotatedImage
        Those of `SHARES`; nuclei without a label are passed over.
    mpp : float
        Pixel size of the network, µm/px.
    seed : int
    """
    assert isinstance(net, ResidualStarDistNet)
    rng = np.random.default_rng(seed)
    values: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.integer]] = []
    weights: list[NDArray[np.float32]] = []
    for name, (number, share) in SHARES.items():
        found = []
        for image in sets[name]:
            known = image.leukocyte[1:] >= 0
            if not known.any():
                continue
            for pixels, instances in copies(image, mpp, number, rng):
                read, seen = cells(net, pixels, instances, image.n_nuclei, rng)
                found.append((read[seen & known], image.leukocyte[1:][seen & known]))
        count = sum(len(y) for _, y in found)
        values += [x for x, _ in found]
        labels += [y for _, y in found]
        of_consep = weights[0].size if weights else count
        weights.append(np.full(count, share * of_consep / count, np.float32))
        print(f"{name}: {count} nuclei of {len(found)} images and copies", flush=True)
    head = fit(
        torch.from_numpy(np.concatenate(values)),
        torch.from_numpy(np.concatenate(labels)).float(),
        torch.from_numpy(np.concatenate(weights)),
        seed,
    )
    return assembled(net, *head)


def fit(
    values: Tensor,
    labels: Tensor,
    weights: Tensor,
    seed: int,
    activation: type[nn.Module] = nn.ReLU,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and biases of two layers for raw values; the loss is on the mean over a nucleus.

    Parameters
    ----------
    values : Tensor of float16, (N, CELLS, D)
    labels, weights : Tensor of float32, (N,)
        Labels are 0 or 1.

    Returns
    -------
    tuple of Tensor
        (HIDDEN, D), (HIDDEN,), (1, HIDDEN), (1,).
    """
    torch.manual_seed(seed)
    some = values[::7].float()
    mean, deviation = some.mean(dim=(0, 1)), some.std(dim=(0, 1)) + 0.05
    targets = DOUBT[0] + labels * (1 - sum(DOUBT))
    first, last = nn.Linear(values.shape[2], HIDDEN), nn.Linear(HIDDEN, 1)
    layers = nn.Sequential(
        nn.Dropout(DROPOUT[0]), first, activation(), nn.Dropout(DROPOUT[1]), last
    )
    batches = len(values) // BATCH
    optimizer = torch.optim.AdamW(layers.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * batches)
    for _ in range(EPOCHS):
        for drawn in torch.randperm(len(values)).split(BATCH)[:batches]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logit = layers((values[drawn].float() - mean) / deviation)[..., 0]
            loss = F.binary_cross_entropy_with_logits(
                logit.float().mean(dim=1), targets[drawn], weights[drawn], reduction="sum"
            )
            optimizer.zero_grad()
            (loss / weights[drawn].sum()).backward()
            optimizer.step()
            schedule.step()
    weight = first.weight.detach() / deviation
    bias = first.bias.detach() - weight @ mean
    return weight, bias, last.weight.detach(), last.bias.detach()


def assembled(
    net: ResidualStarDistNet, weight: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor
) -> StarDistNet:
    """The network with these two layers as its marker head's."""
    full = build_network(replace(net.config, n_marker_context=len(weight)))
    context = full.get_submodule("marker_context")
    names = ("near", "coarse", "around")
    widths = [cast(nn.Conv2d, context.get_submodule(name)).in_channels for name in names]
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("marker.1.")}
    for name, part in zip(names, weight.split(widths, dim=1), strict=True):
        state[f"marker_context.{name}.weight"] = part[..., None, None].contiguous()
    state |= {
        "marker_context.near.bias": bias,
        "marker.1.weight": last[..., None, None],
        "marker.1.bias": last_bias,
    }
    full.load_state_dict(state)
    return full.eval()
