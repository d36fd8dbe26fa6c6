"""OpenVINO on the CPU: graphs that run, see `lymphinfer.layers` for how they are built.

On CPUs it is about twice as fast as torch in bfloat16, needs no warm-up, and is loaded in a tenth
of torch's time (`benchmarks/speed.py`).
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.threads import threads


@cache
def core() -> Any:
    """OpenVINO's core, one a process and never let go of.

    Each core puts a signal stack of its own in the place of the one that it finds, and puts that
    one back when it ends: two of them, ended in the order of their beginning, leave one that is no
    longer there, and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


class CpuGraph:
    """A graph of one image input that OpenVINO computes on the CPU.

    Compiled in a few tenths of a second when it is first called. One thread at a time may call it.

    Parameters
    ----------
    model : openvino.Model
        Its input is (B, H, W, 3).
    precision : str
        ``bfloat16``, or ``fp32``; ``int8``: what the graph does not round is computed in float32.
    batch : int or None
        The input is always (batch, *size, 3), smaller batches filled up; None for an input of any
        size, which is as fast once a size has been met.
    size : tuple of int, optional
        Height and width, with `batch`.
    """

    def __init__(
        self,
        model: Any,
        precision: str,
        *,
        batch: int | None = None,
        size: tuple[int, int] = (0, 0),
    ):
        self.batch, self.size = batch, size
        self._precision = "bf16" if precision == "bfloat16" else "f32"
        self._model = model

    def __call__(self, pixels: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run it.

        Parameters
        ----------
        pixels : ndarray, (B, H, W, 3)
            Of the type of the graph's input.

        Returns
        -------
        list of ndarray of float32
            Its outputs, in their order; they are the caller's.
        """
        rows = len(pixels)
        if self.batch and (lack := self.batch - rows):
            pixels = np.concatenate([pixels, np.zeros((lack, *pixels.shape[1:]), pixels.dtype)])
        # Each call has a request of its own, whose outputs are given away: one request's would be
        # written over by the next call, and a tile's copies take 350 MB and a tenth of a second.
        # What is computed on the way belongs to the compiled graph and is there once.
        request = self._compiled.create_infer_request()
        found = request.infer([np.ascontiguousarray(pixels)], share_inputs=True, share_outputs=True)
        return [values[:rows] for values in found.values()]

    @cached_property
    def _compiled(self) -> Any:
        height, width = self.size if self.batch else (-1, -1)
        self._model.reshape([self.batch or -1, height, width, 3])
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads(),
            # Several worker processes would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        return core().compile_model(self._model, "CPU", options)
