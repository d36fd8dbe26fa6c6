"""Copies to and from a GPU beside its work: nobody waits for them but who reads the result.

A tile's dense maps are 340 MB. Copied into plain memory they take longer than the network, during
which the GPU does nothing else and the thread that feeds it waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OVERLAP = True
"""False makes every copy wait, on a GPU too; for comparison (`benchmarks/gpu.py`)."""


def overlaps(device: torch.device | str) -> bool:
    """Whether copies of this device run beside its work: CUDA's do."""
    return OVERLAP and torch.device(device).type == "cuda"


def to_device(values: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """Copy an array to a device, from pinned memory where that lets the caller go on.

    Parameters
    ----------
    values : ndarray of uint8
        May change afterwards.
    device : torch.device or str

    Returns
    -------
    Tensor of uint8
        Of the same shape.
    """
    if not overlaps(device):
        return torch.from_numpy(np.array(values)).to(device)
    pinned = torch.empty(values.shape, dtype=torch.uint8, pin_memory=True)
    pinned.numpy()[...] = values
    # The allocator of pinned memory gives it to nobody else before the copy is done.
    return pinned.to(device, non_blocking=True)


class Ready:
    """A moment in the work of a GPU's current stream; on other devices it has passed already.

    Parameters
    ----------
    device : torch.device or str
    """

    def __init__(self, device: torch.device | str):
        self.event: torch.cuda.Event | None = None
        if overlaps(device):
            self.event = torch.cuda.Event(blocking=True)
            self.event.record(torch.cuda.current_stream(torch.device(device)))

    def wait(self) -> None:
        """Wait for it; other threads of Python run meanwhile."""
        if self.event is not None:
            self.event.synchronize()


def fetch(maps: Sequence[Tensor]) -> tuple[list[NDArray[np.float32]], Ready]:
    """Copy tensors of one device to arrays.

    Parameters
    ----------
    maps : sequence of Tensor of float32
        At least one.

    Returns
    -------
    arrays : list of ndarray of float32
        To be read once `ready` has been waited for.
    ready : Ready
    """
    device = maps[0].device
    if not overlaps(device):
        return [values.cpu().numpy() for values in maps], Ready("cpu")
    stream = _stream(str(device), "copies")
    stream.wait_stream(torch.cuda.current_stream(device))
    arrays = []
    with torch.cuda.stream(stream):
        for values in maps:
            host = torch.empty_like(values, device="cpu", pin_memory=True)
            host.copy_(values, non_blocking=True)
            # Its memory is not given away before the copy is done.
            values.record_stream(stream)
            arrays.append(host.numpy())
        ready = Ready(device)
    return arrays, ready


@contextmanager
def beside(device: torch.device | str, ready: Ready) -> Iterator[None]:
    """Work of this block begins when `ready` has come, and does not wait for what was asked later.

    Parameters
    ----------
    device : torch.device or str
    ready : Ready
        Of what the block reads. The block itself waits for its own results before it ends.
    """
    if ready.event is None:
        yield
        return
    stream = _stream(str(device), "small work")
    stream.wait_event(ready.event)
    with torch.cuda.stream(stream):
        yield


@cache
def _stream(device: str, purpose: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(torch.device(device))
