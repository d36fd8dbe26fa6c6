"""The patch classifier of a trained detector: its encoder, taught to see by patches, and a head.

A patch shows 26 µm, the detector saw much more around each nucleus and no border: on patches the
same weights say other things. So the encoder learns first, on nuclei with labels or without, to
read from a patch what the detector reads there from the whole image; the head is learned on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import channels_last
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.nucleus_encoder import central_weights, from_detector
from lymphinfer.markers.patches import cut_patches
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.stardist.network import ResidualStarDistNet, StarDistNet
from recipes.he.marker_head import SHARES, copies, fit, maps_of

# Changed copies of each image.
COPIES = {"consep": 1, "tnbc": 1, "nuinsseg": 0, "others": 0}
BATCH, LEARNING_RATE, JITTER_PX = 64, 3e-4, 1.0


@dataclass(frozen=True)
class Examples:
    """Patches (N, S, S, 3) uint8, what the detector reads (N, D) float16, labels and weights (N,).

    A label is 1, 0, or -1 where unknown.
    """

    patches: NDArray[np.uint8]
    read: Tensor
    labels: NDArray[np.int8]
    weights: NDArray[np.float32]


def read_at(
    net: ResidualStarDistNet, pixels: NDArray[np.uint8], xy: NDArray[np.floating]
) -> Tensor:
    """(N, D): what `NucleusEncoder` averages around the centre, from the whole image's maps."""
    maps = maps_of(net, pixels)
    # The finest has half the grid's resolution; the image may have been padded.
    height, width = (side * 2 * net.config.grid for side in maps[0].shape[-2:])
    means = []
    for m in maps:
        stride = width / m.shape[-1]
        offset = (np.arange(-3, 3) + 0.5) * stride
        line = central_weights(torch.from_numpy(offset), stride).float()
        points = (xy + 0.5)[:, None, None] + np.stack(np.meshgrid(offset, offset), axis=-1)
        where = torch.from_numpy(points / (width, height) * 2 - 1).float()
        for_each = where.reshape(1, len(xy), -1, 2)
        found = F.grid_sample(m, for_each, padding_mode="border", align_corners=False)[0]
        means.append(torch.einsum("cnij,i,j->nc", found.unflatten(2, (6, 6)), line, line))
    return torch.cat(means, dim=1).half()


def examples(
    net: ResidualStarDistNet,
    sets: Mapping[str, Sequence[AnnotatedImage]],
    mpp: float,
    patch_px: int,
    rng: np.random.Generator,
) -> Examples:
    """Patches of nuclei of all sets, jittered, beside what the detector reads at their centres."""
    patches, read, weights = [], [], []
    labels: list[Any] = []
    of_consep = 0
    for name, number in COPIES.items():
        before = len(labels)
        for image in sets[name]:
            for pixels, instances in copies(image, mpp, number, rng):
                ids = np.flatnonzero(np.bincount(instances.clip(0).ravel())[1:]) + 1
                if not len(ids):
                    continue
                center = np.array(ndimage.center_of_mass(instances > 0, instances, ids))[:, ::-1]
                center = np.rint(center + rng.normal(0, JITTER_PX, center.shape))
                patches.append(cut_patches(pixels, center, patch_px))
                read.append(read_at(net, pixels, center))
                labels.append(image.leukocyte[ids])
        known = sum(int((y >= 0).sum()) for y in labels[before:])
        of_consep = of_consep or known
        weight = SHARES[name][1] * of_consep / max(known, 1) if name in SHARES else 0.0
        weights += [np.full(len(y), weight, np.float32) for y in labels[before:]]
        print(f"{name}: {sum(map(len, labels[before:]))} patches, {known} labelled", flush=True)
    return Examples(
        np.concatenate(patches), torch.cat(read), np.concatenate(labels), np.concatenate(weights)
    )


def features(model: MarkerClassifier, patches: NDArray[np.uint8]) -> Tensor:
    """(N, D) of patches (N, S, S, 3)."""
    x = torch.from_numpy(patches).permute(0, 3, 1, 2).float().div(255)
    found: Tensor = model.backbones[0](model.normalise(x))
    return found


def learn_to_see(model: MarkerClassifier, known: Examples, seed: int) -> None:
    """Train the backbone, in place, to read from a patch what the detector read there."""
    torch.manual_seed(seed)
    deviation = known.read[::7].float().std(dim=0) + 0.05
    steps = len(known.labels) // BATCH
    optimizer = torch.optim.AdamW(model.backbones[0].parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for step, drawn in enumerate(torch.randperm(len(known.labels)).split(BATCH)[:steps]):
        wrong = (features(model, known.patches[drawn]) - known.read[drawn].float()) / deviation
        loss = F.smooth_l1_loss(wrong, torch.zeros_like(wrong))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"patches, step {step} of {steps}: {loss.item():.4f}", flush=True)


def by_patches(
    net: StarDistNet,
    sets: Mapping[str, Sequence[AnnotatedImage]],
    mpp: float,
    config: ClassifierConfig,
    seed: int = 0,
) -> MarkerClassifier:
    """A patch classifier that reads from a patch what the detector reads from the whole image.

    Parameters
    ----------
    net : StarDistNet
        Residual, with a marker head, without batch normalisation.
    sets : mapping of str to sequence of AnnotatedImage
        Those of `COPIES`; the head learns from the labelled nuclei of those of `SHARES`.
    mpp : float
        Pixel size of the network, µm/px.
    config : ClassifierConfig
        One marker, `lymphinfer.markers.nucleus_encoder`'s backbone.
    seed : int
    """
    assert isinstance(net, ResidualStarDistNet)
    known = examples(net, sets, mpp, config.patch_px, np.random.default_rng(seed))
    model = channels_last(MarkerClassifier(config))
    model.backbones[0].load_state_dict(from_detector(net.state_dict()))
    learn_to_see(model, known, seed)
    with torch.inference_mode():
        parts = torch.arange(len(known.labels)).split(256)
        read = torch.cat([features(model, known.patches[i]).half() for i in parts])
    labelled = torch.from_numpy((known.labels >= 0) & (known.weights > 0))
    head = fit(
        read[labelled][:, None],
        torch.from_numpy(known.labels)[labelled].float(),
        torch.from_numpy(known.weights)[labelled],
        seed,
        activation=nn.GELU,
    )
    names = ("0.weight", "0.bias", "3.weight", "3.bias")
    model.heads[0].load_state_dict(dict(zip(names, head, strict=True)))
    return model.eval()
