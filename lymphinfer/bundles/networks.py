"""A bundle's networks out of its files: by torch, or as graphs of OpenVINO without it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lymphinfer.bundles.weight_files import Weights, fitting, head_of, read_weights
from lymphinfer.engine import INT8, TORCH_FIX, Engine, has_torch
from lymphinfer.errors import BundleError
from lymphinfer.markers.configs import ClassifierConfig, FarConfig, TwoScaleConfig
from lymphinfer.markers.far_graph import GraphFar
from lymphinfer.markers.model import PatchReader
from lymphinfer.markers.patch_graph import GraphPatches, build_graph, has_graph
from lymphinfer.markers.two_scale import FarEngine, HeadWeights
from lymphinfer.nuclei.detector import Detector
from lymphinfer.nuclei.hovernet.config import HoVerNetConfig
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.dense import DenseNet
from lymphinfer.nuclei.stardist.graph import GraphStarDist


class Networks(Protocol):
    """Builds networks on an engine; BundleError where a file holds other weights."""

    def stardist(self, config: StarDistConfig, file: Path, int8: Path | None = None) -> DenseNet:
        """A StarDist; in bytes where the engine says so and `int8` says how."""

    def stardist_of(
        self, config: StarDistConfig, weights: Weights, int8: Weights | None = None
    ) -> DenseNet:
        """A StarDist of weights at hand; ValueError where they are another one's."""

    def hovernet(
        self, config: HoVerNetConfig, file: Path, *, mpp: float, working_mpp: float
    ) -> Detector:
        """A HoVer-Net as a detector."""

    def patches(self, config: ClassifierConfig, file: Path, *, dense: bool) -> PatchReader:
        """A patch classifier, or one that `dense_markers` takes."""

    def dense_markers(self, detector: Detector, classifier: PatchReader) -> Detector:
        """A detector whose nuclei come with the logits of a dense classifier."""

    def head(self, config: TwoScaleConfig, file: Path) -> HeadWeights:
        """A head over two scales."""

    def far(self, config: FarConfig, file: Path, int8: Path | None = None) -> FarEngine:
        """A far network; in bytes where the engine says so and `int8` says how."""


def choose_networks(engine: Engine, trainable: bool) -> Networks:
    """What builds networks for an engine.

    Parameters
    ----------
    engine : Engine
    trainable : bool
        See `lymphinfer.bundles.loading.load_bundle`.
    """
    if engine.runtime == "openvino" and not trainable:
        return GraphNetworks(engine)
    return _by_torch(engine, "this bundle, to be trained further or computed by torch,")


def _by_torch(engine: Engine, what: str) -> Networks:
    if not has_torch():
        raise BundleError(f"{what} needs torch, which is not installed. Run `{TORCH_FIX}`")
    from lymphinfer.bundles.torch_networks import TorchNetworks

    return TorchNetworks(engine)


class GraphNetworks:
    """Networks that OpenVINO computes; by torch those that have no graph.

    Parameters
    ----------
    engine : Engine
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    def stardist(self, config: StarDistConfig, file: Path, int8: Path | None = None) -> DenseNet:
        """See `Networks.stardist`."""
        if int8 is None or self.engine.precision != INT8:
            return fitting(file, lambda w: self.stardist_of(config, w))
        weights = read_weights(file)
        return fitting(int8, lambda rounded: self.stardist_of(config, weights, rounded))

    def stardist_of(
        self, config: StarDistConfig, weights: Weights, int8: Weights | None = None
    ) -> DenseNet:
        """See `Networks.stardist_of`."""
        return GraphStarDist(config, weights, self.engine.precision, int8=int8)

    def hovernet(
        self, config: HoVerNetConfig, file: Path, *, mpp: float, working_mpp: float
    ) -> Detector:
        """See `Networks.hovernet`."""
        networks = _by_torch(self.engine, f"{file.parent.name}: HoVer-Net")
        return networks.hovernet(config, file, mpp=mpp, working_mpp=working_mpp)

    def patches(self, config: ClassifierConfig, file: Path, *, dense: bool) -> PatchReader:
        """See `Networks.patches`."""
        if dense or not has_graph(config):
            what = f"{file.parent.name}: its classifier ({config.backbone})"
            return _by_torch(self.engine, what).patches(config, file, dense=dense)
        return fitting(
            file, lambda w: GraphPatches(config, build_graph(config, w), self.engine.precision)
        )

    def dense_markers(self, detector: Detector, classifier: PatchReader) -> Detector:
        """See `Networks.dense_markers`."""
        return _by_torch(self.engine, "its classifier").dense_markers(detector, classifier)

    def head(self, config: TwoScaleConfig, file: Path) -> HeadWeights:
        """See `Networks.head`."""
        return head_of(config, file)

    def far(self, config: FarConfig, file: Path, int8: Path | None = None) -> FarEngine:
        """See `Networks.far`."""
        precision = self.engine.precision
        if int8 is None or precision != INT8:
            return fitting(file, lambda w: GraphFar(config, w, precision))
        weights = read_weights(file)
        return fitting(int8, lambda rounded: GraphFar(config, weights, precision, None, rounded))
