"""TIAToolbox's HoVer-Net, whole or with fewer channels, and its forward pass with features.

The modules are TIAToolbox's own, so published weights load by name. The pass is spelled here: the
original doubles maps by a float32 product that fails under autocast, and it does not give out the
features before the output layers, which a marker classifier reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.convolutions import mend_convolutions
from lymphinfer.errors import BundleError
from lymphinfer.nuclei.hovernet.config import DIVISORS as DIVISORS
from lymphinfer.nuclei.hovernet.config import FULL_WIDTH as FULL_WIDTH
from lymphinfer.nuclei.hovernet.config import GEOMETRY as GEOMETRY
from lymphinfer.nuclei.hovernet.config import STRIDE_PX as STRIDE_PX
from lymphinfer.nuclei.hovernet.config import Geometry as Geometry
from lymphinfer.nuclei.hovernet.config import HoVerNetConfig as HoVerNetConfig
from lymphinfer.nuclei.hovernet.tiatoolbox import hovernet_module


class HoVerNetOutput(NamedTuple):
    """Maps of one size, smaller than the input by ``lost_px``.

    Attributes
    ----------
    nucleus : Tensor or None, (B, 2, h, w)
        Logits of background and nucleus.
    distance : Tensor or None, (B, 2, h, w)
        Horizontal and vertical distance to the nucleus's centre of mass, in [-1, 1] of its extent.
    kind : Tensor or None, (B, n_types, h, w)
        Logits of the types, background first.
    features : tuple of Tensor, each (B, 64 / divisor, h, w)
        What each decoder's output layer reads, in the order of the decoders.
    """

    nucleus: Tensor | None
    distance: Tensor | None
    kind: Tensor | None
    features: tuple[Tensor, ...]


def build_network(config: HoVerNetConfig) -> nn.Module:
    """Build TIAToolbox's ``HoVerNet`` with random weights.

    Raises
    ------
    BundleError
        TIAToolbox is not installed.
    """
    make = hovernet_module().HoVerNet
    net = make(num_types=config.n_types or None, mode=config.mode)
    if config.divisor > 1:
        _divide_channels(net, config.divisor)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                # Output layers: distances begin within the range of their targets.
                nn.init.normal_(module.weight, std=0.5 * module.in_channels**-0.5)
                nn.init.zeros_(module.bias)
    return mend_convolutions(cast(nn.Module, net))


def _divide_channels(module: nn.Module, divisor: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            # The image has three channels, and the output layers, which alone have a bias, theirs.
            last = child.bias is not None
            module._modules[name] = nn.Conv2d(
                child.in_channels if child.in_channels == 3 else child.in_channels // divisor,
                child.out_channels if last else child.out_channels // divisor,
                child.kernel_size,  # type: ignore[arg-type]
                child.stride,  # type: ignore[arg-type]
                groups=child.groups,
                bias=last,
            )
        elif isinstance(child, nn.BatchNorm2d):
            module._modules[name] = nn.BatchNorm2d(child.num_features // divisor, eps=child.eps)
        else:
            _divide_channels(child, divisor)


def config_of(state: Mapping[str, Tensor], types: tuple[str, ...] = ()) -> HoVerNetConfig:
    """Read the shape of a network off its weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        Under TIAToolbox's names.
    types : tuple of str
        Names of its nucleus types; ``Type 1`` and so on where they are not given.

    Returns
    -------
    HoVerNetConfig

    Raises
    ------
    BundleError
        These are not a HoVer-Net's weights, or another number of types is named.
    """
    try:
        kernel = int(state["decoder.np.u3.conva.weight"].shape[-1])
        width = int(state["conv0./.weight"].shape[0])
    except KeyError as error:
        raise BundleError(
            f"not the weights of TIAToolbox's HoVer-Net: {error} is missing"
        ) from error
    last = state.get("decoder.tp.u0.conv.weight")
    count = 0 if last is None else int(last.shape[0]) - 1
    if types and len(types) != count:
        raise BundleError(f"{len(types)} types are named, the weights have {count}")
    return HoVerNetConfig(
        mode="original" if kernel == 5 else "fast",
        types=types or tuple(f"Type {i}" for i in range(1, count + 1)),
        divisor=FULL_WIDTH // width,
    )


def run_network(net: Any, x: Tensor, geometry: Geometry) -> HoVerNetOutput:
    """Pass images through the network; equal to its own ``forward`` but for the features.

    Parameters
    ----------
    net : nn.Module
        From `build_network`, or a backbone's copy of it without output layers.
    x : Tensor, (B, 3, H, W)
        RGB in [0, 1]; H and W multiples of `STRIDE_PX` plus ``geometry.odd_px``.
    geometry : Geometry

    Returns
    -------
    HoVerNetOutput
    """
    x = net.conv0(x)
    skips = []
    for level in (net.d0, net.d1, net.d2, net.d3):
        x = level(x)
        skips.append(x)
    bottom = net.conv_bot(skips.pop())
    first, second = (_crop(skips[i], geometry.crops[i]) for i in range(2))
    outputs, features = {}, []
    for name, branch in net.decoder.items():
        u = branch[0](_double(bottom) + skips[2])
        u = branch[1](_double(u) + second)
        u = branch[2](_double(u) + first)
        last = branch[3]
        u = last.relu(last.bn(u))
        features.append(u)
        outputs[name] = last.conv(u) if hasattr(last, "conv") else None
    return HoVerNetOutput(outputs["np"], outputs["hv"], outputs.get("tp"), tuple(features))


def _crop(x: Tensor, edge: int) -> Tensor:
    return x[:, :, edge:-edge, edge:-edge]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
