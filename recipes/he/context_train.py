r"""Teach he-v2's marker context, in a lean copy, what the shipped one says: on maps in bytes.

python -m recipes.he.context_train --data DIR --crops student.npz --lean RUN/lean.safetensors \
    --out RUN/lean-context.safetensors
python -m recipes.he.int8 --data DIR --bundle weights/he-v2 --lean RUN/lean-context.safetensors

`recipes.he.lean_train` taught the context on maps in float32, all layers at once. What it reads in
bytes is another thing: of its features' power at nuclei 7 % was wrong, 4.5 % once taught by this.
Its layers read one pixel each, so that places drawn from changed crops are all that has to be kept;
the other layers stay as they are. Needs ``nncf``, as `recipes.he.int8` does.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.bundles.schema import MANIFEST
from lymphinfer.layers import SEVEN_BITS, Layers
from lymphinfer.nuclei.stardist.config import StarDistConfig
from lymphinfer.nuclei.stardist.graph import build_graph
from lymphinfer.runtime import CpuGraph
from recipes.he.int8 import lean_weights, rounded_numbers, tiles_of
from recipes.he.lean_train import rate_at
from recipes.he.student_data import MPP, Crops, unpack
from recipes.he.student_teacher import Teacher

NAME = "marker_context"
PARTS = {"near": 1, "blurred": 1, "outlines": 1, "coarse": 2, "around": 4}
"""Layers whose sum is read, and how much larger each one's map has to become."""
IN_BYTES = ("near", "blurred")
"""Of those, layers whose own weights are rounded."""
SIZE_PX, BATCH = 256, 8
NUCLEUS, WITHIN, BESIDE = 0.4, 110, 12
"""Places of a crop: so many where the probability is at least that, and elsewhere."""
HEAD_SHARE, PLACES, RATE = 0.7, 8192, 2e-3


class Places(nn.Module):
    """A narrow context at single places: what its parts read, in one row.

    Parameters
    ----------
    lean : dict of str to ndarray
        Weights by the names of the graph.
    """

    def __init__(self, lean: dict[str, Any]):
        super().__init__()

        def given(name: str) -> Tensor:
            values = torch.from_numpy(np.asarray(lean[f"{NAME}.{name}"], np.float32))
            return values.reshape(values.shape[:2]).clone()

        weights = [given(f"{part}.weight") for part in PARTS]
        self.widths = [w.shape[1] for w in weights]
        self.read = nn.Parameter(torch.cat(weights, dim=1))
        self.scale = torch.ones(self.read.shape[1])
        self.bias, self.out = (
            nn.Parameter(torch.from_numpy(np.asarray(lean[f"{NAME}.{n}.bias"], np.float32)).clone())
            for n in ("near", "out")
        )
        self.weight = nn.Parameter(given("out.weight"))

    def forward(self, rows: Tensor) -> Tensor:
        """(N, C) to features (N, 128)."""
        total = F.linear(rows, self.rounded(), self.bias)
        return F.relu(F.linear(total, self.weight, self.out))

    def learn_by(self, scale: Tensor) -> None:
        """Learn weights (32, C) times `scale` (C,), the spread of what is read."""
        with torch.no_grad():
            self.read.copy_(self.read * scale / self.scale)
        self.scale = scale

    def parts(self) -> dict[str, Tensor]:
        """Weights (32, c) of each part."""
        parts = (self.read / self.scale).split(self.widths, dim=1)
        return dict(zip(PARTS, parts, strict=True))

    def rounded(self) -> Tensor:
        """All parts' weights as they are computed with; gradients pass through the rounding."""
        found = []
        for part, weights in self.parts().items():
            if part in IN_BYTES:
                step = weights.detach().abs().amax(dim=1, keepdim=True) / SEVEN_BITS
                weights = weights + ((weights / step).round() * step - weights).detach()
            found.append(weights)
        return torch.cat(found, dim=1)

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """By the names of the graph."""
        found = {f"{p}.weight": w.detach()[:, :, None, None] for p, w in self.parts().items()}
        found["near.bias"], found["out.bias"] = self.bias.detach(), self.out.detach()
        found["out.weight"] = self.weight.detach()[:, :, None, None]
        return {f"{NAME}.{k}": np.ascontiguousarray(v.numpy()) for k, v in found.items()}


def reader_of(config: StarDistConfig, weights: Any, int8: Any) -> CpuGraph:
    """What a context's parts read in bytes, each on the head's grid."""
    model = build_graph(config, weights, int8)
    named = {op.get_friendly_name(): op for op in model.get_ordered_ops()}
    tools = Layers({})
    nodes = []
    for part, times in PARTS.items():
        x = named[f"{NAME}.{part}"].input_value(0)
        if part == "blurred":
            # A mean of sums is the sum of means.
            x = tools.mean(x, 3, stride=1).output(0)
        nodes.append(x if times == 1 else tools.larger(x, times, "bilinear").output(0))
    results = [opset13.result(node) for node in nodes]
    return CpuGraph(openvino.Model(results, model.get_parameters(), "parts"), "fp32")


@torch.no_grad()
def places_of(
    reader: CpuGraph, teacher: Teacher, crops: Crops, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What is read at places of changed crops, what the teacher says, and its probability.

    Returns
    -------
    rows : Tensor, (N, C)
    near : Tensor, (N, 128)
    prob : Tensor, (N, 1)
    """
    rows, near, probs = [], [], []
    for start in range(0, count, BATCH):
        crops.strength = 1.0 if start // BATCH % 2 else 0.4
        x, _, _ = crops.draw(BATCH)
        told = teacher.logits(x)
        p = F.avg_pool2d(told.prob.sigmoid()[:, None], 2)[:, 0].flatten(1)
        pixels = (x * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        for i in range(len(x)):
            maps = [torch.from_numpy(m[0].copy()).flatten(1) for m in reader(pixels[i : i + 1])]
            order = torch.randperm(p.shape[1])
            inside = p[i][order] >= NUCLEUS
            at = torch.cat([order[inside][:WITHIN], order[~inside][:BESIDE]])
            rows.append(torch.cat(maps)[:, at].T.half())
            near.append(told.near[i].flatten(1)[:, at].T.half())
            probs.append(p[i][at, None])
    return torch.cat(rows), torch.cat(near), torch.cat(probs)


def teach(net: Places, seen: tuple[Tensor, Tensor, Tensor], reader: Tensor, steps: int) -> Places:
    """Let a context say what the teacher says.

    Parameters
    ----------
    net : Places
    seen : tuple of Tensor
        Of `places_of`.
    reader : Tensor, (K, 128)
        What he-v2's head makes of near features first.
    steps : int
    """
    rows, near, prob = (values.float() for values in seen)
    own, read = (_spread(values) for values in (near, near @ reader.T))
    net.learn_by(_spread(rows))
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_at(step / steps)
        some = torch.randint(len(rows), (PLACES,))
        error = net(rows[some]) - near[some]
        share = 0.05 + prob[some]
        share = share / share.sum()
        of_near = (share * (error / own).square()).sum(dim=0).mean()
        of_head = (share * (error @ reader.T / read).square()).sum(dim=0).mean()
        loss = (1 - HEAD_SHARE) * of_near + HEAD_SHARE * of_head
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def _spread(values: Tensor) -> Tensor:
    std = values.std(dim=0)
    return std.clamp(min=0.2 * float(std.mean()))


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--crops", type=Path, required=True)
    parser.add_argument("--lean", type=Path, required=True, help="of recipes.he.lean_train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--pool", type=int, default=2224, help="crops")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    folder = arguments.weights / "he-v2"
    detector = tomllib.loads((folder / MANIFEST).read_text("utf-8"))["detector"]
    config, weights = StarDistConfig(**detector["network"]), load_file(folder / detector["file"])
    lean = lean_weights(arguments.lean, "he-v2")
    int8 = rounded_numbers(config, weights, lean, tiles_of(arguments.data, MPP))
    crops = Crops(unpack(arguments.crops), SIZE_PX, torch.device("cpu"), arguments.seed)
    teacher = Teacher(arguments.weights).eval()
    seen = places_of(reader_of(config, weights, int8), teacher, crops, arguments.pool)
    net = teach(Places(lean), seen, teacher.reader[:, :, 0, 0], arguments.steps)
    found = load_file(arguments.lean) | {f"net.{k}": v for k, v in net.weights().items()}
    save_file(found, arguments.out)


if __name__ == "__main__":
    main()
