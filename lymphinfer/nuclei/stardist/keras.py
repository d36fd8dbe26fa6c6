"""Official StarDist models (Keras ``.h5``) as PyTorch networks, by layer name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lymphinfer.errors import BundleError
from lymphinfer.nuclei.stardist.network import (
    StarDistConfig,
    UNetStarDistNet,
)
from lymphinfer.textfiles import read_text

WEIGHT_FILES = ("weights_best.h5", "weights_last.h5", "weights_now.h5")


@dataclass(frozen=True)
class KerasStarDist:
    """A converted model.

    Attributes
    ----------
    net : UNetStarDistNet
        In evaluation mode.
    prob_threshold, nms_threshold : float
        As published with it; stardist's defaults of 0.5 and 0.4 where the model names none.
    """

    net: UNetStarDistNet
    prob_threshold: float
    nms_threshold: float


def read_config(values: dict[str, Any], *, source: Path) -> StarDistConfig:
    """Translate stardist's ``config.json``.

    Parameters
    ----------
    values : dict
    source : Path
        For messages.

    Returns
    -------
    StarDistConfig

    Raises
    ------
    BundleError
        A network that this graph cannot be: every reason at once.
    """
    wanted: dict[str, Any] = {
        "n_dim": 2,
        "n_channel_in": 3,
        "backbone": "unet",
        "unet_kernel_size": [3, 3],
        "unet_pool": [2, 2],
        "unet_n_conv_per_depth": 2,
        "unet_activation": "relu",
        "unet_last_activation": "relu",
        "unet_batch_norm": False,
    }
    problems = [
        f"{key} is {values[key]!r}, not {expected!r}"
        for key, expected in wanted.items()
        if key in values and values[key] != expected
    ]
    if values.get("n_classes"):
        problems.append("it classifies objects; convert a model without classes")
    grid = values.get("grid", [1, 1])
    if grid[0] != grid[1] or grid[0] & (grid[0] - 1):
        problems.append(f"grid {grid} is not square and a power of two")
    if problems:
        raise BundleError(
            f"{source}: this StarDist model cannot be converted: {'; '.join(problems)}"
        )
    return StarDistConfig(
        n_rays=int(values.get("n_rays", 32)),
        grid=int(grid[0]),
        n_filter_base=int(values.get("unet_n_filter_base", 32)),
        n_depth=int(values.get("unet_n_depth", 3)),
        n_conv_after_unet=int(values.get("net_conv_after_unet", 128)),
    )


def read_h5_layers(path: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Kernels and biases of a Keras weight file by layer name.

    Keras has written ``layer/layer/kernel:0`` (2), ``layer/layer/kernel`` (3, legacy format) and
    ``layers/layer/vars/0`` (3); all are read.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        Layer name to ``{"kernel": (h, w, in, out), "bias": (out,)}``.

    Raises
    ------
    BundleError
        h5py is missing, or the file is not HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        raise BundleError(f"{path}: reading Keras weights needs h5py: pip install h5py") from error
    layers: dict[str, dict[str, NDArray[np.float32]]] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        parts = name.split("/")
        if parts[-2] == "vars":
            layer, role = parts[-3], {"0": "kernel", "1": "bias"}.get(parts[-1])
        else:
            layer, role = parts[-2], parts[-1].split(":")[0]
        if role in {"kernel", "bias"}:
            layers.setdefault(layer, {})[role] = np.asarray(item, np.float32)

    try:
        with h5py.File(path) as file:
            file.get("model_weights", file).visititems(visit)
    except OSError as error:
        raise BundleError(f"{path}: not a readable Keras weight file ({error})") from error
    return layers


def load_layers(net: UNetStarDistNet, layers: dict[str, dict[str, NDArray[np.float32]]]) -> None:
    """Copy Keras layers into a network in place, HWIO kernels to OIHW.

    Raises
    ------
    BundleError
        A layer is missing, superfluous or of another shape: all of them named.
    """
    state = net.state_dict()
    wanted = {
        **{name: f"blocks.{name}.conv" for name in net.blocks},
        **{name: name for name in ("prob", "dist")},
    }
    problems = [f"unknown layer {name}" for name in layers if name not in wanted]
    for name, prefix in wanted.items():
        if name not in layers or set(layers[name]) != {"kernel", "bias"}:
            problems.append(f"layer {name} is missing or incomplete")
            continue
        new = {
            f"{prefix}.weight": layers[name]["kernel"].transpose(3, 2, 0, 1),
            f"{prefix}.bias": layers[name]["bias"],
        }
        for key, value in new.items():
            if value.shape != tuple(state[key].shape):
                problems.append(f"{name}: shape {value.shape}, expected {tuple(state[key].shape)}")
            else:
                state[key] = torch.from_numpy(np.ascontiguousarray(value))
    if problems:
        raise BundleError(f"not the weights of this StarDist network: {'; '.join(problems)}")
    net.load_state_dict(state)


def weight_file(folder: Path) -> Path:
    """The weights of an official model folder, the best before the last.

    Raises
    ------
    BundleError
        None is there.
    """
    found = next((folder / n for n in WEIGHT_FILES if (folder / n).is_file()), None)
    if found is None:
        raise BundleError(
            f"{folder}: no StarDist model; expected config.json and {' or '.join(WEIGHT_FILES)}"
        )
    return found


def convert_keras(folder: Path) -> KerasStarDist:
    """Convert an official model folder (``config.json``, ``weights_best.h5``, ``thresholds.json``).

    Parameters
    ----------
    folder : Path

    Returns
    -------
    KerasStarDist

    Raises
    ------
    BundleError
        Files are missing, or describe a network that cannot be converted.
    """
    config_path = folder / "config.json"
    weights = weight_file(folder)
    if not config_path.is_file():
        raise BundleError(f"{folder}: no StarDist model; {config_path.name} is missing")
    try:
        config = read_config(json.loads(read_text(config_path, BundleError)), source=config_path)
        thresholds_path = folder / "thresholds.json"
        thresholds = (
            json.loads(read_text(thresholds_path, BundleError)) if thresholds_path.is_file() else {}
        )
    except ValueError as error:
        raise BundleError(f"{folder}: config.json or thresholds.json is not JSON") from error
    net = UNetStarDistNet(config)
    load_layers(net, read_h5_layers(weights))
    return KerasStarDist(
        net.eval(), float(thresholds.get("prob", 0.5)), float(thresholds.get("nms", 0.4))
    )
