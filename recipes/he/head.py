r"""Learn the head that reads both scales, and say what it is worth.

python -m recipes.he.head --near RUN --out RUN

RUN/near has what `recipes.he.near` has read, RUN what `recipes.he.far_logits` has. Writes
``scores.json`` and ``out_of_fold.npz``, whose C01 tiles and held-out images were each told by a
head that had not seen them, and ``head.safetensors``, which has seen all.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.markers.configs import TwoScaleConfig
from lymphinfer.markers.two_scale_head import TwoScaleHead
from recipes.he.crc01 import MARKERS, PARENTS
from recipes.he.far import OUTPUTS
from recipes.he.near_sets import SETS
from recipes.he.open_sets import CONSEP_HELD_OUT

SHARES = {"consep": 1.0, "brca": 1.0, "nuinsseg": 0.15, "c01": 1.0, "far": 0.6}
"""Weight of each set's nuclei in all."""
BATCH, EPOCHS, RATE, DECAY = 1024, 5, 1.5e-3, 0.05
DROPOUT_NEAR, MISSING = 0.3, 0.12
DOUBT = (0.02, 0.04)
"""Shares of the negative and of the positive labels that are taken to be wrong."""
FAR_MORE = 0.2
"""Added to the weight of what the far scale says of CD45: see `trust_far`."""
FOLDS = 6


class HeadTrainee(nn.Module):
    """The layer of the marker head that reads the detector's maps, and the head on top."""

    def __init__(self, first: nn.Linear, config: TwoScaleConfig):
        super().__init__()
        self.first = first
        self.drop = nn.Dropout(DROPOUT_NEAR)
        self.head = TwoScaleHead(config)

    def near(self, values: Tensor) -> Tensor:
        """Vectors (N, K, D) at points of nuclei to near features (N, near)."""
        return F.relu(self.first(values)).mean(dim=1)

    def forward(self, values: Tensor, far: Tensor) -> Tensor:
        """Logits; rows of NaN are missing."""
        missing = values[:, 0, 0].isnan()
        near = self.drop(self.near(values.nan_to_num()))
        near = torch.where(missing[:, None], torch.nan, near)
        logits: Tensor = self.head(near, far)
        return logits


@dataclass
class Rows:
    """Labelled nuclei of all sets."""

    values: Tensor
    far: Tensor
    labels: Tensor
    weights: Tensor
    group: NDArray[np.str_]
    copy: NDArray[np.int64]


def read_rows(near: Path, out: Path) -> Rows:
    """Everything that `fit` learns from."""
    values, far, labels, weights, groups, copies = [], [], [], [], [], []
    for name in SETS:
        with np.load(near / f"{name}.npz") as data:
            values.append(torch.from_numpy(data["values"]))
            labels.append(torch.from_numpy(data["labels"]).float())
            own = data["weights"]
            weights.append(torch.from_numpy(own * (SHARES[name] / own.sum())))
            groups.append(data["names"][data["image"]])
            copies.append(data["copy"])
        far.append(torch.from_numpy(np.load(out / f"far_{name}.npy")))
    with np.load(out / "far_alone.npz") as data:
        count = len(data["logits"])
        far.append(torch.from_numpy(data["logits"]))
        labels.append(torch.from_numpy(data["labels"]).float())
    values.append(torch.full((count, *values[0].shape[1:]), torch.nan, dtype=torch.float16))
    weights.append(torch.full((count,), SHARES["far"] / count))
    groups.append(np.full(count, "far"))
    copies.append(np.zeros(count, np.int64))
    return Rows(
        torch.cat(values), torch.cat(far), torch.cat(labels), torch.cat(weights).float(),
        np.concatenate(groups), np.concatenate(copies),
    )  # fmt: skip


def begin(near: Path) -> HeadTrainee:
    """A head that starts from the shipped marker head and from what the far network says."""
    with np.load(near / "reader.npz") as data:
        weight, bias, last = (torch.from_numpy(data[k]) for k in ("weight", "bias", "last"))
    first = nn.Linear(weight.shape[1], weight.shape[0])
    config = TwoScaleConfig(MARKERS, near=weight.shape[0], far=len(OUTPUTS))
    trainee = HeadTrainee(first, config)
    head = trainee.head
    with torch.no_grad():
        first.weight.copy_(weight)
        first.bias.copy_(bias)
        for layer in (head.out, head.near_out, head.far_out):
            layer.weight.zero_()
        head.out.bias.zero_()
        head.near_out.weight[0] = 0.5 * last[0]
        head.far_out.weight[0, OUTPUTS.index(MARKERS[0])] = 0.5
        for i, (child, parent) in enumerate(PARENTS.items()):
            head.far_out.weight[i + 1, OUTPUTS.index(f"{child} given {parent}")] = 1.0
    return trainee


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """CD45 of all nuclei, and each child of those that carry its parent.

    A child is not learned from nuclei without its parent: their number would turn it into a second
    CD45.
    """
    known = (labels >= 0).float() * weights[:, None]
    soft = DOUBT[0] + labels.clamp(min=0) * (1 - sum(DOUBT))
    for child, parent in PARENTS.items():
        known[:, MARKERS.index(child)] *= labels[:, MARKERS.index(parent)] == 1
    each = F.binary_cross_entropy_with_logits(logits, soft, reduction="none") * known
    return (each.sum(0) / known.sum(0).clamp(min=1e-9)).sum()


@torch.no_grad()
def leave_children_to_far(head: TwoScaleHead, far_began: Tensor) -> None:
    """Undo a step where the far scale alone speaks: for every child.

    Only the C01 tiles, 2,000 nuclei, show children near, and what was learned there said, tile by
    tile, less than nothing (CD3e given CD45: AUROC .56 instead of .72). The far scale has learned
    them on hundreds of thousands. Nor do the tiles give them an offset: calibration does, and until
    then it only set the nuclei of one fold apart from those of another.
    """
    for i, name in enumerate(MARKERS):
        if name in PARENTS:
            head.far_out.weight[i] = far_began[i]
            head.near_out.weight[i] = 0
            head.out.weight[i] = 0
            head.out.bias[i] = 0


@torch.no_grad()
def trust_far(head: TwoScaleHead, more: float = FAR_MORE) -> None:
    """Let what the far scale says of CD45 weigh more than the head has learned; in place.

    Most of what the head learns from are images of other laboratories, where near says nearly all.
    On the slide's tiles the children, which are the far scale's, lose by a parent that knows less
    of the surroundings than they do. `FAR_MORE` is where tiles in columns that the far network has
    not seen, and BRCA-M2C's held-out images, have the highest AUROC for CD45.

    Parameters
    ----------
    head : TwoScaleHead
    more : float
        Added to the weight; 0 leaves the head as it is.
    """
    name = MARKERS[0]
    head.far_out.weight[0, OUTPUTS.index(name)] += more


def fit(rows: Rows, train: NDArray[np.bool_], near: Path, seed: int = 0) -> HeadTrainee:
    """Learn the head on some of the rows."""
    torch.manual_seed(seed)
    trainee = begin(near)
    some = rows.values[torch.from_numpy(np.flatnonzero(train))[::97]].float()
    deviation = some[~some[:, 0, 0].isnan()].std(dim=(0, 1)) + 0.05
    # Small inputs get no larger step than large ones.
    base = trainee.first.weight.detach().clone()
    change = nn.Parameter(torch.zeros_like(base))
    slow = [change, trainee.first.bias]
    fast = [p for n, p in trainee.named_parameters() if not n.startswith("first.")]
    index = torch.from_numpy(np.flatnonzero(train))
    batches = EPOCHS * (len(index) // BATCH)
    optimizer = torch.optim.AdamW(
        [{"params": slow, "lr": 0.3 * RATE}, {"params": fast, "lr": RATE}], weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [0.3 * RATE, RATE], total_steps=batches
    )
    far_began = trainee.head.far_out.weight.detach().clone()
    trainee.train()
    step = 0
    while step < batches:
        for drawn in index[torch.randperm(len(index))].split(BATCH):
            if step >= batches:
                break
            values, far = rows.values[drawn].float(), rows.far[drawn].clone()
            both = ~values[:, 0, 0].isnan()
            lot = torch.rand(len(drawn))
            values[both & (lot < MISSING)] = torch.nan
            far[both & (lot > 1 - MISSING)] = torch.nan
            weight = base + change / deviation
            near_in = F.relu(F.linear(values.nan_to_num(), weight, trainee.first.bias)).mean(1)
            near_in = trainee.drop(near_in)
            near_in = torch.where(values[:, 0, :1].isnan(), torch.nan, near_in)
            loss = loss_of(trainee.head(near_in, far), rows.labels[drawn], rows.weights[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            leave_children_to_far(trainee.head, far_began)
            schedule.step()
            step += 1
    with torch.no_grad():
        trainee.first.weight.copy_(base + change / deviation)
    trust_far(trainee.head)
    return trainee.eval()


@torch.inference_mode()
def predict(trainee: HeadTrainee, rows: Rows, chosen: NDArray[np.integer]) -> NDArray[np.float32]:
    """Logits of rows."""
    parts = [
        trainee(rows.values[part].float(), rows.far[part])
        for part in torch.from_numpy(chosen).split(8192)
    ]
    return torch.cat(parts).numpy()


def joint_probability(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Marginals by the product down the lineage."""
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    for child, parent in PARENTS.items():
        p[:, MARKERS.index(child)] *= p[:, MARKERS.index(parent)]
    return p


def aurocs(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, float]:
    """AUROC of every marker whose labels are both there, and given the parent."""
    p = joint_probability(logits)
    found = {}
    for i, name in enumerate(MARKERS):
        known = labels[:, i] >= 0
        if len(np.unique(labels[known, i])) == 2:
            found[name] = float(roc_auc_score(labels[known, i], p[known, i]))
    for child, parent in PARENTS.items():
        c, q = MARKERS.index(child), MARKERS.index(parent)
        known = (labels[:, c] >= 0) & (labels[:, q] == 1)
        if len(np.unique(labels[known, c])) == 2:
            found[f"{child} given {parent}"] = float(
                roc_auc_score(labels[known, c], logits[known, c])
            )
    return {k: round(v, 4) for k, v in found.items()}


def is_validation(group: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Held-out images of the open sets: CoNSeP's three, BRCA-M2C's of one hospital."""
    consep = np.isin(group, [f"consep/{name}" for name in CONSEP_HELD_OUT])
    return consep | np.char.startswith(group, "brca/TCGA-A8")


def cross_validated(rows: Rows, near: Path) -> dict[str, Any]:
    """Logits of the C01 tiles, each by a head that has not seen it, and of the held-out images."""
    tiles = np.unique(rows.group[np.char.startswith(rows.group, "c01/")])
    fold = dict(zip(tiles, np.random.default_rng(0).permutation(len(tiles)) % FOLDS, strict=True))
    of_row = np.array([fold.get(g, -1) for g in rows.group])
    validation = is_validation(rows.group)
    plain = rows.copy == 0
    found = np.full((len(rows.group), len(MARKERS)), np.nan, np.float32)
    for k in range(FOLDS):
        trainee = fit(rows, (of_row != k) & ~validation, near, seed=k)
        chosen = np.flatnonzero((of_row == k) & plain)
        found[chosen] = predict(trainee, rows, chosen)
        if k == 0:
            held = np.flatnonzero(validation & plain)
            found[held] = predict(trainee, rows, held)
    labels = rows.labels.numpy().astype(np.int8)
    result = {}
    for name, prefix in (("c01", "c01/"), ("consep", "consep/"), ("brca", "brca/")):
        chosen = np.flatnonzero(
            np.char.startswith(rows.group, prefix) & np.isfinite(found[:, 0]) & plain
        )
        result[name] = {"n": len(chosen), **aurocs(found[chosen], labels[chosen])}
    return {"scores": result, "logits": found}


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--near", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_rows(arguments.near, arguments.out)
    found = cross_validated(rows, arguments.near)
    print(json.dumps(found["scores"], indent=1), flush=True)
    (arguments.out / "scores.json").write_text(json.dumps(found["scores"], indent=1) + "\n")
    np.savez(arguments.out / "out_of_fold.npz", logits=found["logits"])
    trainee = fit(rows, np.ones(len(rows.group), bool), arguments.near)
    state = {k: v.contiguous() for k, v in trainee.state_dict().items()}
    save_file(state, arguments.out / "head.safetensors")


if __name__ == "__main__":
    main()
