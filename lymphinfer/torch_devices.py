"""Which devices torch has."""

from __future__ import annotations

import torch

from lymphinfer.errors import LymphinferError


def find_device(name: str) -> str:
    """Name of a device that torch has, see `lymphinfer.engine.choose_device`.

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
        return present[0]
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
    return str(device)


def gpu_precision(device: str) -> str:
    """Fastest number type of a GPU: ``bfloat16``, ``float16`` or ``fp32``."""
    if torch.device(device).type != "cuda":
        return "fp32"
    # GPUs before Ampere emulate bfloat16, slowly.
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float16"
