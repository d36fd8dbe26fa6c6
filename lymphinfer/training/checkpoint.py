"""A run's state in one safetensors file: numbers as tensors, the rest as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError

STATE, BEST, LOG = "state.safetensors", "best.safetensors", "log.jsonl"


@dataclass
class RunState:
    """Where a run stands.

    Attributes
    ----------
    fingerprint : str
        Of what the run is; another one's state is refused.
    step : int
        Optimiser steps done.
    epoch : int
        Epoch under way, from 0.
    epoch_step : int
        Optimiser steps done in it.
    loss_sum : float
        Of these steps, for the epoch's mean.
    best_auroc : float
        Highest mean validation AUROC; -1 before the first.
    best_epoch : int
    log_bytes : int
        Length of the log that belongs to this state.
    seconds : float
        Training time so far.
    start : str
        What the weights began as.
    begun : dict
        What the fingerprint is of, see `lymphinfer.training.resuming`.
    finished : bool
    history : list of dict
        A row for each epoch.
    scaler : dict
        Of fp16's gradient scaler.
    """

    fingerprint: str
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    loss_sum: float = 0.0
    best_auroc: float = -1.0
    best_epoch: int = -1
    log_bytes: int = 0
    seconds: float = 0.0
    start: str = ""
    begun: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that appears under its name once it is whole."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(plain, metadata))


def save_state(
    folder: Path, state: RunState, net: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write network, optimiser and position.

    Random numbers need no state of their own: those of each batch are seeded by seed, step and
    device (`fit`).
    """
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    save_tensors(folder / STATE, tensors, {"state": json.dumps(asdict(state))})


def read_state(folder: Path) -> RunState | None:
    """Where the run in a folder stands; None where there is none.

    Raises
    ------
    DataError
        The file is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return RunState(**json.loads(file.metadata()["state"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a checkpoint of this version ({error}). Delete {folder} to train anew."
        ) from error


def load_state(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill network and optimiser from a folder's checkpoint.

    Raises
    ------
    DataError
        It belongs to another network.
    """
    path = folder / STATE
    own: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                part, name = key.split(".", 1)
                if part == "net":
                    own[name] = file.get_tensor(key)
                else:
                    index, name = name.split(".", 1)
                    moments.setdefault(int(index), {})[name] = file.get_tensor(key)
        net.load_state_dict(own)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path}: the checkpoint does not fit this network ({str(error).splitlines()[0]}). "
            f"Delete {folder} to train anew."
        ) from error


class RunLog:
    """Rows of JSON, one a line; a resumed run goes on where its checkpoint was written.

    Parameters
    ----------
    path : Path
    keep_bytes : int
        What stands behind it was written after the checkpoint and is cut off.
    """

    def __init__(self, path: Path, keep_bytes: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(keep_bytes)
        self._file.seek(0, 2)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._file.write(json.dumps(row).encode() + b"\n")

    def flush(self) -> int:
        """Write through; returns the length in bytes."""
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log: ``loss`` for every optimiser step, ``auroc`` for every epoch."""
    path = folder / LOG
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
