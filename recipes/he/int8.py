r"""Let a bundle's detector compute in bytes: what is rounded how, by NNCF on real tiles.

python -m recipes.he.int8 --data DIR --bundle weights/he-v2 --lean RUN/lean.safetensors
python benchmarks/quality.py --data DIR --bundle weights/he-v2 --precision int8 --quick

Needs ``nncf`` (pip install nncf), which no prediction needs: of the graph that it rounds the
numbers are kept that `lymphinfer.layers` rounds the same graph with. Weights get seven of the eight
bits, so that sums of products do not overflow on CPUs without instructions for them. The stem,
whose errors all later layers carry on, and the layers that the outlines and the markers are read
off stay in float32. The last ones are fitted by least squares to say on rounded maps what they say
on the others: rounding moves probabilities one way, and with them the number of nuclei. Writes
``stardist-int8.safetensors`` into the bundle and names it in ``bundle.toml``.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import tomli_w
from numpy.typing import NDArray
from openvino import opset13
from safetensors.numpy import load_file, save

from lymphinfer.bundles.schema import MANIFEST
from lymphinfer.downloading import sha256_of
from lymphinfer.layers import MAP, SEVEN_BITS
from lymphinfer.nuclei.datasets import read_folder
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.graph import DIST_TOP, FEATURES_TOP, build_graph
from lymphinfer.runtime import CpuGraph
from lymphinfer.training.detectors.stardist import resample
from recipes.he.near_sets import at_mpp, read_raw
from recipes.he.open_sets import CONSEP_HELD_OUT, split

TILE_PX = 512
FILE = "stardist-int8.safetensors"
FLOAT = ("stem.0.conv", *(f"marker_context.{n}" for n in ("outlines", "coarse", "around", "out")),
         "marker.1")  # fmt: skip
LAST = ("prob", "marker.1")
"""Layers whose outputs are what a network says; the first has the distances behind it."""
ROUNDED_TWICE = ("prob",)
OWN = ("marker_context.", "marker.1.")
OWN_OF_FAST = {"context": "marker_context", "last": "marker.1"}
CUT_OFF = 1e-4
"""Share of a map's values above its top: one in ten thousand."""
MOST_PX = 63.75
"""Ray that a byte can tell, 21 µm; its steps are a quarter of a pixel."""
FURTHER = 1.2
"""Marker features of other tissue may be larger than those of the tiles."""


def tiles_of(data: Path, mpp: float) -> list[NDArray[np.uint8]]:
    """Real tiles (1, H, W, 3) at a pixel size, of training images of several laboratories."""
    import tifffile

    region = tifffile.imread(data / "slides" / "CMU-1-Small-Region.svs")[..., :3]
    pictures = [at_mpp(np.ascontiguousarray(region[y : y + 700, 600:1300]), 0.499, mpp)
                for y in (0, 700, 1400)]  # fmt: skip
    images, _ = split(read_folder(data / "consep" / "train"), CONSEP_HELD_OUT.__contains__)
    pictures += [resample(i, mpp)[0] for i in images[:8]]
    for name, step in (("brca", 12), ("c01", 9)):
        raw = list(read_raw(data, name))
        pictures += [at_mpp(r.pixels, r.mpp, mpp) for r in raw[::step]]
    sides = [[min(TILE_PX, side // 32 * 32) for side in p.shape[:2]] for p in pictures]
    return [
        np.ascontiguousarray(p[None, :height, :width])
        for p, (height, width) in zip(pictures, sides, strict=True)
    ]


def numbers_of(rounded: Any) -> dict[str, NDArray[np.float32]]:
    """What of a graph that NNCF has rounded is kept, by the names of `lymphinfer.layers`."""
    found: dict[str, NDArray[np.float32]] = {}
    for node in rounded.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind == "FakeQuantize":
            producer = node.input_value(0).get_node()
            # Enlarged by repetition it has the same values.
            if producer.get_type_name() == "Interpolate":
                producer = producer.input_value(0).get_node()
            source = producer.get_friendly_name()
            low, high = (node.input_value(i).get_node().data.ravel() for i in (1, 2))
            if len(high) != 1 or low[0] != 0 or not source.endswith(MAP):
                print(f"left as it is: what comes out of {source}, {low[:1]} to {high[:1]}")
                continue
            found[f"{source.removesuffix(MAP)}.top"] = np.array(high, np.float32)
        if kind == "Convolution":
            chain = node.input_value(1).get_node()
            if chain.get_type_name() != "Multiply":
                continue
            scale = chain.input_value(1).get_node().data.reshape(-1)
            found[f"{name}.scale"] = scale.astype(np.float32)
            (reader,) = node.output(0).get_target_inputs()
            bias = reader.get_node()
            if bias.get_type_name() == "Add":
                constant = bias.input_value(1).get_node()
                if constant.get_type_name() == "Constant":
                    found[f"{name}.bias"] = constant.data.reshape(-1).astype(np.float32)
    return found


def rounded_numbers(
    config: StarDistConfig,
    weights: dict[str, NDArray[Any]],
    lean: dict[str, NDArray[np.float32]],
    tiles: list[NDArray[np.uint8]],
) -> dict[str, NDArray[np.float32]]:
    """The weights of a detector's lean copy, and what its graph is rounded with."""
    return lean | rounded(build_graph(config, weights, lean), tiles, FLOAT)


def rounded(
    model: Any, tiles: list[NDArray[np.uint8]], floats: Sequence[str], cut_off: float = CUT_OFF
) -> dict[str, NDArray[np.float32]]:
    """What a graph is rounded with, by the names of `lymphinfer.layers`.

    Parameters
    ----------
    model : openvino.Model
    tiles : list of ndarray of uint8, (1, H, W, 3)
        Real ones.
    floats : sequence of str
        Layers that stay in float32.
    cut_off : float
        Share of each map's values above its top, for finer steps of the others.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
    )
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    ranges = RangeEstimatorParameters(
        min=StatisticsCollectorParameters(
            statistics_type=StatisticsType.MIN, aggregator_type=AggregatorType.MEAN
        ),
        max=StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=cut_off,
        ),
    )
    found = nncf.quantize(
        model,
        nncf.Dataset(tiles),
        subset_size=len(tiles),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=list(floats), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE, activations_range_estimator_params=ranges
        ),
    )
    return numbers_of(found)


def seen_by(model: Any, tiles: list[NDArray[np.uint8]]) -> list[dict[str, NDArray[np.float32]]]:
    """What each of `LAST` reads and says on each tile: ``NAME in`` and ``NAME out``."""
    by_name = {op.get_friendly_name(): op for op in model.get_ordered_ops()}
    wanted = {}
    for name in LAST:
        (reader,) = by_name[name].output(0).get_target_inputs()
        wanted[f"{name} in"] = by_name[name].input_value(0)
        wanted[f"{name} out"] = reader.get_node().output(0)
    # What several layers read is one output.
    own = {key: (node.get_node().get_friendly_name(), node) for key, node in wanted.items()}
    outputs = dict(own.values())
    results = [opset13.result(node) for node in outputs.values()]
    part = openvino.Model(results, model.get_parameters(), "last layers")
    graph = CpuGraph(part, "fp32")
    rows = []
    for tile in tiles:
        values = dict(zip(outputs, graph(tile), strict=True))
        rows.append({key: values[name].copy() for key, (name, _) in own.items()})
    return rows


def fitted(
    name: str,
    weight: NDArray[np.float32],
    plain: list[dict[str, NDArray[np.float32]]],
    small: list[dict[str, NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights and bias of a last layer that say on rounded maps what it says on the others.

    Where nothing hangs on it, outside nuclei and where a probability is certain, an error counts
    little; the weights are held to what they are.

    Parameters
    ----------
    name : str
        ``prob``, ``dist`` or ``marker.1``.
    weight : ndarray of float32, (c_out, c_in, 1, 1)
        As they are.
    plain, small : list of dict
        Of `seen_by`, the shipped network's and the rounded one's.
    """
    source = "marker.1" if name == "marker.1" else "prob"
    rows = {"prob": slice(0, 1), "dist": slice(1, None), "marker.1": slice(None)}[name]
    gram, right = 0.0, 0.0
    old = weight[:, :, 0, 0].astype(np.float64)
    for one, other in zip(plain, small, strict=True):
        logit = one["prob out"][0, 0]
        p = 1 / (1 + np.exp(-logit.astype(np.float64)))
        share = {
            "prob": 0.02 + 4 * p * (1 - p),
            "dist": 0.002 + p + 0.15 * (p > 0.1),
            "marker.1": 0.002 + p,
        }[name]
        said = one[f"{source} out"][0, rows].astype(np.float64)
        maps = other[f"{source} in"][0].astype(np.float64)
        said = by_places(said, said.shape[1] // maps.shape[1])
        share = by_places(share[None], share.shape[0] // maps.shape[1]).mean(axis=0).reshape(-1, 1)
        x = maps.reshape(len(maps), -1).T
        x = np.column_stack([x, np.ones(len(x))])
        gram = gram + x.T @ (share * x)
        right = right + x.T @ (share * said.reshape(len(said), -1).T)
    before = np.vstack([old.T, np.zeros(len(old))])
    # Some filters never say anything.
    held = 1e-3 * np.diag(np.diag(gram) + 1e-6 * np.diag(gram).mean())
    held[-1, -1] = 0
    found = np.linalg.solve(gram + held, right + held @ before)
    return (
        found[:-1].T[:, :, None, None].astype(np.float32), found[-1].astype(np.float32)
    )  # fmt: skip


def by_places(maps: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Maps (C, h, w) as (C step², h / step, w / step), the points of a square behind each other."""
    count, height, width = maps.shape
    squares = maps.reshape(count, height // step, step, width // step, step)
    return squares.transpose(0, 2, 4, 1, 3).reshape(-1, height // step, width // step)


def with_last_layers(
    config: StarDistConfig,
    weights: dict[str, NDArray[Any]],
    found: dict[str, NDArray[np.float32]],
    tiles: list[NDArray[np.uint8]],
) -> dict[str, NDArray[np.float32]]:
    """The numbers of a rounded detector with those of its last layers."""
    plain = seen_by(build_graph(config, weights), tiles)
    small = seen_by(build_graph(config, weights, found), tiles)
    result = dict(found)
    for name in ("prob", "dist", "marker.1"):
        parts = fitted(name, found[f"{name}.weight"], plain, small)
        result[f"{name}.weight"], result[f"{name}.bias"] = parts
        if f"{name}.scale" in found:
            result[f"{name}.scale"] = steps_of(parts[0])
    result[DIST_TOP] = np.array([MOST_PX], np.float32)
    if config.marker_features:
        seen = np.concatenate([s["marker.1 in"][0].reshape(config.n_marker_context, -1)
                               for s in small], axis=1)  # fmt: skip
        tops = FURTHER * np.quantile(seen, 1 - CUT_OFF, axis=1)
        result[FEATURES_TOP] = np.maximum(tops, tops.mean() / 100).astype(np.float32)
    return result


def steps_of(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Steps of a layer's weights, one for each filter, that use all of `SEVEN_BITS`."""
    return np.asarray(np.abs(weight).max(axis=(1, 2, 3)) / SEVEN_BITS, np.float32)


def lean_weights(file: Path, bundle: str) -> dict[str, NDArray[np.float32]]:
    """Of a lean copy (`recipes.he.lean_train`), by the names of a bundle's graph, in halves."""
    found = {}
    for name, values in load_file(file).items():
        room, _, rest = name.partition(".")
        if room == "net" and not (bundle == "he-v1-fast" and rest.startswith(OWN)):
            found[rest] = values
        elif room in OWN_OF_FAST and bundle == "he-v1-fast":
            found[f"{OWN_OF_FAST[room]}.{rest}"] = values
    return {name: values.astype(np.float16).astype(np.float32) for name, values in found.items()}


def stored(found: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Weights as the steps that they are rounded to; those that stay in float32 in halves."""
    result: dict[str, NDArray[Any]] = {}
    for key, values in found.items():
        name, _, kind = key.rpartition(".")
        if kind == "weight" and f"{name}.scale" in found and name not in ROUNDED_TWICE:
            steps = np.rint(values / found[f"{name}.scale"].reshape(-1, 1, 1, 1))
            result[key] = np.ascontiguousarray(steps.clip(-127, 127), np.int8)
        else:
            half = kind == "weight" and name not in LAST
            result[key] = np.ascontiguousarray(values, np.float16 if half else np.float32)
    return result


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--lean", type=Path, required=True, help="of recipes.he.lean_train")
    arguments = parser.parse_args()
    folder: Path = arguments.bundle
    table = tomllib.loads((folder / MANIFEST).read_text("utf-8"))
    detector = table["detector"]
    weights = load_file(folder / detector["file"])
    tiles = tiles_of(arguments.data, float(detector["mpp"]))
    config = StarDistConfig(**detector["network"])
    lean = lean_weights(arguments.lean, table["name"])
    found = with_last_layers(config, weights, rounded_numbers(config, weights, lean, tiles), tiles)
    (folder / FILE).write_bytes(save(stored(found)))
    table["files"][FILE] = sha256_of(folder / FILE)
    detector["int8"] = FILE
    # Numbers before tables: TOML's order.
    table["detector"] = {**{k: v for k, v in detector.items() if k != "network"},
                         "network": detector["network"]}  # fmt: skip
    (folder / MANIFEST).write_bytes(tomli_w.dumps(table).encode())
    print(f"{folder / FILE}: {len(found)} arrays from {len(tiles)} tiles")


if __name__ == "__main__":
    main()
