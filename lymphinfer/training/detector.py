"""Training a detector on a laboratory's own annotations, and the bundle it ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lymphinfer.bundles.borrowing import write_with_markers_of
from lymphinfer.bundles.composing import find_detector, used_manifest
from lymphinfer.bundles.importing_hovernet import hovernet_table, read_weights
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.registry import DEFAULT_BUNDLE
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.compute import half_type, resolve_device
from lymphinfer.downloading import sha256_of
from lymphinfer.errors import DataError
from lymphinfer.extras import require_extra
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig
from lymphinfer.nuclei.layouts import read_any_folder
from lymphinfer.nuclei.metrics import SegmentationScore
from lymphinfer.nuclei.stardist.batch_norm import unfold_batch_norm
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.training.detectors.hovernet import TYPES, HoVerNetTrainer, HoVerNetTraining, segment
from lymphinfer.training.detectors.stardist import CropDataset, TrainConfig, Trainer, validate

ARCHITECTURES = ("stardist", "hovernet")
HELD_OUT_EVERY = 5
CROPS_FOR_STATISTICS = 16
# Highest rates from random weights, and from weights that have learned.
FIRST_RATE, FINE_TUNING_RATE = 3e-3, 1e-3
NMS_THRESHOLD = 0.3
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
_CARD = """# {name}

{architecture} trained by `{command}`, with the marker model of the bundle `{markers}`.

## Intended use

As `{markers}`'s card says. **Research use only, not for diagnosis.**

## Training data of the detector

{images} images with {nuclei} nuclei from `{data}` at {image_mpp} µm/px; begun from {start}; {steps}
steps at {mpp} µm/px. Their licence is their owner's.

## Metrics

On {held_out} images that it was not trained on ({held_out_source}), by instances matched at IoU
0.5: F1 {f1:.3f}, panoptic quality {pq:.3f}, aggregated Jaccard {aji:.3f}, Dice {dice:.3f}.
StarDist's threshold was chosen on the same images, which flatters it a little.
The AUROC of the marker model was measured at annotated nuclei and does not depend on the detector.
"""


@dataclass(frozen=True)
class DetectorRun:
    """What to train.

    Attributes
    ----------
    architecture : {"stardist", "hovernet"}
    data : Path
        Folder of annotated images, see `lymphinfer.nuclei.layouts`.
    held_out : Path or None
        Another, to measure on; by default every fifth image of `data`.
    image_mpp : float
        Pixel size of the images, µm/px.
    mpp : float or None
        Pixel size to work at; by default the initial bundle's, else 0.325 (StarDist), 0.25.
    steps, batch_size : int
    divisor : int
        Of HoVer-Net's channels, see `HoVerNetConfig`.
    initial : str
        Bundle, or weight file of a HoVer-Net, to begin from; empty: random weights.
    markers_from : str
        Bundle whose marker model the new one gets.
    device : str
    validate_every : int
    workers : int or None
        Of `DetectorTrainer`.
    """

    architecture: str
    data: Path
    held_out: Path | None = None
    image_mpp: float = 0.25
    mpp: float | None = None
    steps: int = 5000
    batch_size: int = 4
    divisor: int = 1
    initial: str = ""
    markers_from: str = DEFAULT_BUNDLE
    device: str = "auto"
    validate_every: int = 500
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise DataError(f"--arch {self.architecture}: choose one of {', '.join(ARCHITECTURES)}")


@dataclass(frozen=True)
class TrainedDetector:
    """The bundle, and its score on the held-out images."""

    manifest: BundleManifest
    score: SegmentationScore


@dataclass(frozen=True)
class _Images:
    train: list[AnnotatedImage]
    held_out: list[AnnotatedImage]


def train_detector(run: DetectorRun, out: Path, work: Path, *, command: str) -> TrainedDetector:
    """Train, measure, and write the bundle; the same call again goes on where it stopped.

    Parameters
    ----------
    run : DetectorRun
    out : Path
        Folder of the bundle; its last part is its name. Must not exist.
    work : Path
        Folder of the checkpoints.
    command : str
        For the card.

    Returns
    -------
    TrainedDetector

    Raises
    ------
    DataError
        No or too few annotated images; `out` exists; the extra ``train`` is not installed.
    BundleError
        The initial weights or the markers' bundle cannot be used; TIAToolbox is not installed.
    """
    require_extra("train", "training", DataError)
    if out.exists():
        raise DataError(f"{out}: is there already; choose another --out, or remove it")
    markers = used_manifest(run.markers_from)
    if markers.classifier["kind"] not in ("patch", "two-scale"):
        raise DataError(
            f"--markers-from {markers.name}: its markers are read off its own detector; choose a "
            "bundle whose markers fit any nuclei, such as he-v2"
        )
    images = _read(run)
    train = _train_stardist if run.architecture == "stardist" else _train_hovernet
    return train(run, images, out, work, command)


def _read(run: DetectorRun) -> _Images:
    images = read_any_folder(run.data, mpp=run.image_mpp)
    if run.held_out is not None:
        return _Images(images, read_any_folder(run.held_out, mpp=run.image_mpp))
    if len(images) < 2:
        raise DataError(f"{run.data}: one image cannot be split; name others with --held-out")
    held = {i for i in range(len(images)) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1}
    held = held or {len(images) - 1}
    return _Images(
        [item for i, item in enumerate(images) if i not in held],
        [item for i, item in enumerate(images) if i in held],
    )


def _initial_hovernet(run: DetectorRun) -> tuple[dict[str, Tensor] | None, float, str]:
    """Weights, their pixel size and what to call them."""
    if not run.initial:
        return None, 0.25, "random weights"
    path = Path(run.initial)
    if path.is_file():
        return read_weights(path), 0.25, f"the weights {path.name}"
    bundle = load_bundle(find_detector(run.initial))
    detector = bundle.own_detector
    if not isinstance(detector, HoVerNetDetector):
        raise DataError(f"--initial {run.initial}: its detector is no HoVer-Net")
    name = f"the bundle {bundle.manifest.name}"
    return dict(detector.net.state_dict()), detector.mpp, name


def _train_hovernet(
    run: DetectorRun, images: _Images, out: Path, work: Path, command: str
) -> TrainedDetector:
    weights, mpp, start = _initial_hovernet(run)
    known = any((item.leukocyte >= 0).any() for item in images.train)
    network = HoVerNetConfig("fast", TYPES if known else (), run.divisor)
    if weights is not None:
        width = int(weights["conv0./.weight"].shape[0])
        mode = "original" if weights["decoder.np.u3.conva.weight"].shape[-1] == 5 else "fast"
        network = HoVerNetConfig(mode, network.types, 64 // width)
    device = resolve_device(run.device)
    config = HoVerNetTraining(
        network=network,
        mpp=run.mpp or mpp,
        crop_px=164 if network.mode == "fast" else 80,
        batch_size=run.batch_size,
        steps=run.steps,
        learning_rate=FINE_TUNING_RATE if run.initial else FIRST_RATE,
        validate_every=run.validate_every,
        bf16=half_type(device) is torch.bfloat16,
    )
    trainer = HoVerNetTrainer(config, work, device=device, initial=weights, workers=run.workers)
    net = trainer.fit(images.train, images.held_out)
    score, _ = segment(net, network, images.held_out, mpp=config.mpp, device=device)
    digest = sha256_of(work / "state.safetensors")
    table = hovernet_table(network, config.mpp, source=f"trained on {run.data.name}", sha256=digest)
    card = _card(run, images, out, config.mpp, start, score, command)
    manifest = _write(run, out, net, table, card)
    return TrainedDetector(manifest, score)


def _train_stardist(
    run: DetectorRun, images: _Images, out: Path, work: Path, command: str
) -> TrainedDetector:
    device = resolve_device(run.device)
    config = TrainConfig(
        mpp=run.mpp or 0.325,
        batch_size=run.batch_size,
        steps=run.steps,
        learning_rate=FINE_TUNING_RATE if run.initial else FIRST_RATE,
        validate_every=run.validate_every,
        bf16=half_type(device) is torch.bfloat16,
    )
    weights, start = None, "random weights"
    if run.initial:
        bundle = load_bundle(find_detector(run.initial))
        detector = bundle.own_detector
        if not isinstance(detector, StarDistDetector):
            raise DataError(f"--initial {run.initial}: its detector is no StarDist")
        mpp = run.mpp or float(bundle.manifest.detector["mpp"])
        config = replace(config, mpp=mpp, network=detector.net.config)
        crops = CropDataset({"own": images.train}, config).images(CROPS_FOR_STATISTICS)
        begun = unfold_batch_norm(detector.net, crops)
        config = replace(config, network=replace(begun.config, marker_features=False))
        weights, start = dict(begun.state_dict()), f"the bundle {bundle.manifest.name}"
    trainer = Trainer(config, work, device=device, initial=weights, workers=run.workers)
    net = trainer.fit({"own": images.train}, images.held_out)
    scores = validate(
        net, images.held_out, mpp=config.mpp, thresholds=THRESHOLDS, nms_threshold=NMS_THRESHOLD
    )
    best = max(scores, key=lambda v: v.segmentation.f1)
    card = _card(run, images, out, config.mpp, start, best.segmentation, command)
    table = {
        "kind": "stardist",
        "file": "stardist.safetensors",
        "mpp": config.mpp,
        "prob_threshold": best.prob_threshold,
        "nms_threshold": NMS_THRESHOLD,
        "network": net.config.to_dict(),
    }
    manifest = _write(run, out, net, table, card)
    return TrainedDetector(manifest, best.segmentation)


def _write(
    run: DetectorRun, out: Path, net: nn.Module, table: dict[str, Any], card: str
) -> BundleManifest:
    return write_with_markers_of(
        run.markers_from,
        out,
        net=net,
        detector=table,
        name=f"a {run.architecture} trained on {run.data.name}",
        licence="its owner's",
        card=card,
    )


def _card(
    run: DetectorRun,
    images: _Images,
    out: Path,
    mpp: float,
    start: str,
    score: SegmentationScore,
    command: str,
) -> str:
    split = f"`{run.held_out}`" if run.held_out else f"every {HELD_OUT_EVERY}th of the folder"
    return _CARD.format(
        name=out.name,
        architecture={"stardist": "StarDist", "hovernet": "HoVer-Net"}[run.architecture],
        command=command,
        markers=used_manifest(run.markers_from).name,
        images=len(images.train),
        nuclei=_count(images.train),
        data=run.data,
        image_mpp=run.image_mpp,
        start=start,
        steps=run.steps,
        mpp=mpp,
        held_out=len(images.held_out),
        held_out_source=split,
        **{k: v for k, v in asdict(score).items() if k in ("f1", "pq", "aji", "dice")},
    )


def _count(images: Sequence[AnnotatedImage]) -> int:
    return sum(item.n_nuclei for item in images)
