"""Any torch network as a graph for OpenVINO, handed over in memory as torch traces it.

OpenVINO's converter, which reports its use, is not called.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _FromBytes(nn.Module):
    """Takes bytes (B, H, W, 3)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x.permute(0, 3, 1, 2).float() / 255)
        return output


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


def traced(net: nn.Module, size: tuple[int, int]) -> Any:
    """Graph of a network.

    Parameters
    ----------
    net : nn.Module
        Takes float (B, 3, H, W) in [0, 1] and returns a Tensor; in evaluation mode.
    size : tuple of int
        Height and width that it accepts.

    Returns
    -------
    openvino.Model
        Bytes (B, H, W, 3) in.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    pixels = torch.zeros(1, *size, 3, dtype=torch.uint8)
    run = _FromBytes(net).eval()
    with _constant(net), torch.inference_mode(), warnings.catch_warnings():
        # What the network checks of its input holds for any size that is asked for.
        warnings.simplefilter("ignore")
        # Of a module, torch makes a script module of each part first, which takes longer than the
        # trace itself.
        trace = torch.jit.trace(lambda x: run(x), pixels, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    # The model has constants of its own; the decoder must outlive the conversion.
    decoder = TorchScriptPythonDecoder(trace, shared_memory=False)
    model = frontend.convert(frontend.load(decoder))
    del decoder
    return model
