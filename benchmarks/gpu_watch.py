"""What a GPU does while something runs: how busy it is, its memory, its time in each network."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lymphinfer.bundles.loading import Bundle

# A process of its own: a thread of this one would not run while another holds Python's lock, which
# is when a GPU waits. nvidia-smi keeps its lines back from a pipe, but is always there.
_ASK = """
import os, time
try:
    import pynvml as nvml
    nvml.nvmlInit()
    card = nvml.nvmlDeviceGetHandleByIndex(0)
    while True:
        busy = nvml.nvmlDeviceGetUtilizationRates(card).gpu
        print(busy, nvml.nvmlDeviceGetMemoryInfo(card).used / 2**20, sep=",", flush=True)
        time.sleep(0.1)
except Exception:
    os.execvp("nvidia-smi", ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "-i", "0",
                             "--format=csv,noheader,nounits", "-lms", "100"])
"""


def card(device: str) -> dict[str, Any]:
    """Name and size of the GPU; nothing on a CPU."""
    if device != "cuda":
        return {"device": "cpu"}
    found = torch.cuda.get_device_properties(0)
    return {"device": found.name, "device_mb": found.total_memory / 2**20,
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # fmt: skip


class Watch:
    """Asks the driver ten times a second for as long as the block lasts.

    Its busy share is that of the time in which a kernel ran, whatever part of the GPU it filled.
    """

    def __init__(self, device: str):
        self.is_on = device == "cuda"
        self.samples: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Watch:
        if self.is_on:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _ASK], stdout=subprocess.PIPE, text=True
                )
            except OSError:
                return self
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            try:
                busy, used = (float(value) for value in line.split(","))
            except ValueError:
                continue
            self.samples.append((busy, used))

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def found(self) -> dict[str, Any]:
        """Mean busy share, also without the idle time before the first kernel, and memory."""
        if not self.samples:
            return {"device busy": "not measured"}
        busy = [share / 100 for share, _ in self.samples]
        began = next((i for i, share in enumerate(busy) if share), 0)
        since = busy[began:]
        return {"device busy": sum(busy) / len(busy),
                "device busy, from its first kernel": sum(since) / len(since),
                "device_mb, all processes": max(used for _, used in self.samples)}  # fmt: skip


@contextmanager
def timed_networks(bundle: Bundle) -> Iterator[Callable[[], dict[str, float]]]:
    """Seconds that a GPU spends in the forward passes of a bundle's networks, by CUDA events.

    Yields
    ------
    callable
        Gives them by network, once the work is done; empty on a CPU.
    """
    detector: Any = bundle.detector
    nets: dict[str, Any] = {"detector": getattr(detector, "reader", detector).net}
    if bundle.markers.far is not None:
        nets["far"] = bundle.markers.far.engine.net
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in nets}
    handles = []
    on_gpu = bundle.engine.device.startswith("cuda")
    for name, net in nets.items() if on_gpu else ():

        def before(*_: object, name: str = name) -> None:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            events[name].append(pair)

        def after(*_: object, name: str = name) -> None:
            events[name][-1][1].record()

        handles += [net.register_forward_pre_hook(before), net.register_forward_hook(after)]

    def spent() -> dict[str, float]:
        if on_gpu:
            torch.cuda.synchronize()
        return {name: sum(a.elapsed_time(b) for a, b in pairs) / 1e3
                for name, pairs in events.items()}  # fmt: skip

    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()
