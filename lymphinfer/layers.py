"""Graphs for OpenVINO, built layer by layer from weights: no other library computes them.

The weights are those that torch's networks learned, under the names that they have there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEVEN_BITS = 63
"""Steps of a weight to either side: with all eight bits sums overflow on older CPUs."""
MAP = ":map"
"""What the name of a map without negative values ends with, behind that of what computes it."""


class Layers:
    """Layers of a graph, by the names that their weights have in the file.

    The arithmetic is that of torch's layers of the same names, with which the weights were
    learned. Nodes are (B, C, H, W).

    Parameters
    ----------
    weights : mapping of str to ndarray
        All that the graph holds; what is left over is a fault of the file.
    int8 : mapping of str to ndarray, optional
        What is computed in bytes: ``NAME.top``, the largest value that a map keeps; ``NAME.scale``
        of a convolution, the steps of its weights, one for each filter; and weights in the place of
        those of the same name, as they are or as steps (int8). With ``NAME.inner.weight`` a
        convolution is computed by two: that one of few filters, and one of a single pixel behind
        it. One of even size in the place of an odd one moves by two pixels.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.floating]],
        int8: Mapping[str, NDArray[np.floating]] | None = None,
    ):
        import openvino.opset13 as ops

        self.ops: Any = ops
        self.weights = weights
        self.int8 = int8 or {}
        self.taken: set[str] = set()
        self.rounded_by: set[str] = set()

    def pixels(self) -> tuple[Any, Any]:
        """Input of bytes, (B, H, W, 3), and the node that has them in [0, 1], (B, 3, H, W)."""
        given = self.ops.parameter([-1, -1, -1, 3], np.uint8, name="pixels")
        floats = self.ops.convert(given, "f32")
        light = self.ops.divide(self.ops.transpose(floats, np.array([0, 3, 1, 2])), np.float32(255))
        return given, self.rounded(light, "pixels")

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float32]:
        """A weight in float32.

        Raises
        ------
        ValueError
            It is missing, or of another shape.
        """
        source = self.int8 if name in self.int8 else self.weights
        if name not in source:
            raise ValueError(f"{name} is missing")
        found = np.asarray(source[name], np.float32)
        if shape is not None and found.shape != shape:
            raise ValueError(f"{name} is {found.shape}, not {shape}")
        if source is self.int8:
            self._int8(name, found.shape)
            if source[name].dtype == np.int8:
                scale = f"{name.removesuffix('.weight')}.scale"
                found = found * _by_filter(self._int8(scale, found.shape[:1]))
        self.taken.add(name)
        return found

    def width_of(self, name: str) -> int:
        """Filters of a convolution, by its weights.

        Raises
        ------
        ValueError
            It has none.
        """
        return len(self.take(f"{name}.weight"))

    def is_even(self, name: str) -> bool:
        """Whether a convolution has an even size: it moves by two pixels then, see `int8`."""
        return bool(self.take(f"{name}.weight").shape[-1] % 2 == 0)

    def is_narrow(self, name: str) -> bool:
        """Whether a part of the network is computed through few channels, see `int8`."""
        return f"{name}.out.weight" in self.int8

    def check_all_taken(self) -> None:
        """See that the files hold nothing that the graph does not.

        Raises
        ------
        ValueError
            Names what is left over.
        """
        left = sorted(set(self.weights) - self.taken) + sorted(set(self.int8) - self.rounded_by)
        if left:
            raise ValueError(f"{', '.join(left[:3])} belong to no layer")

    def conv(
        self,
        x: Any,
        name: str,
        c_out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = True,
        relu: bool = False,
    ) -> Any:
        """Convolution padded to keep the size, with its bias and ReLU."""
        if f"{name}.inner.weight" in self.int8:
            few = self.width_of(f"{name}.inner")
            x = self.conv(x, f"{name}.inner", few, kernel=kernel, stride=stride, relu=True)
            kernel, stride = 1, 1
        weight = self._weight(name, (c_out, channels(x), kernel, kernel))
        y = self._convolution(x, weight, name, kernel, stride)
        if bias:
            y = self.ops.add(y, self.take(f"{name}.bias", (c_out,)).reshape(1, -1, 1, 1))
        return self.rounded(self.ops.relu(y), name) if relu else y

    def side_by_side(self, x: Any, widths: Mapping[str, int]) -> Any:
        """Convolutions of one pixel that read the same map, by names and filters, as one layer."""
        names = tuple(widths)
        parts = [
            (self.take(f"{n}.weight", (widths[n], channels(x), 1, 1)), self.take(f"{n}.bias"))
            for n in names
        ]
        weights, biases = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self.ops.add(
            self._convolution(x, weights, names[0], 1, 1), biases.reshape(1, -1, 1, 1)
        )

    def in_two_parts(self, x: Any, name: str, c_out: int) -> Any:
        """A convolution of one pixel, in bytes as exact as one in numbers.

        What its weights are rounded to comes first, and behind that, in finer steps, what rounding
        took off: 2 c_out channels, whose halves are to be added. In numbers there are c_out.
        """
        weight = self.take(f"{name}.weight", (c_out, channels(x), 1, 1))
        bias = self.take(f"{name}.bias", (c_out,))
        joined: Any = weight
        if f"{name}.scale" in self.int8:
            scale = self._int8(f"{name}.scale", (c_out,))
            rest = weight - self._steps(weight, scale) * _by_filter(scale)
            finer = np.abs(rest).max(axis=(1, 2, 3)).clip(1e-12) / SEVEN_BITS
            joined = self._bytes(np.concatenate([weight, rest]), np.concatenate([scale, finer]))
            bias = np.concatenate([bias, np.zeros_like(bias)])
        y = self._convolution(x, joined, name, 1, 1)
        return self.ops.add(y, bias.reshape(1, -1, 1, 1))

    def as_bytes(self, x: Any, name: str) -> Any:
        """A map for the caller as bytes, 255 at its top, one for all or one a channel.

        It stays as it is where it has none. A quarter of the memory is written, and read.
        """
        if f"{name}.top" not in self.int8:
            return x
        top = self._int8(f"{name}.top", self.int8[f"{name}.top"].shape).reshape(1, -1, 1, 1)
        low, high = np.float32(0), np.float32(255)
        return self.ops.convert(self.ops.fake_quantize(x, low, top, low, high, 256), "u8")

    def _weight(self, name: str, shape: tuple[int, ...]) -> Any:
        weight = self.take(f"{name}.weight", shape)
        if f"{name}.scale" not in self.int8:
            return weight
        return self._bytes(weight, self._int8(f"{name}.scale", shape[:1]))

    def _convolution(self, x: Any, weight: Any, name: str, kernel: int, stride: int) -> Any:
        before, behind = [(kernel - 1) // 2] * 2, [kernel // 2] * 2
        return self.ops.convolution(x, weight, [stride] * 2, before, behind, [1, 1], name=name)

    def rounded(self, x: Any, name: str) -> Any:
        """A map without negative values, in 256 steps up to its top where it has one."""
        x.set_friendly_name(f"{name}{MAP}")
        if f"{name}.top" not in self.int8:
            return x
        top = self._int8(f"{name}.top", (1,))[0]
        return self.ops.fake_quantize(x, np.float32(0), top, np.float32(0), top, 256)

    def _bytes(self, weight: NDArray[np.float32], scale: NDArray[np.float32]) -> Any:
        whole = self.ops.convert(self.ops.constant(self._steps(weight, scale)), "f32")
        return self.ops.multiply(whole, _by_filter(scale))

    @staticmethod
    def _steps(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
        whole: NDArray[np.float32] = np.rint(weight / _by_filter(scale))
        return whole.clip(-127, 127).astype(np.int8)

    def _int8(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        self.rounded_by.add(name)
        found = np.asarray(self.int8[name], np.float32)
        if found.shape != shape or not np.isfinite(found).all():
            raise ValueError(f"{name} is {found.shape}, not {shape} of numbers")
        return found

    def block(
        self, x: Any, name: str, c_out: int, *, kernel: int = 3, stride: int = 1, relu: bool = True
    ) -> Any:
        """`lymphinfer.nuclei.stardist.blocks.ConvBlock` without batch normalisation."""
        return self.conv(x, f"{name}.conv", c_out, kernel=kernel, stride=stride, relu=relu)

    def residual(self, x: Any, name: str, c_out: int, *, stride: int = 1) -> Any:
        """`lymphinfer.nuclei.stardist.blocks.ResidualBlock` without batch normalisation.

        Between its two convolutions it may have fewer channels, as its weights say.
        """
        y = self.block(x, f"{name}.first", self.width_of(f"{name}.first.conv"), stride=stride)
        y = self.block(y, f"{name}.second", c_out, relu=False)
        if stride > 1 or channels(x) != c_out:
            x = self.block(x, f"{name}.shortcut", c_out, kernel=1, stride=stride, relu=False)
        return self.rounded(self.ops.relu(self.ops.add(y, x)), name)

    def linear(self, x: Any, name: str, width: int) -> Any:
        """(B, C) to (B, width)."""
        c_in = x.get_output_partial_shape(0)[1].get_length()
        y = self.ops.matmul(x, self.take(f"{name}.weight", (width, c_in)), False, True)
        return self.ops.add(y, self.take(f"{name}.bias", (width,)))

    def larger(self, x: Any, times: int, mode: str) -> Any:
        """A map with `times` as many rows and columns, ``nearest`` or ``bilinear``."""
        how = ("nearest", "asymmetric") if mode == "nearest" else ("linear_onnx", "half_pixel")
        scales, axes = np.full(2, times, np.float32), np.array([2, 3])
        return self.ops.interpolate(
            x, scales, how[0], "scales", [0] * 4, [0] * 4, how[1], "floor", axes=axes
        )

    def mean(self, x: Any, side: int, *, stride: int | None = None) -> Any:
        """Mean over squares: side by side, or with `stride` 1 around each pixel of the map."""
        step = side if stride is None else stride
        pad = [side // 2 if step == 1 else 0] * 2
        return self.ops.avg_pool(x, [step] * 2, pad, pad, [side] * 2, True)

    def halved(self, x: Any) -> Any:
        """Largest value of each two by two pixels."""
        return self.ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)

    def spread(self, x: Any) -> Any:
        """Two by two pixels out of each, from four times the channels (torch's pixel_shuffle)."""
        return self.ops.depth_to_space(x, "depth_first", 2)

    def channels_last(self, x: Any) -> Any:
        """(B, C, H, W) as (B, H, W, C), in which order they are computed: it costs nothing."""
        return self.ops.transpose(x, np.array([0, 2, 3, 1]))

    def joined(self, *maps: Any) -> Any:
        """Maps behind each other, by channels."""
        return self.ops.concat(list(maps), 1)

    def model(self, given: Any, outputs: list[Any]) -> Any:
        """The graph, once all weights are in it.

        Raises
        ------
        ValueError
            The file has weights that it does not hold.
        """
        import openvino

        self.check_all_taken()
        return openvino.Model([self.ops.result(y) for y in outputs], [given], "network")


def _by_filter(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.reshape(-1, 1, 1, 1)


def channels(x: Any) -> int:
    """Channels of a node, (B, C, H, W)."""
    shape = (
        x.get_output_partial_shape(0)
        if hasattr(x, "get_output_partial_shape")
        else (x.get_partial_shape())
    )
    return int(shape[1].get_length())
