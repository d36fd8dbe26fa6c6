"""OpenVINO on the CPU: graphs that run, see `lymphinfer.layers` for how they are built.

On CPUs it is about twice as fast as torch in bfloat16, needs no warm-up, and is loaded in a tenth
of torch's time (`benchmarks/speed.py`).
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
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


KEPT_SHAPES = 8
"""Sizes of input for which a compiled graph is kept, a few MB each without memory for its maps."""
PX_WITH_MEMORY = 6_000_000
"""Pixels of the inputs whose maps have memory at once, some 100 bytes a pixel: a tile of 2176 px
and a narrow one. Memory that comes anew costs a page fault for each 4 KB."""


class CpuGraph:
    """A graph of one image input that OpenVINO computes on the CPU.

    It is compiled for each size of input in a few tenths of a second, and kept: a graph for any
    size takes as long when it meets a new one, needs twice the memory (1.4 GB for 0.7 at 2304 px
    a side) and sorts its outputs anew, a tenth of a lean detector's time. One thread at a time may
    call it.

    Parameters
    ----------
    model : openvino.Model
        Its input is (B, H, W, 3).
    precision : str
        ``bfloat16``, or ``fp32``; ``int8``: what the graph does not round is computed in float32.
    batch : int or None
        Rows of every input: smaller batches are filled up. None for any number.

    Attributes
    ----------
    model : openvino.Model
    """

    def __init__(self, model: Any, precision: str, *, batch: int | None = None):
        self.batch = batch
        self._precision = "bf16" if precision == "bfloat16" else "f32"
        self.model = model
        self._compiled: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()

    def __call__(self, pixels: NDArray[Any]) -> list[NDArray[Any]]:
        """Run it.

        Parameters
        ----------
        pixels : ndarray, (B, H, W, 3)
            Of the type of the graph's input.

        Returns
        -------
        list of ndarray
            Its outputs, in their order; they are the caller's. Of float32, but where the graph
            tells bytes.
        """
        rows = len(pixels)
        if self.batch and (lack := self.batch - rows):
            pixels = np.concatenate([pixels, np.zeros((lack, *pixels.shape[1:]), pixels.dtype)])
        return [values[:rows] for values in self._for(pixels.shape).run(pixels)]

    def rest(self) -> None:
        """Give back the memory of all maps; outputs that somebody holds stay."""
        for compiled in self._compiled.values():
            if not compiled.at_rest:
                compiled.rest()

    def _for(self, shape: tuple[int, ...]) -> _Compiled:
        self._make_room(shape)
        if shape not in self._compiled:
            while len(self._compiled) >= KEPT_SHAPES:
                self._compiled.popitem(last=False)
            self._compiled[shape] = _Compiled(self._compile(shape))
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def _make_room(self, shape: tuple[int, ...]) -> None:
        """Give back maps of the sizes that were not used for longest, before others are made."""
        left = PX_WITH_MEMORY - _pixels(shape)
        for other, compiled in reversed(self._compiled.items()):
            if other != shape and not compiled.at_rest:
                left -= _pixels(other)
                if left < 0:
                    compiled.rest()

    def _compile(self, shape: tuple[int, ...]) -> Any:
        self.model.reshape(list(shape))
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads(),
            # Several worker processes would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        return core().compile_model(self.model, "CPU", options)


def _pixels(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:3])


class _Compiled:
    """A graph for one size of input, and the requests that nobody uses."""

    def __init__(self, graph: Any):
        self.graph = graph
        self.idle: list[Any] = []
        self.at_rest = False

    def rest(self) -> None:
        """Give back the memory of maps; outputs that somebody holds stay until they are let go."""
        self.at_rest = True
        self.idle.clear()
        self.graph.release_memory()

    def run(self, pixels: NDArray[Any]) -> list[NDArray[Any]]:
        # A request's outputs are given away, not copied: 50 MB and more a tile. It is used
        # again once nobody holds any of them; fresh memory would cost a page fault for each 4 KB.
        # What is computed on the way belongs to the compiled graph and is there once.
        self.at_rest = False
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.graph.create_infer_request()
        found = request.infer([np.ascontiguousarray(pixels)], share_inputs=True, share_outputs=True)
        held = list(found.values())
        left = iter(range(len(held), 0, -1))
        for values in held:
            # Views keep the array that they are of.
            weakref.finalize(values, self._let_go, request, left).atexit = False
        return held

    def _let_go(self, request: Any, left: Iterator[int]) -> None:
        if next(left) == 1 and not self.at_rest:
            self.idle.append(request)
