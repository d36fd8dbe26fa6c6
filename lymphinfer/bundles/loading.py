"""From a bundle's files to a detector and a marker model on a device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import BundleManifest, Evidence, read_manifest
from lymphinfer.compute import channels_last
from lymphinfer.errors import BundleError
from lymphinfer.markers.calibration import Calibration
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier, classify_patches
from lymphinfer.nuclei.detector import Detection, Detector
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# What may hold a pickle: code that runs when it is read.
PICKLES = frozenset(
    (".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pk", ".pkl", ".pt", ".pth")
)


def verify_files(manifest: BundleManifest) -> None:
    """Check every file of a bundle against its manifest.

    Raises
    ------
    BundleError
        Names each file that is missing or differs, and each that may hold a pickle.
    """
    problems = [
        f"{path.name} may hold a pickle, which runs code when it is read; bundles have safetensors "
        "only"
        for path in sorted(manifest.folder.rglob("*"))
        if path.suffix.lower() in PICKLES
    ]
    for name, expected in manifest.files.items():
        path = manifest.folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif (found := sha256_of(path)) != expected:
            problems.append(f"{name} has sha256 {found[:12]}…, expected {expected[:12]}…")
    if problems:
        raise BundleError(
            f"bundle {manifest.name} in {manifest.folder}: {'; '.join(problems)}. "
            "This is not the bundle as it was published: install or download it again."
        )


def _load_into(module: nn.Module, manifest: BundleManifest, file: str) -> None:
    try:
        tensors: dict[str, Tensor] = load_file(manifest.folder / file)
        module.load_state_dict({k: v.float() for k, v in tensors.items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BundleError(
            f"{manifest.folder / file}: not the weights of the network that bundle.toml describes "
            f"({str(error).splitlines()[0]})"
        ) from error


@dataclass(frozen=True)
class MarkerModel:
    """Head outputs for the nuclei of a tile, every marker of the panel.

    Attributes
    ----------
    manifest : BundleManifest
    classifier : MarkerClassifier or None
        None where the detector's own dense head is read (a ``feature`` bundle).
    learned : tuple of str
        Markers with a learned head, in the order of the logits.
    device : torch.device
    autocast : torch.dtype or None
    """

    manifest: BundleManifest
    classifier: MarkerClassifier | None
    learned: tuple[str, ...]
    device: torch.device
    autocast: torch.dtype | None

    @property
    def patch_px(self) -> int:
        """Side of the patches it wants, px; 0 for none."""
        return 0 if self.classifier is None else self.classifier.config.patch_px

    def logits(
        self, patches: NDArray[np.uint8] | None, detection: Detection
    ) -> NDArray[np.float32]:
        """Logits (N, len(learned)) of nuclei, from their patches or their detection."""
        if self.classifier is not None and patches is not None:
            return classify_patches(
                self.classifier, patches, device=self.device, autocast=self.autocast
            )
        if detection.marker_logits is None:
            raise BundleError(
                f"bundle {self.manifest.name}: its marker model reads the detector's dense head, "
                "but the detector has none"
            )
        return detection.marker_logits[:, : len(self.learned)]

    def head_outputs(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated head outputs.

        Parameters
        ----------
        logits : ndarray of float32, (N, len(learned))

        Returns
        -------
        ndarray of float32, (N, M)
            In panel order: P(marker) of a learned head, P(marker | parent) of a base rate.
        """
        result = np.empty((len(logits), len(self.manifest.markers)), np.float32)
        for i, spec in enumerate(self.manifest.markers):
            if spec.evidence is Evidence.BASE_RATE:
                result[:, i] = spec.rate or 0.0
            else:
                calibration = Calibration(spec.scale, spec.offset)
                result[:, i] = calibration(logits[:, self.learned.index(spec.name)])
        return result


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle on one device."""

    manifest: BundleManifest
    detector: Detector
    markers: MarkerModel


def load_bundle(
    name_or_folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Bundle:
    """Load and verify a bundle.

    Parameters
    ----------
    name_or_folder : str or Path
        As `find_bundle` takes it.
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the networks, None for full precision.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        The bundle is missing, damaged, or describes something this version cannot build.
    """
    manifest = read_manifest(find_bundle(name_or_folder))
    verify_files(manifest)
    device = torch.device(device)
    detector = _build_detector(manifest, device, autocast)
    return Bundle(manifest, detector, _build_markers(manifest, device, autocast))


def _build_detector(
    manifest: BundleManifest, device: torch.device, autocast: torch.dtype | None
) -> Detector:
    table = manifest.detector
    if table.get("kind") != "stardist":
        raise BundleError(f"bundle {manifest.name}: unknown detector kind {table.get('kind')!r}")
    try:
        net = build_network(StarDistConfig(**table["network"]))
        _load_into(net, manifest, table["file"])
        return StarDistDetector(
            net,
            mpp=float(table["mpp"]),
            working_mpp=manifest.mpp,
            prob_threshold=float(table["prob_threshold"]),
            nms_threshold=float(table["nms_threshold"]),
            device=device,
            autocast=autocast,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"bundle {manifest.name}: [detector] {error}") from error


def _build_markers(
    manifest: BundleManifest, device: torch.device, autocast: torch.dtype | None
) -> MarkerModel:
    table = manifest.classifier
    classifier = None
    try:
        kind = table["kind"]
        if kind == "patch":
            config = ClassifierConfig.from_dict(table["network"])
            learned = config.markers
            classifier = MarkerClassifier(config)
            _load_into(classifier, manifest, table["file"])
            channels_last(classifier.eval(), device)
        elif kind == "feature":
            learned = tuple(table["markers"])
        else:
            raise BundleError(f"bundle {manifest.name}: classifier kind {kind!r} is unknown")
    except (KeyError, TypeError) as error:
        raise BundleError(f"bundle {manifest.name}: [classifier] {error}") from error
    missing = [
        m.name
        for m in manifest.markers
        if m.evidence is not Evidence.BASE_RATE and m.name not in learned
    ]
    if missing:
        raise BundleError(f"bundle {manifest.name}: no head for {', '.join(missing)}")
    return MarkerModel(manifest, classifier, learned, device, autocast)
