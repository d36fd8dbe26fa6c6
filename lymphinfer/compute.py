"""Which device runs the networks, in which number type and memory layout."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from lymphinfer.errors import LymphinferError

Net = TypeVar("Net", bound=nn.Module)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_device(name: str = "auto") -> torch.device:
    """Device by name; ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises
    ------
    LymphinferError
        The device is unknown or not there; the message lists what is.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    present = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + present
    if name == "auto":
        return torch.device(present[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LymphinferError(
            f"device {name!r} is unknown; on this machine: {', '.join(present)}"
        ) from error
    if device.type not in {p.split(":")[0] for p in present} or (
        device.index is not None and str(device) not in present
    ):
        raise LymphinferError(
            f"device {name!r} is not on this machine, which has: {', '.join(present)}"
        )
    return device


def half_type(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """Number type of the convolutions, None for full precision.

    ``auto`` takes bfloat16 on GPUs and CPUs that are faster in it, float16 on older GPUs, and
    full precision elsewhere.

    Raises
    ------
    LymphinferError
        The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise LymphinferError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        # GPUs before Ampere emulate bfloat16, slowly.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_prefers_bf16() else None
    return None


def _cpu_prefers_bf16() -> bool:
    """Whether bfloat16 is faster than float32 on this CPU.

    With AMX it is, and with AVX-512's instructions on AMD. Intel's cores without AMX have these
    too, but are half again as slow with them as in float32 (`benchmarks/README.md`).
    """
    if _has("_is_amx_tile_supported"):
        return True
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    intel = "Intel" in str(known.get("cpu_name", ""))
    return _has("_is_avx512_bf16_supported") and not intel


def _has(instructions: str) -> bool:
    return bool(getattr(torch.cpu, instructions, lambda: False)())


def channels_last(net: Net, device: torch.device | str = "cpu") -> Net:
    """Move a network to a device with channels-last weights, the fast layout for convolutions."""
    # Not net.to(): TIAToolbox's networks override it and refuse a memory format.
    nn.Module.to(net, device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def precision_name(autocast: torch.dtype | None) -> str:
    """``"fp32"`` for None, else torch's name of the half type."""
    return "fp32" if autocast is None else str(autocast).removeprefix("torch.")
