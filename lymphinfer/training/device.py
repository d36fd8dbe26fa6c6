"""Devices and precision of a training run, through `accelerate`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from lymphinfer.compute import half_type
from lymphinfer.errors import DataError
from lymphinfer.extras import require_extra

if TYPE_CHECKING:
    from accelerate import Accelerator

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: str, device: torch.device) -> str:
    """``no``, ``bf16`` or ``fp16``: as asked, or for ``auto`` what the device is fast at.

    Raises
    ------
    DataError
        Another word.
    """
    if wanted not in ("auto", *AUTOCAST):
        raise DataError(f"precision {wanted!r}: choose one of auto, {', '.join(AUTOCAST)}")
    if wanted != "auto":
        return wanted
    fastest = half_type(device)
    return next(name for name, number_type in AUTOCAST.items() if number_type is fastest)


def make_accelerator(precision: str, device: str = "auto") -> Accelerator:
    """Start `accelerate` on a device.

    Parameters
    ----------
    precision : str
        ``auto``, ``no``, ``bf16`` or ``fp16``.
    device : str
        ``auto`` or ``cpu``. Devices and processes are what ``accelerate launch`` gives.

    Returns
    -------
    accelerate.Accelerator

    Raises
    ------
    DataError
        The packages of the extra ``train`` are not installed; another device.
    """
    if device not in ("auto", "cpu"):
        raise DataError(
            f"--device {device}: training takes auto or cpu. Choose a GPU by CUDA_VISIBLE_DEVICES, "
            "several by `accelerate launch -m lymphinfer …`"
        )
    # Some of it is wanted hours later, for the figures: its absence is told now.
    require_extra("train", "training", DataError)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # One process cuts patches while the others wait for it, for hours on the whole cohort.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
    # accelerate refuses another precision in the same process; a run after another may want it.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=choose_precision(precision, state.device), cpu=device == "cpu"
    )
