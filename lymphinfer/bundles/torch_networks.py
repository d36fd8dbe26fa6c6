"""A bundle's networks in torch, to be computed by it or by OpenVINO, and to be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lymphinfer.bundles.weight_files import Weights, fitting, head_of
from lymphinfer.compute import torch_type
from lymphinfer.engine import Engine
from lymphinfer.errors import BundleError
from lymphinfer.markers.classifier import MarkerClassifier, TorchPatches, compiled
from lymphinfer.markers.configs import ClassifierConfig, FarConfig, TwoScaleConfig
from lymphinfer.markers.dense import DenseMarkers
from lymphinfer.markers.far_graph import GraphFar
from lymphinfer.markers.far_scale import FarNet, TorchFar
from lymphinfer.markers.hovernet import backbone_config
from lymphinfer.markers.model import PatchReader
from lymphinfer.markers.two_scale import FarEngine, HeadWeights
from lymphinfer.nuclei.detector import Detector
from lymphinfer.nuclei.hovernet import network as hovernet
from lymphinfer.nuclei.hovernet.config import HoVerNetConfig
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.dense import DenseNet
from lymphinfer.nuclei.stardist.graph import GraphStarDist
from lymphinfer.nuclei.stardist.infer import TorchStarDist
from lymphinfer.nuclei.stardist.network import StarDistNet, build_network

Net = TypeVar("Net", bound=nn.Module)


class TorchNetworks:
    """Networks in torch. Implements `lymphinfer.bundles.networks.Networks`.

    Parameters
    ----------
    engine : Engine
        With runtime ``openvino``, its graphs compute where there are any.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self._on: dict[str, Any] = {
            "device": torch.device(engine.device), "autocast": torch_type(engine.precision)
        }  # fmt: skip

    @property
    def _graphs(self) -> bool:
        return self.engine.runtime == "openvino"

    def stardist(self, config: StarDistConfig, file: Path, int8: Path | None = None) -> DenseNet:
        """See `Networks.stardist`."""
        return fitting(file, lambda w: self.stardist_of(config, w))

    def stardist_of(
        self, config: StarDistConfig, weights: Weights, int8: Weights | None = None
    ) -> DenseNet:
        """See `Networks.stardist_of`."""
        return dense_net(_with_weights(build_network(config), weights), self.engine)

    def hovernet(
        self, config: HoVerNetConfig, file: Path, *, mpp: float, working_mpp: float
    ) -> Detector:
        """See `Networks.hovernet`."""
        net = _loaded(hovernet.build_network(config), file)
        return HoVerNetDetector(net, config, mpp=mpp, working_mpp=working_mpp, **self._on)

    def patches(self, config: ClassifierConfig, file: Path, *, dense: bool) -> PatchReader:
        """See `Networks.patches`."""
        net = MarkerClassifier(config)
        if dense and backbone_config(config.backbone) is None:
            raise BundleError(
                f"bundle {file.parent.name}: only a HoVer-Net backbone works densely, not "
                f"{config.backbone}"
            )
        _loaded(net, file)
        if self._graphs and not dense:
            return compiled(net, self.engine.precision)
        return TorchPatches(net, **self._on)

    def dense_markers(self, detector: Detector, classifier: PatchReader) -> Detector:
        """See `Networks.dense_markers`."""
        net = cast(TorchPatches, classifier).net
        return DenseMarkers(detector, net, **self._on)

    def head(self, config: TwoScaleConfig, file: Path) -> HeadWeights:
        """See `Networks.head`."""
        return head_of(config, file)

    def far(self, config: FarConfig, file: Path, int8: Path | None = None) -> FarEngine:
        """See `Networks.far`."""
        net = _loaded(FarNet(config), file)
        if self._graphs:
            return GraphFar(config, weights_of(net), self.engine.precision, net)
        return TorchFar(net, **self._on)


def dense_net(net: StarDistNet, engine: Engine) -> DenseNet:
    """What computes a network in torch on an engine.

    Parameters
    ----------
    net : StarDistNet
        In evaluation mode.
    engine : Engine
        With runtime ``openvino``, a graph of the weights as they are now.
    """
    if engine.runtime == "openvino":
        return GraphStarDist(net.config, weights_of(net), engine.precision, net)
    half = torch_type(engine.precision)
    return TorchStarDist(net, device=torch.device(engine.device), autocast=half)


def _loaded(net: Net, file: Path) -> Net:
    """A network in evaluation mode with the weights of a file, in full precision."""
    return fitting(file, lambda weights: _with_weights(net, weights))


def _with_weights(net: Net, weights: Weights) -> Net:
    try:
        net.load_state_dict({k: torch.from_numpy(v).float() for k, v in weights.items()})
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return net.eval()


def weights_of(net: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Weights of a network by name, as graphs are built of."""
    return {k: v.detach().float().cpu().numpy() for k, v in net.state_dict().items()}
