"""What computes a network: torch itself, or OpenVINO on the CPU.

OpenVINO runs the same graph with the same weights; on CPUs it is about twice as fast as torch in
bfloat16 and needs no warm-up (`benchmarks/speed.py`). The network is handed over in memory, as
traced by torch, and OpenVINO's converter, which reports its use, is not called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lymphinfer.errors import LymphinferError

RUNTIMES = ("auto", "torch", "openvino")

Output = TypeVar("Output")


def choose_runtime(device: torch.device, name: str = "auto") -> str:
    """``"torch"`` or ``"openvino"``; ``auto`` takes OpenVINO on the CPU where it is installed.

    Raises
    ------
    LymphinferError
        The name is unknown, or OpenVINO is asked for where it cannot run.
    """
    if name not in RUNTIMES:
        raise LymphinferError(f"runtime {name!r}: choose one of {', '.join(RUNTIMES)}")
    installed = find_spec("openvino") is not None
    if name == "auto":
        return "openvino" if installed and device.type == "cpu" else "torch"
    if name == "openvino" and device.type != "cpu":
        raise LymphinferError(
            f"runtime openvino runs on the CPU, not on {device}: leave --runtime out, or add "
            "--device cpu"
        )
    if name == "openvino" and not installed:
        raise LymphinferError(
            "runtime openvino is not installed: pip install openvino, or choose --runtime torch"
        )
    return name


class OpenVinoNet(Generic[Output]):
    """A network of one image input, computed by OpenVINO on the CPU.

    Compiled in a few tenths of a second when it is first called. One thread at a time may call it.

    Parameters
    ----------
    net : nn.Module
        Takes float (B, 3, H, W) in [0, 1]; returns a Tensor or a tuple of them, Nones left out.
    pack : callable
        Makes the result out of the list of output Tensors.
    autocast : torch.dtype or None
        `torch.bfloat16` for that precision, None for float32.
    example : tuple of int
        Height and width that the network accepts.
    batch : int or None
        The input is always (batch, 3, *example), smaller batches filled up; None for an input of
        any size, which is as fast once a size has been met.
    """

    def __init__(
        self,
        net: nn.Module,
        pack: Callable[[list[Tensor]], Output],
        *,
        autocast: torch.dtype | None,
        example: tuple[int, int],
        batch: int | None = None,
    ):
        self.pack, self.batch, self.example = pack, batch, example
        self._precision = "f32" if autocast is None else "bf16"
        self._model = _convert(net, example)

    def __call__(self, x: Tensor) -> Output:
        """Run the network.

        Parameters
        ----------
        x : Tensor of float32, (B, 3, H, W)
            In [0, 1]; no copy is made where it is channels-last.

        Returns
        -------
        Output
            As the network itself would return it, in float32.
        """
        pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
        rows = len(pixels)
        if self.batch and (lack := self.batch - rows):
            pixels = np.concatenate([pixels, np.zeros((lack, *pixels.shape[1:]), np.float32)])
        found = self._request.infer([pixels], share_inputs=True).values()
        return self.pack([torch.from_numpy(values[:rows]) for values in found])

    @cached_property
    def _request(self) -> Any:
        self._model.reshape([self.batch, *self.example, 3] if self.batch else [-1, -1, -1, 3])
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Several worker processes would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        return core().compile_model(self._model, "CPU", options).create_infer_request()


class _FromChannelsLast(nn.Module):
    """Takes (B, H, W, 3) and returns the outputs that are there."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        output = self.net(x.permute(0, 3, 1, 2))
        several = output if isinstance(output, tuple) else (output,)
        return tuple(values for values in several if values is not None)


@cache
def core() -> Any:
    """OpenVINO's core, one a process and never let go of.

    Each core puts a signal stack of its own in the place of the one that it finds, and puts that
    one back when it ends: two of them, ended in the order of their beginning, leave one that is no
    longer there, and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


@contextmanager
def _constant(net: nn.Module) -> Iterator[None]:
    """Parameters without gradients for a while: a traced function cannot hold others."""
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _convert(net: nn.Module, example: tuple[int, int]) -> Any:
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    pixels = torch.zeros(1, *example, 3)
    run = _FromChannelsLast(net).eval()
    with _constant(net), torch.inference_mode(), warnings.catch_warnings():
        # What the network checks of its input holds for any size that is asked for.
        warnings.simplefilter("ignore")
        # Of a module, torch makes a script module of each part first, which takes longer than the
        # trace itself.
        traced = torch.jit.trace(lambda x: run(x), pixels, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    # The model has constants of its own; the decoder must outlive the conversion.
    decoder = TorchScriptPythonDecoder(traced, shared_memory=False)
    model = frontend.convert(frontend.load(decoder))
    del decoder
    return model
