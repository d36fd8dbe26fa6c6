"""From a bundle's files to a detector and a marker model on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor, nn

from lymphinfer.bundles.composing import compose
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import MANIFEST, BundleManifest, Evidence, read_manifest
from lymphinfer.compute import channels_last
from lymphinfer.downloading import sha256_of
from lymphinfer.errors import BundleError
from lymphinfer.markers.calibration import Calibration
from lymphinfer.markers.classifier import (
    ClassifierConfig,
    MarkerClassifier,
    compiled,
)
from lymphinfer.markers.dense import DenseMarkers
from lymphinfer.markers.far_scale import FarConfig, FarNet
from lymphinfer.markers.hovernet import backbone_config
from lymphinfer.markers.model import HeadOutput, MarkerModel
from lymphinfer.markers.two_scale import FarScale, NearMarkers, TwoScaleConfig, TwoScaleHead
from lymphinfer.nuclei.detector import Detector
from lymphinfer.nuclei.hovernet import network as hovernet
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.textfiles import is_utf8
from lymphinfer.validation import checked

T = TypeVar("T")

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


def _config(kind: type[T], manifest: BundleManifest, *at: str) -> T:
    """Configuration of a network, from its table; BundleError with all that is wrong in it."""
    values: Any = {"detector": manifest.detector, "classifier": manifest.classifier}
    for name in at:
        values = values[name]
    return checked(kind, values, BundleError, manifest.folder / MANIFEST, at)


def _load_into(module: nn.Module, manifest: BundleManifest, file: str) -> None:
    try:
        path = manifest.folder / file
        # safetensors opens no name that is not UTF-8.
        tensors: dict[str, Tensor] = load_file(path) if is_utf8(path) else load(path.read_bytes())
        module.load_state_dict({k: v.float() for k, v in tensors.items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BundleError(
            f"{manifest.folder / file}: not the weights of the network that bundle.toml describes "
            f"({str(error).splitlines()[0]})"
        ) from error


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle on one device.

    Attributes
    ----------
    manifest : BundleManifest
    detector : Detector
    markers : MarkerModel
    runtime : str
        What computes the networks that it can, ``"torch"`` or ``"openvino"``.
    """

    manifest: BundleManifest
    detector: Detector
    markers: MarkerModel
    runtime: str = "torch"

    @property
    def own_detector(self) -> Detector:
        """The detector without what its nuclei bring for the markers."""
        found = self.detector
        return found.detector if isinstance(found, (NearMarkers, DenseMarkers)) else found

    @property
    def halo_px(self) -> int:
        """What a tile is read with: the detector's context or half a patch, on its pixel grid."""
        align = self.detector.align_px
        wanted = max(self.detector.halo_px, self.markers.patch_reach_px + align)
        return -(-wanted // align) * align


def load_bundle(
    name_or_folder: str | Path,
    *,
    detector: str | Path | None = None,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    runtime: str = "torch",
) -> Bundle:
    """Load and verify a bundle.

    Parameters
    ----------
    name_or_folder : str or Path
        As `find_bundle` takes it.
    detector : str or Path, optional
        Find nuclei with another bundle's detector, see `lymphinfer.bundles.composing`.
    device : torch.device or str
    autocast : torch.dtype or None
        Half type for the networks, None for full precision.
    runtime : str
        ``"torch"``, or ``"openvino"`` on the CPU for the networks that it computes: StarDist, the
        far scale and patch classifiers.

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
    own = manifest
    manifest, source = compose(own, detector)
    if source is not own:
        verify_files(source)
    finder = _build_detector(source, manifest.mpp, device, autocast, runtime)
    markers = _build_markers(manifest, device, autocast, runtime)
    if markers.head is not None:
        finder = _with_near(finder, manifest, source, device, autocast, runtime)
    if manifest.classifier["kind"] == "dense" and markers.classifier is not None:
        finder = DenseMarkers(finder, markers.classifier, device=device, autocast=autocast)
        markers = replace(markers, classifier=None)
    return Bundle(manifest, finder, markers, runtime)


def _build_detector(
    manifest: BundleManifest,
    working_mpp: float,
    device: torch.device,
    autocast: torch.dtype | None,
    runtime: str,
) -> Detector:
    builders = {"stardist": _build_stardist, "hovernet": _build_hovernet}
    build = builders[manifest.detector["kind"]]
    try:
        return build(manifest, working_mpp, device, autocast, runtime)
    except ValueError as error:
        raise BundleError(f"bundle {manifest.name}: [detector] {error}") from error


def _build_stardist(
    manifest: BundleManifest,
    working_mpp: float,
    device: torch.device,
    autocast: torch.dtype | None,
    runtime: str,
) -> Detector:
    table = manifest.detector
    net = build_network(_config(StarDistConfig, manifest, "detector", "network"))
    _load_into(net, manifest, table["file"])
    return StarDistDetector(
        net,
        mpp=float(table["mpp"]),
        working_mpp=working_mpp,
        prob_threshold=float(table["prob_threshold"]),
        nms_threshold=float(table["nms_threshold"]),
        refine_at=tuple(table.get("refine_at", ())),
        device=device,
        autocast=autocast,
        runtime=runtime,
    )


def _build_hovernet(
    manifest: BundleManifest,
    working_mpp: float,
    device: torch.device,
    autocast: torch.dtype | None,
    runtime: str,
) -> Detector:
    table = manifest.detector
    config = _config(HoVerNetConfig, manifest, "detector", "network")
    net = hovernet.build_network(config)
    _load_into(net, manifest, table["file"])
    return HoVerNetDetector(
        net,
        config,
        mpp=float(table["mpp"]),
        working_mpp=working_mpp,
        device=device,
        autocast=autocast,
    )


def _build_markers(
    manifest: BundleManifest, device: torch.device, autocast: torch.dtype | None, runtime: str
) -> MarkerModel:
    table = manifest.classifier
    classifier = head = far = None
    try:
        kind = table["kind"]
        if kind in ("patch", "dense"):
            config = _config(ClassifierConfig, manifest, "classifier", "network")
            learned = config.markers
            classifier = MarkerClassifier(config)
            _load_into(classifier, manifest, table["file"])
            if kind == "dense" and backbone_config(config.backbone) is None:
                raise BundleError(
                    f"bundle {manifest.name}: only a HoVer-Net backbone works densely, not "
                    f"{config.backbone}"
                )
            channels_last(classifier.eval(), device)
        elif kind == "feature":
            learned = tuple(table["markers"])
        else:
            head = TwoScaleHead(_config(TwoScaleConfig, manifest, "classifier", "head"))
            _load_into(head.eval(), manifest, table["file"])
            learned = head.config.markers
            net = FarNet(_config(FarConfig, manifest, "classifier", "far", "network"))
            _load_into(net, manifest, table["far"]["file"])
            far = FarScale(net, device=device, autocast=autocast, runtime=runtime)
    except ValueError as error:
        raise BundleError(f"bundle {manifest.name}: [classifier] {error}") from error
    missing = [
        m.name
        for m in manifest.markers
        if m.evidence is not Evidence.BASE_RATE and m.name not in learned
    ]
    if missing:
        raise BundleError(f"bundle {manifest.name}: no head for {', '.join(missing)}")
    run = None
    if runtime == "openvino" and classifier is not None and table["kind"] == "patch":
        run = compiled(classifier, autocast)
    outputs = tuple(
        HeadOutput(m.name, rate=m.rate or 0.0)
        if m.evidence is Evidence.BASE_RATE
        else HeadOutput(m.name, Calibration(m.scale, m.offset))
        for m in manifest.markers
    )
    patch_mpp = manifest.mpp if classifier is None else manifest.patch_mpp
    return MarkerModel(
        manifest.name, outputs, classifier, learned, device, autocast, run, head, far,
        patch_zoom=patch_mpp / manifest.mpp,
    )  # fmt: skip


def _with_near(
    finder: Detector,
    manifest: BundleManifest,
    source: BundleManifest,
    device: torch.device,
    autocast: torch.dtype | None,
    runtime: str,
) -> NearMarkers:
    """The detector with the near features that a two-scale head reads."""
    table = manifest.classifier["near"]
    own = source is manifest and table["file"] == manifest.detector["file"]
    if own and isinstance(finder, StarDistDetector):
        net = finder.net
    else:
        config = _config(StarDistConfig, manifest, "classifier", "near", "network")
        net = build_network(config)
        _load_into(net, manifest, table["file"])
    if not net.config.marker_features:
        raise BundleError(
            f"bundle {manifest.name}: [classifier.near] marker_features is off, so that its head "
            "has nothing to read near"
        )
    try:
        return NearMarkers(
            finder,
            net,
            mpp=float(table["mpp"]),
            working_mpp=manifest.mpp,
            device=device,
            autocast=autocast,
            runtime=runtime,
        )
    except ValueError as error:
        raise BundleError(f"bundle {manifest.name}: [classifier.near] {error}") from error
