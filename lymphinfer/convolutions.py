"""Convolutions that the CPU's library gets wrong, computed another way."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

Net = TypeVar("Net", bound=nn.Module)

# oneDNN's kernels take channels by the eight.
FEW_CHANNELS = 8


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution as the unstrided one of every `stride`-th pixel: the same function.

    On CPUs with AVX2 and no AVX-512, oneDNN's weight gradient of a strided 1x1 convolution of fewer
    than eight channels, channels last, writes past its workspace: the gradient is wrong, or the
    process dies or hangs. Without a stride it is right.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride), rounded up."""
        rows, columns = cast(tuple[int, int], self.stride)
        kept = input[..., ::rows, ::columns]
        return F.conv2d(kept, self.weight, self.bias, groups=self.groups)


def mend_convolutions(net: Net) -> Net:
    """Put a `SubsampledConv2d` where a network has a strided 1x1 convolution of few channels.

    Parameters
    ----------
    net : nn.Module
        Changed in place: the same function, with the same parameters under the same names.

    Returns
    -------
    nn.Module
        The same object.
    """
    for parent in list(net.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and _is_miscomputed(conv):
                mended = SubsampledConv2d(
                    conv.in_channels,
                    conv.out_channels,
                    1,
                    cast(tuple[int, int], conv.stride),
                    groups=conv.groups,
                    bias=conv.bias is not None,
                )
                mended.weight, mended.bias = conv.weight, conv.bias
                setattr(parent, name, mended.train(conv.training))
    return net


def _is_miscomputed(conv: nn.Conv2d) -> bool:
    return (
        not isinstance(conv, SubsampledConv2d)
        and conv.kernel_size == (1, 1)
        and max(cast(tuple[int, int], conv.stride)) > 1
        # Padding of other kinds than numbers adds nothing to a 1x1 kernel.
        and conv.padding in ((0, 0), "valid")
        and conv.in_channels // conv.groups < FEW_CHANNELS
    )
