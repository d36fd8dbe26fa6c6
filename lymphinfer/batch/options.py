"""What a user may choose for a batch, beside the settings of each slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lymphinfer.batch.locks import EXPIRES_S
from lymphinfer.errors import LymphinferError

STALL_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class BatchOptions:
    """Options of a batch.

    Attributes
    ----------
    devices : tuple of str
        A worker process each; a device may be named twice. ``("auto",)``: every CUDA device of the
        machine, else Apple's GPU, else the CPU. Empty: the one device of the settings.
    slide_timeout : float or None
        Seconds that one slide may take.
    stall_timeout : float
        Seconds without a finished tile after which a worker counts as hung.
    memory_limit_gb : float or None
        Resident memory at which a worker is ended; by default 90 % of the machine's over the
        number of workers.
    retry_failed : bool
        Try again what an earlier run has failed on.
    lock_expires_s : float
        See `lymphinfer.batch.locks.FolderLock`.
    worker_setup : callable or None
        A function at the top of an importable module; each worker calls it once.

    Raises
    ------
    LymphinferError
        A value is out of its range; every one that is, is named.
    """

    devices: tuple[str, ...] = ()
    slide_timeout: float | None = None
    stall_timeout: float = STALL_TIMEOUT_S
    memory_limit_gb: float | None = None
    retry_failed: bool = False
    lock_expires_s: float = EXPIRES_S
    worker_setup: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        limits = {
            "--slide-timeout": self.slide_timeout,
            "--stall-timeout": self.stall_timeout,
            "--memory-limit": self.memory_limit_gb,
            "lock_expires_s": self.lock_expires_s,
        }
        problems = [
            f"{name} {value}: above 0"
            for name, value in limits.items()
            if value is not None and not value > 0
        ]
        if problems:
            raise LymphinferError("; ".join(problems))


def device_names(options: BatchOptions, device: str) -> list[str]:
    """Devices of a batch by name, a worker each.

    Parameters
    ----------
    options : BatchOptions
    device : str
        The settings' one.

    Returns
    -------
    list of str

    Raises
    ------
    LymphinferError
        A device is not on this machine.
    """
    from lymphinfer.engine import choose_device, has_torch, may_have_gpu

    names: list[str] = []
    for name in options.devices or (device,):
        gpus = 0
        if name == "auto" and options.devices and has_torch() and may_have_gpu():
            import torch

            gpus = torch.cuda.device_count()
        names += [f"cuda:{i}" for i in range(gpus)] or [choose_device(name)]
    return names
