"""Batch normalisation out of a network for inference, and back into it to train further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lymphinfer.nuclei.stardist.network import ConvBlock, StarDistNet, build_network


def fold_batch_norm(net: StarDistNet) -> StarDistNet:
    """Return the same function without batch normalisation (evaluation mode, running statistics).

    Parameters
    ----------
    net : StarDistNet
        Any network; one without batch normalisation is copied.

    Returns
    -------
    StarDistNet
        In evaluation mode, ``config.batch_norm`` False, outputs equal up to rounding.
    """
    plain = build_network(replace(net.config, batch_norm=False))
    plain.load_state_dict(folded_state(net))
    return plain.eval()


def folded_state(net: nn.Module) -> dict[str, Tensor]:
    """Weights of a network of `ConvBlock` without batch normalisation, by the same names.

    Parameters
    ----------
    net : nn.Module

    Returns
    -------
    dict of str to Tensor
        For the network that is built without it; every convolution has a bias.
    """
    state = {k: v for k, v in net.state_dict().items() if ".norm." not in k}
    for name, block in net.named_modules():
        if isinstance(block, ConvBlock) and isinstance(block.norm, nn.BatchNorm2d):
            fused = torch.nn.utils.fuse_conv_bn_eval(block.conv.eval(), block.norm.eval())
            state[f"{name}.conv.weight"] = fused.weight.detach()
            state[f"{name}.conv.bias"] = cast(Tensor, fused.bias).detach()
    return state


@torch.no_grad()
def unfold_batch_norm(net: StarDistNet, x: Tensor) -> StarDistNet:
    """Return the same function with batch normalisation, to train a shipped network further.

    Each normalisation gets the statistics of its layer on `x`, and the scale and offset that undo
    them: the inverse of `fold_batch_norm`.

    Parameters
    ----------
    net : StarDistNet
        Without batch normalisation; one with it is copied.
    x : Tensor, (B, 3, H, W)
        A batch of training images, as `StarDistNet.forward` takes them; the more pixels, the better
        the statistics.

    Returns
    -------
    StarDistNet
        In evaluation mode, ``config.batch_norm`` True, outputs equal up to rounding.
    """
    full = build_network(replace(net.config, batch_norm=True)).eval()
    if net.config.batch_norm:
        full.load_state_dict(net.state_dict())
    else:
        adopt_folded(full, net.state_dict(), x)
    return full


@torch.no_grad()
def adopt_folded(net: nn.Module, folded: Mapping[str, Tensor], x: Tensor) -> None:
    """Give a network with batch normalisation the function of one without; in place.

    Parameters
    ----------
    net : nn.Module
        Of `ConvBlock`, in evaluation mode.
    folded : mapping of str to Tensor
        Weights of the same network built without batch normalisation, as of `folded_state`.
    x : Tensor
        A batch that `net` takes; each normalisation gets the statistics of its layer on it.
    """
    net.load_state_dict(folded, strict=False)

    def adopt(norm: nn.BatchNorm2d, y: Tensor, left_out: Tensor | float) -> None:
        variance, mean = torch.var_mean(y.float(), dim=(0, 2, 3), correction=0)
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean + left_out)

    hooks = []
    for name, block in net.named_modules():
        if isinstance(block, ConvBlock) and isinstance(block.norm, nn.BatchNorm2d):
            left_out = 0.0 if block.conv.bias is not None else folded[f"{name}.conv.bias"]
            known = partial(adopt, block.norm, left_out=left_out)
            hooks.append(block.conv.register_forward_hook(lambda _m, _x, y, known=known: known(y)))
    net(x)
    for hook in hooks:
        hook.remove()
