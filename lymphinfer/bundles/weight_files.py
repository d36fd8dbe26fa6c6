"""Files of weights, read without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, load_file

from lymphinfer.errors import BundleError
from lymphinfer.markers.configs import TwoScaleConfig
from lymphinfer.markers.two_scale import HeadWeights
from lymphinfer.textfiles import is_utf8

Made = TypeVar("Made")
Weights = dict[str, NDArray[Any]]


def read_weights(file: Path) -> Weights:
    """Weights of a file by name.

    Raises
    ------
    BundleError
        It cannot be read.
    """
    try:
        # safetensors opens no name that is not UTF-8.
        return load_file(file) if is_utf8(file) else load(file.read_bytes())
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise not_the_weights(file, error) from error


def not_the_weights(file: Path, error: Exception) -> BundleError:
    """What to say of a file whose weights do not fit."""
    return BundleError(
        f"{file}: not the weights of the network that bundle.toml describes "
        f"({str(error).splitlines()[0]})"
    )


def fitting(file: Path, make: Callable[[Weights], Made]) -> Made:
    """What is made of a file's weights; BundleError where they do not fit."""
    weights = read_weights(file)
    try:
        return make(weights)
    except ValueError as error:
        raise not_the_weights(file, error) from error


def head_of(config: TwoScaleConfig, file: Path) -> HeadWeights:
    """See `Networks.head`."""
    return fitting(file, lambda weights: HeadWeights(config, weights))
