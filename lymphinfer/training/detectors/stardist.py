"""Training the StarDist network, with its dense marker head, on annotated fields of view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info

from lymphinfer.compute import channels_last
from lymphinfer.nuclei.augment import (
    Crop,
    perturb_optics,
    perturb_pigment,
    perturb_stain,
    random_crop,
)
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.metrics import SegmentationScore, score_segmentation
from lymphinfer.nuclei.stardist.batch_norm import fold_batch_norm
from lymphinfer.nuclei.stardist.decode import decode, refine
from lymphinfer.nuclei.stardist.infer import predict_dense
from lymphinfer.nuclei.stardist.loss import StarDistLoss, stardist_loss
from lymphinfer.nuclei.stardist.network import (
    StarDistConfig,
    StarDistNet,
    build_network,
)
from lymphinfer.nuclei.stardist.targets import object_probability, star_targets
from lymphinfer.training.detectors.trainer import Batch, DetectorTrainer, RunConfig, network_input


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """What a training run of a StarDist is.

    Attributes
    ----------
    network : StarDistConfig
        The first marker of the dense head, where there is one, is the leukocyte label.
    shares : mapping of str to float
        Share of the crops drawn from each named set.
    overlap_share, marker_share, marker_doubt : float and tuple of float
        Shares of the polar IoU loss and of the marker loss, and the doubt about labels, see
        `stardist_loss`.
    """

    network: StarDistConfig = field(default_factory=lambda: StarDistConfig(batch_norm=True))
    shares: dict[str, float] = field(default_factory=dict)
    overlap_share: float = 0.0
    marker_share: float = 0.5
    marker_doubt: tuple[float, float] = (0.0, 0.0)


class CropDataset(IterableDataset[Batch]):
    """Endless augmented crops with their targets.

    Parameters
    ----------
    sets : mapping of str to sequence of AnnotatedImage
    config : TrainConfig
    start : int
        Crops already consumed: a resumed run draws other crops than its beginning did.
    """

    margin = 24

    def __init__(
        self, sets: Mapping[str, Sequence[AnnotatedImage]], config: TrainConfig, start: int = 0
    ):
        self.config, self.start = config, start
        self.sources: list[tuple[AnnotatedImage, Crop]] = []
        weights: list[float] = []
        for name, images in sets.items():
            area = sum(i.instances.size for i in images)
            share = config.shares.get(name, 1.0)
            for item in images:
                probability = object_probability(item.instances)
                self.sources.append((item, Crop(item.image, item.instances, probability)))
                weights.append(share * item.instances.size / area)
        self.weights = np.asarray(weights) / np.sum(weights)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        rng = np.random.default_rng([self.config.seed, self.start, number])
        while True:
            yield self.sample(rng)

    def images(self, count: int) -> Tensor:
        """Some crops as a network's input, float32 (count, 3, H, W) in [0, 1]."""
        crops = islice(self, count)
        return torch.stack([crop["image"] for crop in crops]).float().div_(255)

    def sample(self, rng: np.random.Generator) -> Batch:
        """One crop: ``image`` uint8 (3, H, W) and float targets on the output grid."""
        cfg, net = self.config, self.config.network
        item, source = self.sources[int(rng.choice(len(self.weights), p=self.weights))]
        crop = random_crop(
            source,
            size_px=cfg.crop_px + 2 * self.margin,
            zoom=cfg.mpp / item.mpp,
            rng=rng,
            augmentation=cfg.augmentation,
        )
        inner = slice(self.margin, -self.margin)
        image = perturb_pigment(
            crop.image[inner, inner],
            crop.instances[inner, inner],
            item.leukocyte,
            rng,
            cfg.augmentation,
        )
        image = perturb_stain(image, rng, cfg.augmentation)
        image = perturb_optics(image, rng, cfg.augmentation)
        targets = star_targets(
            np.maximum(crop.instances, 0),
            crop.prob,
            n_rays=net.n_rays,
            grid=net.grid,
            margin=self.margin,
        )
        known = crop.instances[inner, inner][:: net.grid, :: net.grid] >= 0
        leukocyte = item.leukocyte[targets.instances].astype(np.float32)
        areas = np.bincount(targets.instances.ravel(), minlength=item.n_nuclei + 1)
        weight = (1.0 / np.maximum(areas, 20))[targets.instances].astype(np.float32)
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "prob": torch.from_numpy(np.where(known, targets.prob, -1).astype(np.float32)),
            "dist": torch.from_numpy(targets.dist),
            "marker": torch.from_numpy(leukocyte)[None],
            "marker_weight": torch.from_numpy(weight),
        }


@dataclass(frozen=True)
class Validation:
    """Quality on held-out images at one probability threshold.

    Attributes
    ----------
    segmentation : SegmentationScore
    leukocyte_auroc : float
        Of the dense head averaged over each true nucleus; NaN without labels or head.
    prob_threshold : float
    """

    segmentation: SegmentationScore
    leukocyte_auroc: float
    prob_threshold: float


def resample(image: AnnotatedImage, mpp: float) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Image (H, W, 3) uint8 and instances (H, W) int32 of a field of view at a pixel size."""
    size = tuple(round(s * image.mpp / mpp) for s in image.image.shape[1::-1])
    pixels = Image.fromarray(image.image).resize(size, Image.Resampling.BILINEAR)
    labels = Image.fromarray(image.instances, mode="I").resize(size, Image.Resampling.NEAREST)
    return np.asarray(pixels), np.asarray(labels, np.int32)


def pool_over_instances(
    values: NDArray[np.float32], instances: NDArray[np.integer], n: int
) -> NDArray[np.float32]:
    """Mean of a map over each label.

    Parameters
    ----------
    values : ndarray of float32, (C, h, w)
    instances : ndarray of int, (h, w)
        Labels 0..n on the same grid.
    n : int
        Largest label.

    Returns
    -------
    ndarray of float32, (n, C)
        Rows of labels 1..n; NaN for a label without a pixel.
    """
    flat = instances.ravel()
    count = np.bincount(flat, minlength=n + 1)[1:]
    sums = [np.bincount(flat, weights=v.ravel(), minlength=n + 1)[1:] for v in values]
    with np.errstate(invalid="ignore"):
        return (np.stack(sums, axis=1) / count[:, None]).astype(np.float32)


def validate(
    net: StarDistNet,
    images: Sequence[AnnotatedImage],
    *,
    mpp: float,
    thresholds: Sequence[float] = (0.4,),
    nms_threshold: float = 0.3,
    refine_at: Sequence[float] = (),
    bf16: bool = True,
) -> list[Validation]:
    """Score a network on whole images at each probability threshold.

    Parameters
    ----------
    net : StarDistNet
        In evaluation mode, on the CPU.
    images : sequence of AnnotatedImage
        Held out.
    mpp : float
        Working pixel size, µm/px.
    thresholds : sequence of float
    nms_threshold : float
    refine_at : sequence of float
        As `StarDistDetector` takes it.
    bf16 : bool
        Run the convolutions in bfloat16.

    Returns
    -------
    list of Validation
        One a threshold.
    """
    from sklearn.metrics import roc_auc_score

    grid = net.config.grid
    truth: list[NDArray[np.int32]] = []
    predicted: list[list[NDArray[np.int32]]] = [[] for _ in thresholds]
    labels, scores = [], []
    for item in images:
        pixels, instances = resample(item, mpp)
        dense = predict_dense(net, pixels[None], autocast=torch.bfloat16 if bf16 else None)[0]
        truth.append(instances)
        for i, threshold in enumerate(thresholds):
            polygons = decode(
                dense.prob,
                dense.dist,
                grid=grid,
                prob_threshold=threshold,
                nms_threshold=nms_threshold,
            )
            polygons = refine(polygons, dense.dist, grid=grid, fractions=refine_at)
            predicted[i].append(polygons.label_image(instances.shape))
        if dense.marker_logit is not None:
            probability = (1 / (1 + np.exp(-dense.marker_logit[:1]))).astype(np.float32)
            pooled = pool_over_instances(probability, instances[::grid, ::grid], item.n_nuclei)
            known = (item.leukocyte[1:] >= 0) & np.isfinite(pooled[:, 0])
            labels.append(item.leukocyte[1:][known])
            scores.append(pooled[known, 0])
    y = np.concatenate(labels) if labels else np.empty(0)
    auroc = (
        float(roc_auc_score(y, np.concatenate(scores))) if len(np.unique(y)) == 2 else float("nan")
    )
    return [
        Validation(score_segmentation(truth, p), auroc, t)
        for t, p in zip(thresholds, predicted, strict=True)
    ]


class Trainer(DetectorTrainer[StarDistNet, TrainConfig]):
    """Training run of a StarDist network, see `DetectorTrainer`."""

    loss_names = ("total", "prob", "dist", "marker")
    workers = 1

    def build(self) -> StarDistNet:
        """See `DetectorTrainer.build`."""
        return build_network(self.config.network)

    def last_layers(self) -> list[nn.Conv2d]:
        """See `DetectorTrainer.last_layers`."""
        return self.net.last_layers()

    def fit(
        self, sets: Mapping[str, Sequence[AnnotatedImage]], held_out: Sequence[AnnotatedImage]
    ) -> StarDistNet:
        """Train to the last step and return the averaged network without batch normalisation.

        Parameters
        ----------
        sets : mapping of str to sequence of AnnotatedImage
        held_out : sequence of AnnotatedImage
            Scored every ``validate_every`` steps, never trained on.

        Returns
        -------
        StarDistNet
            On the CPU.
        """
        net = self.run(CropDataset(sets, self.config, start=self.step), sets, held_out)
        return fold_batch_norm(deepcopy(net).cpu())

    def look(self, step: int) -> StarDistNet:
        """The average at an earlier look at held-out images, as `fit` returns the last.

        Parameters
        ----------
        step : int
            A multiple of ``validate_every``, one of ``looks``, or the last step.

        Returns
        -------
        StarDistNet
            On the CPU, without batch normalisation.

        Raises
        ------
        FileNotFoundError
            The run has not been there.
        """
        net = self.build()
        net.load_state_dict(load_file(self.folder / f"average-{step}.safetensors"))
        return fold_batch_norm(net.eval())

    def losses(self, batch: Batch) -> StarDistLoss:
        """See `DetectorTrainer.losses`."""
        cfg = self.config
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cfg.bf16):
            output = self.net(network_input(batch["image"]))
        return stardist_loss(
            output,
            batch["prob"],
            batch["dist"],
            batch["marker"],
            batch["marker_weight"],
            overlap_share=cfg.overlap_share,
            marker_share=cfg.marker_share,
            marker_doubt=cfg.marker_doubt,
        )

    def score(self, held_out: Sequence[AnnotatedImage]) -> dict[str, float]:
        """See `DetectorTrainer.score`."""
        plain = channels_last(fold_batch_norm(deepcopy(self.average).cpu()))
        found = validate(plain, held_out, mpp=self.config.mpp, bf16=self.config.bf16)[0]
        return {**asdict(found.segmentation), "leukocyte_auroc": found.leukocyte_auroc}
