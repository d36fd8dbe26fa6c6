"""Training HoVer-Net on annotated fields of view; sized by its configuration for GPU or CPU."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lymphinfer.compute import channels_last
from lymphinfer.nuclei.augment import (
    Augmentation,
    Crop,
    perturb_optics,
    perturb_stain,
    random_crop,
)
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.hovernet.decode import instance_map
from lymphinfer.nuclei.hovernet.infer import predict_maps
from lymphinfer.nuclei.hovernet.loss import hovernet_loss
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network, run_network
from lymphinfer.nuclei.hovernet.targets import distance_maps, kind_map
from lymphinfer.nuclei.metrics import SegmentationScore, score_segmentation
from lymphinfer.nuclei.stardist.train import learning_rate_factor, resample

log = logging.getLogger(__name__)

TYPES = ("Other", "Leukocyte")
"""Types that a network learns where the annotations tell leukocytes from other nuclei."""
STATE = "state.safetensors"
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class HoVerNetTraining:
    """What a training run is.

    Attributes
    ----------
    network : HoVerNetConfig
    mpp : float
        Pixel size that the network will work at, µm/px.
    crop_px : int
        Side of the output that is learned from; the input is wider by what the network cuts off.
    batch_size, steps : int
    learning_rate, weight_decay : float
        Of AdamW; the rate rises for 5 % of the steps and falls along a cosine.
    ema_decay : float
        Of the moving average of the weights, which is what is kept.
    validate_every : int
    seed : int
    autocast : bool
        Run the convolutions in bfloat16.
    """

    network: HoVerNetConfig = field(default_factory=HoVerNetConfig)
    mpp: float = 0.25
    crop_px: int = 164
    batch_size: int = 4
    steps: int = 5000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    validate_every: int = 500
    seed: int = 0
    autocast: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)


class CropDataset(IterableDataset[Batch]):
    """Endless augmented crops with their targets.

    Parameters
    ----------
    images : sequence of AnnotatedImage
    config : HoVerNetTraining
    start : int
        Steps already taken: a resumed run draws other crops than its beginning did.
    """

    def __init__(self, images: Sequence[AnnotatedImage], config: HoVerNetTraining, start: int = 0):
        self.config, self.start = config, start
        self.images = list(images)
        blank = [np.zeros(i.instances.shape, np.float32) for i in images]
        self.sources = [
            Crop(i.image, i.instances, b) for i, b in zip(self.images, blank, strict=True)
        ]
        sizes = np.array([i.instances.size for i in images], np.float64)
        self.weights = sizes / sizes.sum()

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        rng = np.random.default_rng([self.config.seed, self.start, number])
        while True:
            yield self.sample(rng)

    def sample(self, rng: np.random.Generator) -> Batch:
        """One crop: ``image`` uint8 (3, S, S) and targets of its inner part."""
        cfg = self.config
        chosen = int(rng.choice(len(self.weights), p=self.weights))
        item = self.images[chosen]
        margin = cfg.network.geometry.lost_px // 2
        crop = random_crop(
            self.sources[chosen],
            size_px=cfg.crop_px + 2 * margin,
            zoom=cfg.mpp / item.mpp,
            rng=rng,
            augmentation=cfg.augmentation,
        )
        image = perturb_optics(perturb_stain(crop.image, rng, cfg.augmentation), rng,
                               cfg.augmentation)  # fmt: skip
        inner = slice(margin, margin + cfg.crop_px)
        instances = crop.instances[inner, inner]
        # Distances from the whole crop: a nucleus at its border keeps its own centre.
        distance = distance_maps(crop.instances)[:, inner, inner]
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "nucleus": torch.from_numpy(np.sign(instances).astype(np.int64)),
            "distance": torch.from_numpy(distance.copy()),
            "kind": torch.from_numpy(kind_map(instances, item.leukocyte)),
        }


def segment(
    net: nn.Module,
    config: HoVerNetConfig,
    images: Sequence[AnnotatedImage],
    *,
    mpp: float,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> tuple[SegmentationScore, list[NDArray[np.int32]]]:
    """Score a network on whole images, and what it found in each, at its own pixel size."""
    truth, found = [], []
    for item in images:
        pixels, instances = resample(item, mpp)
        maps = predict_maps(net, config, pixels, device=device, autocast=autocast)
        truth.append(instances)
        found.append(instance_map(maps, mpp))
    return score_segmentation(truth, found), found


class HoVerNetTrainer:
    """One training run in a folder; the same folder again goes on where it stopped.

    Parameters
    ----------
    config : HoVerNetTraining
    folder : Path
        ``state.safetensors`` (weights, their average, optimiser), ``log.jsonl``, ``config.json``.
    device : torch.device or str
    initial : mapping of str to Tensor, optional
        Weights to begin with, by name and shape; others start at random.
    """

    def __init__(
        self,
        config: HoVerNetTraining,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        initial: dict[str, Tensor] | None = None,
    ):
        self.config, self.folder, self.device = config, folder, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.net = channels_last(build_network(config.network), self.device)
        if initial is not None:
            own = self.net.state_dict()
            fitting = {k: v for k, v in initial.items() if k in own and own[k].shape == v.shape}
            self.net.load_state_dict(fitting, strict=False)
            log.info("%d of %d tensors start from given weights", len(fitting), len(own))
        self.average = deepcopy(self.net).eval()
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        if (folder / STATE).exists():
            self._load()
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))

    def fit(
        self, images: Sequence[AnnotatedImage], held_out: Sequence[AnnotatedImage] = ()
    ) -> nn.Module:
        """Train to the last step and return the averaged network in evaluation mode.

        Parameters
        ----------
        images : sequence of AnnotatedImage
        held_out : sequence of AnnotatedImage
            Scored every ``validate_every`` steps, never trained on.

        Returns
        -------
        nn.Module
        """
        cfg = self.config
        dataset = CropDataset(images, cfg, start=self.step)
        batches = iter(DataLoader(dataset, batch_size=cfg.batch_size, num_workers=0))
        self.net.train()
        began, sums, count = time.monotonic(), np.zeros(4), 0
        while self.step < cfg.steps:
            sums += self._update(next(batches))
            self.step, count = self.step + 1, count + 1
            if self.step % cfg.validate_every == 0 or self.step == cfg.steps:
                self._report(held_out, sums / count, time.monotonic() - began)
                began, sums, count = time.monotonic(), np.zeros(4), 0
                self._save()
        return self.average.eval()

    def _update(self, batch: Batch) -> NDArray[np.float64]:
        cfg = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * learning_rate_factor(self.step, cfg.steps)
        batch = {k: v.to(self.device) for k, v in batch.items()}
        x = batch["image"].float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cfg.autocast):
            output = run_network(self.net, x, cfg.network.geometry)
        loss = hovernet_loss(output, batch["nucleus"], batch["distance"], batch["kind"])
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        decay = min(cfg.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            own = self.net.state_dict()
            for name, value in self.average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(own[name], 1 - decay)
                else:
                    value.copy_(own[name])
        return np.array([float(v.detach()) for v in loss])

    def _report(
        self, held_out: Sequence[AnnotatedImage], losses: NDArray[np.float64], seconds: float
    ) -> None:
        names = ("total", "nucleus", "distance", "kind")
        row: dict[str, Any] = {"step": self.step, "seconds": round(seconds, 1)}
        row |= dict(zip(names, losses.round(4).tolist(), strict=True))
        if held_out:
            half = torch.bfloat16 if self.config.autocast else None
            score, _ = segment(
                self.average, self.config.network, held_out, mpp=self.config.mpp,
                device=self.device, autocast=half,
            )  # fmt: skip
            row |= {k: round(v, 4) for k, v in asdict(score).items()}
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        log.info("%s", row)

    def _save(self) -> None:
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        tensors["step"] = torch.tensor(self.step)
        beside = self.folder / f"{STATE}.tmp"
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, beside)
        beside.replace(self.folder / STATE)

    def _load(self) -> None:
        tensors = load_file(self.folder / STATE)
        self.step = int(tensors.pop("step"))

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.net.load_state_dict(part("net."))
        self.average.load_state_dict(part("average."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
