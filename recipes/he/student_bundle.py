r"""Put a student of `recipes.he.student` into bundles, in the place of their detector.

python -m recipes.he.student_bundle --data DIR --student RUN/student.safetensors --out DIR \
    [--weights weights] [--bundles he-v1-fast he-v2]

How it is decoded is chosen on CoNSeP's held-out training images, which it has not seen. Heads,
calibrations and operating points stay those of the bundle, which were made for its teacher: what
they are worth behind the student `benchmarks/quality.py` measures. Writes ``DIR/<name>-student``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from safetensors.torch import load_file, save

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.compute import channels_last
from lymphinfer.downloading import sha256_of
from lymphinfer.nuclei.datasets import read_folder
from lymphinfer.nuclei.stardist.network import StarDistNet, build_network
from recipes.he.detector import choose_decoding
from recipes.he.open_sets import CONSEP_HELD_OUT, split
from recipes.he.student import NETWORK
from recipes.he.student_data import MPP

FILE = "stardist.safetensors"


def student_of(file: Path) -> StarDistNet:
    """The network of a run, without batch normalisation."""
    net = build_network(replace(NETWORK, batch_norm=False))
    net.load_state_dict({k: v.float() for k, v in load_file(file).items()})
    return channels_last(net.eval())


def with_student(source: Path, folder: Path, net: StarDistNet, decoding: dict[str, Any]) -> None:
    """Write a bundle like another one, with a student as its detector and near network.

    Parameters
    ----------
    source : Path
        A bundle whose detector was the student's teacher.
    folder : Path
        Made if it is missing; its name is the bundle's.
    net : StarDistNet
        Stored in float16.
    decoding : dict
        ``prob_threshold``, ``nms_threshold`` and ``refine_at``.
    """
    table = tomllib.loads((source / "bundle.toml").read_text("utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    old = table["detector"]["file"]
    # How the teacher is computed in bytes says nothing of its student.
    for name in (old, table["detector"].get("int8")):
        table["files"].pop(name, None)
    for name in table["files"]:
        shutil.copyfile(source / name, folder / name)
    state = {k: v.half().contiguous() for k, v in net.state_dict().items()}
    (folder / FILE).write_bytes(save(state))
    # A head that reads no features near needs none of them.
    near = table["classifier"].get("near")
    network = replace(net.config, marker_features=near is not None).to_dict()
    table["name"] = folder.name
    table["files"] = {n: sha256_of(folder / n) for n in (FILE, *table["files"])}
    table["detector"] = {"kind": "stardist", "file": FILE, "mpp": MPP, **decoding}
    table["detector"]["network"] = network
    if near is not None:
        table["classifier"]["near"] = {"file": FILE, "mpp": MPP, "network": network}
    (folder / "bundle.toml").write_bytes(tomli_w.dumps(table).encode())


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="to choose how to decode; else as the bundle does"
    )
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--bundles", nargs="+", default=["he-v1-fast", "he-v2"])
    arguments = parser.parse_args()
    net = student_of(arguments.student)
    decoding: dict[str, Any] = {
        "prob_threshold": 0.5,
        "nms_threshold": 0.3,
        "refine_at": [0.3, 0.6],
    }
    if arguments.data:
        images = read_folder(arguments.data / "consep" / "train")
        held_out = split(images, CONSEP_HELD_OUT.__contains__)[1]
        decoding = choose_decoding(net, {"consep": held_out}, autocast=None)
        decoding["refine_at"] = list(decoding["refine_at"])
    print(json.dumps(decoding))
    for name in arguments.bundles:
        folder = arguments.out / f"{name}-student"
        with_student(arguments.weights / name, folder, net, decoding)
        load_bundle(str(folder))
        print(folder)


if __name__ == "__main__":
    main()
