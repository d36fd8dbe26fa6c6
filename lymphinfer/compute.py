"""What torch computes on, in which number type and memory layout."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from lymphinfer.engine import choose_device, choose_precision

Net = TypeVar("Net", bound=nn.Module)


def resolve_device(name: str = "auto") -> torch.device:
    """Device by name, see `lymphinfer.engine.choose_device`."""
    return torch.device(choose_device(name))


def half_type(device: torch.device | str, precision: str = "auto") -> torch.dtype | None:
    """Number type of the convolutions on a device, None for full precision.

    Raises
    ------
    LymphinferError
        The precision is unknown.
    """
    return torch_type(choose_precision(str(device), precision))


def torch_type(precision: str) -> torch.dtype | None:
    """Half type of an `Engine.precision`, None for full precision."""
    known: dict[str, torch.dtype | None] = {
        "fp32": None, "int8": None, "bfloat16": torch.bfloat16, "float16": torch.float16
    }  # fmt: skip
    return known[precision]


def channels_last(net: Net, device: torch.device | str = "cpu") -> Net:
    """Move a network to a device with channels-last weights, the fast layout for convolutions."""
    # Not net.to(): TIAToolbox's networks override it and refuse a memory format.
    nn.Module.to(net, device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
