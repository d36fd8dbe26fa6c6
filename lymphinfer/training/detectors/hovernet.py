"""Training HoVer-Net on annotated fields of view; sized by its configuration for GPU or CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from lymphinfer.nuclei.augment import (
    Crop,
    perturb_optics,
    perturb_pigment,
    perturb_stain,
    random_crop,
)
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.hovernet.decode import instance_map
from lymphinfer.nuclei.hovernet.infer import predict_maps
from lymphinfer.nuclei.hovernet.loss import HoVerNetLoss, hovernet_loss
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network, run_network
from lymphinfer.nuclei.hovernet.targets import distance_maps, kind_map
from lymphinfer.nuclei.metrics import SegmentationScore, score_segmentation
from lymphinfer.training.detectors.stardist import resample
from lymphinfer.training.detectors.trainer import Batch, DetectorTrainer, RunConfig, network_input

TYPES = ("Other", "Leukocyte")
"""Types that a network learns where the annotations tell leukocytes from other nuclei."""


@dataclass(frozen=True)
class HoVerNetTraining(RunConfig):
    """What a training run of a HoVer-Net is; its input is wider than a crop by what it cuts off."""

    network: HoVerNetConfig = field(default_factory=HoVerNetConfig)
    mpp: float = 0.25
    crop_px: int = 164
    batch_size: int = 4
    steps: int = 5000


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
        image = perturb_pigment(crop.image, crop.instances, item.leukocyte, rng, cfg.augmentation)
        image = perturb_optics(perturb_stain(image, rng, cfg.augmentation), rng, cfg.augmentation)
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


class HoVerNetTrainer(DetectorTrainer[nn.Module, HoVerNetTraining]):
    """Training run of a HoVer-Net, see `DetectorTrainer`."""

    loss_names = ("total", "nucleus", "distance", "kind")

    def build(self) -> nn.Module:
        """See `DetectorTrainer.build`."""
        return build_network(self.config.network)

    def last_layers(self) -> list[nn.Module]:
        """See `DetectorTrainer.last_layers`."""
        return [branch[3].conv for branch in self.net.decoder.values()]  # type: ignore[operator]

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
        crops = CropDataset(images, self.config, start=self.step)
        return self.run(crops, {"images": images}, held_out)

    def losses(self, batch: Batch) -> HoVerNetLoss:
        """See `DetectorTrainer.losses`."""
        cfg = self.config
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cfg.bf16):
            output = run_network(self.net, network_input(batch["image"]), cfg.network.geometry)
        return hovernet_loss(output, batch["nucleus"], batch["distance"], batch["kind"])

    def score(self, held_out: Sequence[AnnotatedImage]) -> dict[str, float]:
        """See `DetectorTrainer.score`."""
        half = torch.bfloat16 if self.config.bf16 else None
        found, _ = segment(
            self.average, self.config.network, held_out, mpp=self.config.mpp,
            device=self.device, autocast=half,
        )  # fmt: skip
        return asdict(found)
