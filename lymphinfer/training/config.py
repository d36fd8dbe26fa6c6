"""What `lymphinfer retrain` can be told; every default is the paper's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lymphinfer.slides.pixel_size import MAX_PATCH_MPP, MIN_MPP
from lymphinfer.validation import Count, table


def _folds(number: int) -> int:
    if number < 0 or number in (1, 2):
        raise ValueError("expected 0, or 3 or more")
    return number


Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@table
@dataclass(frozen=True)
class DataConfig:
    """Which cells are seen.

    Attributes
    ----------
    patch_px : int
        Side of a patch, px.
    mpp : float
        Pixel size of the patches, µm/px. Beyond 1.0, where no nuclei are found, the detector keeps
        its own and patches are made coarser.
    cells_per_patient : int
        Sampled for each patient.
    splits : str
        File that assigns patients to train, val and test; empty: drawn, 25 : 7 : 9.
    folds, fold : int
        With 3 folds or more: k-fold cross-validation, and which fold tests (from 0).
    seed : int
        Of split and sampling.
    panel : str
        Markers that are learned, by the name of a panel; empty: the cohort's own.
    """

    patch_px: Annotated[int, Field(ge=16, le=512)] = 112
    mpp: Annotated[float, Field(ge=MIN_MPP, le=MAX_PATCH_MPP)] = 0.325
    cells_per_patient: Count = 20_000
    splits: str = ""
    folds: Annotated[int, AfterValidator(_folds)] = 0
    fold: Whole = 0
    seed: Whole = 0
    panel: str = ""


@table
@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes
    ----------
    backbone : str
        timm name, ``hovernet`` (and ``hovernet-w8`` and the like), ``phikon`` or
        ``phikon-resize``.
    independent : bool
        A network a marker, instead of one with a head a marker (multi-task).
    hidden : int
        Width of each head's hidden layer.
    pretrained : str
        ``yes``: published weights or an error; ``auto``: a warning where they cannot be had;
        ``no``: random.
    backbone_weights : str
        Local safetensors file with the backbone's weights, instead of a download.
    freeze : bool
        Train the heads only; for ``stardist-resnet`` and HoVer-Net, whose detector then shares
        its pass with them.
    """

    backbone: Annotated[str, Field(min_length=1)] = "convnext_base"
    independent: bool = False
    hidden: Count = 512
    pretrained: Literal["auto", "yes", "no"] = "auto"
    backbone_weights: str = ""
    freeze: bool = False


@table
@dataclass(frozen=True)
class FitConfig:
    """How it is trained.

    Attributes
    ----------
    weighted : bool
        BCE weighted by the inverse positive ratio (WBCE).
    learning_rate, weight_decay : float
        Of AdamW.
    batch_size, accumulation : int
        Patches at once on each device, and batches per optimiser step.
    epochs : int
        At most.
    patience : int
        Epochs without a better mean validation AUROC before it stops.
    schedule : str
        ``constant``, or ``cosine``: 5 % warm-up, then down to zero over all epochs.
    precision : str
        ``auto``: bf16 where the device has it, fp16 on older CUDA devices.
    augment : bool
        Flips and quarter turns always; with this also stain and optics.
    workers : int
        Processes that read and augment; 0 for none.
    window_chunks : int
        Chunks of a patch store that are shuffled together: more mix better and need more memory.
    checkpoint_steps : int
        Optimiser steps between two checkpoints.
    seed : int
    """

    weighted: bool = False
    learning_rate: Positive = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    batch_size: Count = 32
    accumulation: Count = 16
    epochs: Count = 30
    patience: Count = 5
    schedule: Literal["constant", "cosine"] = "constant"
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    augment: bool = True
    workers: Whole = 4
    window_chunks: Count = 16
    checkpoint_steps: Count = 100
    seed: Whole = 0


@table
@dataclass(frozen=True)
class BundleConfig:
    """The bundle that comes out.

    Attributes
    ----------
    detector : str
        Name or folder of the bundle whose detector is copied.
    hierarchy : str
        Default mode of the hierarchy.
    dense : bool
        The bundle computes a HoVer-Net backbone's features once a tile instead of once a patch
        (`lymphinfer.markers.dense`).
    simulated : bool
        The cohort is a simulated one (also taken from its ``truth`` folder).
    bootstrap : int
        Resamplings of the patients behind each interval.
    """

    detector: str = "he-v1"
    hierarchy: Literal["none", "clip", "conditional"] = "conditional"
    dense: bool = False
    simulated: bool = False
    bootstrap: Count = 1000


@table
@dataclass(frozen=True)
class RetrainConfig:
    """Everything that `lymphinfer retrain` can be told; a section a field."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, section by section."""
        return asdict(self)
