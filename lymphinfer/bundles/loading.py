"""From a bundle's files to a detector and a marker model on a device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lymphinfer.bundles.composing import compose
from lymphinfer.bundles.networks import Networks, choose_networks
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import MANIFEST, BundleManifest, Evidence, read_manifest
from lymphinfer.downloading import sha256_of
from lymphinfer.engine import INT8, Engine
from lymphinfer.errors import BundleError
from lymphinfer.markers.calibration import Calibration
from lymphinfer.markers.configs import ClassifierConfig, FarConfig, TwoScaleConfig
from lymphinfer.markers.model import HeadOutput, MarkerModel
from lymphinfer.markers.two_scale import FarScale, NearMarkers
from lymphinfer.nuclei.detector import Detector
from lymphinfer.nuclei.hovernet.config import HoVerNetConfig
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.detector import StarDistDetector
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


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle on one device.

    Attributes
    ----------
    manifest : BundleManifest
    detector : Detector
    markers : MarkerModel
    engine : Engine
        What computes its networks.
    """

    manifest: BundleManifest
    detector: Detector
    markers: MarkerModel
    engine: Engine = field(default_factory=Engine)

    @property
    def own_detector(self) -> Detector:
        """The detector without what its nuclei bring for the markers."""
        found = self.detector
        # Also of markers that are read densely, whose module needs torch.
        own: Detector = getattr(found, "detector", found)
        return own

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
    engine: Engine = Engine(),
    trainable: bool = True,
) -> Bundle:
    """Load and verify a bundle.

    Parameters
    ----------
    name_or_folder : str or Path
        As `find_bundle` takes it.
    detector : str or Path, optional
        Find nuclei with another bundle's detector, see `lymphinfer.bundles.composing`.
    engine : Engine
        See `lymphinfer.engine.choose_engine`.
    trainable : bool
        Whether the networks are there in torch too (``.net`` of what computes them), to be trained
        further or written anew. False: torch is loaded only for what nothing else computes here.

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
    own = manifest
    manifest, source = compose(own, detector)
    if source is not own:
        verify_files(source)
    engine = _resolved(engine, source, trainable)
    networks = choose_networks(engine, trainable)
    finder = _build_detector(source, manifest.mpp, networks)
    markers = _build_markers(manifest, networks)
    if markers.head is not None:
        finder = _with_near(finder, manifest, source, networks)
    if manifest.classifier["kind"] == "dense" and markers.classifier is not None:
        finder = networks.dense_markers(finder, markers.classifier)
        markers = replace(markers, classifier=None)
    return Bundle(manifest, finder, markers, engine)


def _resolved(engine: Engine, source: BundleManifest, trainable: bool) -> Engine:
    """The engine with the number type that this bundle's detector is computed in."""
    can = source.detector.get("int8") and engine.runtime == "openvino" and not trainable
    if engine.bytes_preferred:
        return replace(engine, precision=INT8 if can else engine.precision, bytes_preferred=False)
    if engine.precision == INT8 and not can:
        raise BundleError(
            f"bundle {source.name}: precision int8 is not possible, it does not say how its "
            "detector is computed in bytes. Leave --precision out"
        )
    return engine


def _build_detector(manifest: BundleManifest, working_mpp: float, networks: Networks) -> Detector:
    table = manifest.detector
    try:
        if table["kind"] == "stardist":
            engine = networks.stardist(
                _config(StarDistConfig, manifest, "detector", "network"),
                manifest.folder / table["file"],
                manifest.folder / table["int8"] if table.get("int8") else None,
            )
            return StarDistDetector(
                engine,
                mpp=float(table["mpp"]),
                working_mpp=working_mpp,
                prob_threshold=float(table["prob_threshold"]),
                nms_threshold=float(table["nms_threshold"]),
                refine_at=tuple(table.get("refine_at", ())),
            )
        return networks.hovernet(
            _config(HoVerNetConfig, manifest, "detector", "network"),
            manifest.folder / table["file"],
            mpp=float(table["mpp"]),
            working_mpp=working_mpp,
        )
    except ValueError as error:
        raise BundleError(f"bundle {manifest.name}: [detector] {error}") from error


def _build_markers(manifest: BundleManifest, networks: Networks) -> MarkerModel:
    table = manifest.classifier
    classifier = head = far = None
    try:
        kind = table["kind"]
        if kind in ("patch", "dense"):
            config = _config(ClassifierConfig, manifest, "classifier", "network")
            learned = config.markers
            file = manifest.folder / table["file"]
            classifier = networks.patches(config, file, dense=kind == "dense")
        elif kind == "feature":
            learned = tuple(table["markers"])
        else:
            config_of_head = _config(TwoScaleConfig, manifest, "classifier", "head")
            head = networks.head(config_of_head, manifest.folder / table["file"])
            learned = config_of_head.markers
            far_config = _config(FarConfig, manifest, "classifier", "far", "network")
            small = table["far"].get("int8")
            engine = networks.far(
                far_config,
                manifest.folder / table["far"]["file"],
                manifest.folder / small if small else None,
            )
            far = FarScale(engine)
    except ValueError as error:
        raise BundleError(f"bundle {manifest.name}: [classifier] {error}") from error
    missing = [
        m.name
        for m in manifest.markers
        if m.evidence is not Evidence.BASE_RATE and m.name not in learned
    ]
    if missing:
        raise BundleError(f"bundle {manifest.name}: no head for {', '.join(missing)}")
    outputs = tuple(
        HeadOutput(m.name, rate=m.rate or 0.0)
        if m.evidence is Evidence.BASE_RATE
        else HeadOutput(m.name, Calibration(m.scale, m.offset))
        for m in manifest.markers
    )
    patch_mpp = manifest.mpp if classifier is None else manifest.patch_mpp
    return MarkerModel(
        manifest.name, outputs, classifier, learned, head, far,
        patch_zoom=patch_mpp / manifest.mpp,
    )  # fmt: skip


def _with_near(
    finder: Detector, manifest: BundleManifest, source: BundleManifest, networks: Networks
) -> NearMarkers:
    """The detector with the near features that a two-scale head reads."""
    table = manifest.classifier["near"]
    own = source is manifest and table["file"] == manifest.detector["file"]
    try:
        if own and isinstance(finder, StarDistDetector):
            reader = finder
        else:
            config = _config(StarDistConfig, manifest, "classifier", "near", "network")
            # Nuclei are not its business.
            reader = StarDistDetector(
                networks.stardist(config, manifest.folder / table["file"]),
                mpp=float(table["mpp"]),
                working_mpp=manifest.mpp,
                prob_threshold=1.0,
                nms_threshold=0.5,
            )
    except ValueError as error:
        raise BundleError(f"bundle {manifest.name}: [classifier.near] {error}") from error
    if not reader.config.marker_features:
        raise BundleError(
            f"bundle {manifest.name}: [classifier.near] marker_features is off, so that its head "
            "has nothing to read near"
        )
    return NearMarkers(finder, reader)
