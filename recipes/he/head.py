r"""Learn the head that reads both scales, say what it is worth, and write the bundle.

python -m recipes.he.head logits --slide DIR --data DIR --near RUN --far RUN_A RUN_B RUN_C --out RUN
python -m recipes.he.head fit    --near RUN --out RUN [--validate]
python -m recipes.he.head bundle --slide DIR --near RUN --far RUN_A --out RUN --weights weights

The first gives each labelled nucleus the far logits of a network that has not seen its column or
its image, so that the head learns how far to trust them. Each far run states what it held out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.markers.calibration import Calibration, fit_calibration
from lymphinfer.markers.far_scale import FarNet
from lymphinfer.markers.two_scale import FarScale, TwoScaleConfig, TwoScaleHead, mirrored
from lymphinfer.nuclei.augment import perturb_optics, perturb_stain
from recipes.he.crc01 import (
    MARKERS,
    PARENTS,
    SINGLE_GATES,
    TILE_PX,
    TiledSlide,
    hard_labels,
    read_slide,
)
from recipes.he.far import OUTPUTS, features_of, load_trained
from recipes.he.far_data import CHANNELS
from recipes.he.near import CHANGES
from recipes.he.near_sets import CONSEP_HELD_OUT, SETS, RawImage, at_mpp, read_raw

FAR_ALONE = 60_000
"""Nuclei of the slide that the head sees by the far scale alone."""
SHARES = {"consep": 1.0, "brca": 1.0, "nuinsseg": 0.15, "c01": 1.0, "far": 0.6}
"""Weight of each set's nuclei in all."""
BATCH, EPOCHS, RATE, DECAY = 1024, 5, 1.5e-3, 0.05
DROPOUT_NEAR, MISSING = 0.3, 0.12
DOUBT = (0.02, 0.04)
"""Shares of the negative and of the positive labels that are taken to be wrong."""
FOLDS = 6


@dataclass(frozen=True)
class FarRun:
    """A trained far network, what it has not seen, and its logits brought to real frequencies."""

    net: FarNet
    held_out: tuple[int, ...]
    other_part: int | None
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits, (N, outputs)."""
        return logits * self.scale + self.offset


def output_labels(slide: TiledSlide, index: NDArray[np.integer]) -> NDArray[np.int8]:
    """Labels of every output of the far network, -1 where unknown or not given the parent."""
    channels = hard_labels(slide, CHANNELS)[index]
    given = []
    for child, parent in PARENTS.items():
        c, p = CHANNELS.index(child), CHANNELS.index(parent)
        given.append(np.where(channels[:, p] == 1, channels[:, c], -1))
    return np.concatenate([channels, np.stack(given, axis=1)], axis=1).astype(np.int8)


def read_run(folder: Path, slide: TiledSlide, device: str) -> FarRun:
    """A run of `recipes.he.far`, calibrated on the columns that it held out."""
    settings = json.loads((folder / "settings.json").read_text())
    net = load_trained(folder).net.to(device).eval()
    held_out = tuple(settings["held_out"])
    kept = folder / "calibration.json"
    if not kept.exists():
        index, features = features_of(net, slide, held_out, device=device, half=True)
        logits = told(net, features)
        labels = output_labels(slide, index)
        found = [fit_calibration(logits[:, i], labels[:, i]) for i in range(len(OUTPUTS))]
        np.savez(folder / "held_out.npz", index=index, logits=logits)
        kept.write_text(json.dumps([[c.scale, c.offset] for c in found]))
    scale, offset = np.array(json.loads(kept.read_text()), np.float32).T
    return FarRun(net, held_out, settings["other_part"], scale, offset)


@torch.inference_mode()
def told(net: FarNet, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of far features."""
    where = next(net.parameters()).device
    logits: NDArray[np.float32] = net.tell(torch.from_numpy(features).to(where)).cpu().numpy()
    return logits


def far_pixels(
    image: RawImage, slide: TiledSlide, far: FarScale
) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[float, float]]:
    """Pixels around an image at the far scale, their corner, and the image's corner, far px."""
    if image.place is None:
        small = at_mpp(image.pixels, image.mpp, far.mpp)
        height, width = small.shape[:2]
        box = far.box(0, 0, width, height)
        return mirrored(small, box, (width, height)), box[:2], (0.0, 0.0)
    side = image.pixels.shape[0] * image.mpp / far.mpp
    x, y = image.place
    box = far.box(x, y, x + side, y + side)
    height, width = slide.he.shape[:2]
    part = slide.he[max(box[1], 0) : box[3], max(box[0], 0) : box[2]]
    return mirrored(part, box, (width, height)), box[:2], image.place


def far_logits(
    near: dict[str, NDArray[Any]],
    images: Sequence[RawImage],
    slide: TiledSlide,
    runs: Sequence[FarRun],
    device: str,
) -> NDArray[np.float32]:
    """Far logits of a set's nuclei, copy by copy, of a run that has not seen them."""
    rng = np.random.default_rng(1)
    found = np.full((len(near["labels"]), len(OUTPUTS)), np.nan, np.float32)
    for number, image in enumerate(images):
        run = run_for(image, number, runs)
        far = FarScale(run.net, device=device, autocast=torch.bfloat16)
        pixels, origin, corner = far_pixels(image, slide, far)
        for copy in np.unique(near["copy"]):
            rows = np.flatnonzero((near["image"] == number) & (near["copy"] == copy))
            if not len(rows):
                continue
            changed = pixels
            if copy:
                changed = perturb_optics(perturb_stain(pixels, rng, CHANGES), rng, CHANGES)
            centers = near["center_um"][rows] / far.mpp + np.array(corner, np.float32)
            found[rows] = run(far.infer(changed, origin).at(centers))
    return found


def run_for(image: RawImage, number: int, runs: Sequence[FarRun]) -> FarRun:
    """The first run that has seen neither the image nor its column of the slide."""
    if image.place is not None:
        column = int(image.place[0] // TILE_PX)
        return next(run for run in runs if column in run.held_out)
    if image.name.startswith("nuinsseg/"):
        return runs[0]
    # The order of the sets in training: BRCA-M2C, then CoNSeP without its held-out images.
    return next(r for r in runs if r.other_part is not None and r.other_part == number % 2)


def collect_logits(arguments: argparse.Namespace) -> None:
    """Far logits of every set and of nuclei that only the far scale sees."""
    slide = read_slide(arguments.slide)
    runs = [read_run(folder, slide, arguments.device) for folder in arguments.far]
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        file = out / f"far_{name}.npy"
        if file.exists():
            continue
        with np.load(arguments.near / f"{name}.npz") as data:
            near = {k: data[k] for k in ("labels", "image", "copy", "center_um")}
        images = list(read_raw(arguments.data, name))
        np.save(file, far_logits(near, images, slide, runs, arguments.device))
        print(f"far logits of {name}: {len(near['labels'])}", flush=True)
    rng = np.random.default_rng(2)
    logits, labels = [], []
    gated = np.stack([slide.values[m] >= SINGLE_GATES[m] for m in MARKERS], axis=1)
    for folder, run in zip(arguments.far[1:] or arguments.far, runs[1:] or runs, strict=True):
        with np.load(folder / "held_out.npz") as data:
            chosen = rng.permutation(len(data["index"]))[: FAR_ALONE // max(1, len(runs) - 1)]
            logits.append(run(data["logits"][chosen]))
            labels.append(gated[data["index"][chosen]].astype(np.int8))
    np.savez(out / "far_alone.npz", logits=np.concatenate(logits), labels=np.concatenate(labels))


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
    """CD45, and each child by the product with its parent and given its parent."""
    known = (labels >= 0).float() * weights[:, None]
    soft = DOUBT[0] + labels.clamp(min=0) * (1 - sum(DOUBT))
    log_p = F.logsigmoid(logits)
    joint = [log_p[:, 0]]
    for child, parent in PARENTS.items():
        joint.append(joint[MARKERS.index(parent)] + log_p[:, MARKERS.index(child)])
    total = logits.new_zeros(())
    for i, log_joint in enumerate(joint):
        log_not = torch.log1p(-log_joint.exp().clamp(max=1 - 1e-6))
        each = -(soft[:, i] * log_joint + (1 - soft[:, i]) * log_not)
        total = total + (each * known[:, i]).sum() / known[:, i].sum().clamp(min=1e-9)
    for child, parent in PARENTS.items():
        c, p = MARKERS.index(child), MARKERS.index(parent)
        weight = known[:, c] * (labels[:, p] == 1)
        each = F.binary_cross_entropy_with_logits(logits[:, c], soft[:, c], reduction="none")
        total = total + (each * weight).sum() / weight.sum().clamp(min=1e-9)
    return total


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
            schedule.step()
            step += 1
    with torch.no_grad():
        trainee.first.weight.copy_(base + change / deviation)
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


def calibrations(
    logits: NDArray[np.floating], labels: NDArray[np.integer], weights: NDArray[np.floating]
) -> list[Calibration]:
    """Of CD45, and of each child so that its product with the parent fits (weighted)."""
    from scipy.optimize import minimize

    found = [fit_calibration(logits[:, 0], labels[:, 0], weights)]
    p = [found[0](logits[:, 0])]
    for child, parent in PARENTS.items():
        c = MARKERS.index(child)
        known = labels[:, c] >= 0
        x, y, w = logits[known, c], labels[known, c], weights[known]
        above = p[MARKERS.index(parent)][known]

        def loss(
            theta: NDArray[np.float64],
            x: NDArray[Any] = x,
            y: NDArray[Any] = y,
            w: NDArray[Any] = w,
            above: NDArray[Any] = above,
        ) -> float:
            product = np.clip(above / (1 + np.exp(-(theta[0] * x + theta[1]))), 1e-6, 1 - 1e-6)
            each = y * np.log(product) + (1 - y) * np.log(1 - product)
            # A slope far from 1 is noise of a few nuclei.
            return float(-(w * each).sum() / w.sum() + 0.02 * (theta[0] - 1) ** 2)

        best = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
        found.append(Calibration(float(best[0]), float(best[1])))
        p.append(found[-1](logits[:, c]) * p[MARKERS.index(parent)])
    return found


@dataclass(frozen=True)
class Validation:
    """Probabilities on nuclei that were not trained on, with the labels of single gates."""

    name: str
    p: NDArray[np.float64]
    labels: NDArray[np.int8]
    weights: NDArray[np.float64]


def single_gate_labels(data: Path, near: dict[str, NDArray[Any]]) -> NDArray[np.int8]:
    """Labels (N, 4) of the C01 rows by one gate a marker, none unknown."""
    from lymphinfer.nuclei.metrics import pair_centroids
    from recipes.he.near_sets import PAIRING_UM, read_placement, read_tile

    labels = np.full((len(near["labels"]), len(MARKERS)), -1, np.int8)
    for number, (file, _) in enumerate(read_placement(data / "orion-c01-tiles")):
        points, values = read_tile(file.with_suffix(".csv"))
        rows = np.flatnonzero(near["image"] == number)
        for copy in np.unique(near["copy"][rows]):
            here = rows[near["copy"][rows] == copy]
            pairs = pair_centroids(points * 0.5, near["center_um"][here], PAIRING_UM)
            for i, name in enumerate(MARKERS):
                gated = values[name][pairs.truth] >= SINGLE_GATES[name]
                labels[here[pairs.predicted], i] = gated
    return labels


def real_frequency(labels: NDArray[np.integer], share: float) -> NDArray[np.float64]:
    """Weights that bring positives to a share of all; 0 where unknown."""
    positive, negative = labels == 1, labels == 0
    weights = np.zeros(len(labels))
    weights[positive] = share / max(1, positive.sum())
    weights[negative] = (1 - share) / max(1, negative.sum())
    return weights * (positive | negative).sum()


def rates(
    p: NDArray[np.floating],
    y: NDArray[np.integer],
    w: NDArray[np.floating],
    cuts: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall at thresholds, weighted."""
    order = np.argsort(p)
    p, y, w = p[order], y[order], w[order]
    first = np.searchsorted(p, cuts)
    right = np.concatenate([np.cumsum((w * (y == 1))[::-1])[::-1], [0.0]])[first]
    called = np.concatenate([np.cumsum((w * (y >= 0))[::-1])[::-1], [0.0]])[first]
    return right / np.maximum(called, 1e-12), right / max((w * (y == 1)).sum(), 1e-12)


def operating_points(
    sets: Sequence[Validation], marker: int, *, least_precision: float = 0.5
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Thresholds of a marker: `balanced` by the worst F1 over the sets, the others by rates.

    The first set is the stain's: its precision and recall are stated. A marker that no threshold
    calls with `least_precision` at a recall of a third has no points.
    """
    cuts = np.linspace(0.02, 0.98, 193)
    found = [rates(s.p[:, marker], s.labels[:, marker], s.weights, cuts) for s in sets]
    f1 = np.min([2 * a * b / np.maximum(a + b, 1e-9) for a, b in found], axis=0)
    precision, recall = found[0]
    lines = []
    balanced = int(np.argmax(f1))
    able = (precision >= least_precision) & (recall >= 1 / 3)
    if not able.any():
        return {}, [f"no threshold has precision {least_precision} and recall .33"]
    if not able[balanced]:
        balanced = int(np.flatnonzero(able)[np.argmax(f1[able])])
    worst_precision = np.min([a for a, _ in found], axis=0)
    worst_recall = np.min([b for _, b in found], axis=0)
    goal = min(0.9, 0.5 * (1 + float(worst_precision[balanced])))
    higher = np.flatnonzero((np.arange(len(cuts)) > balanced) & (worst_precision >= goal))
    higher = higher[recall[higher] >= 0.15]
    precise = (
        int(higher[0])
        if len(higher)
        else balanced
        + int(np.argmax(np.where(recall[balanced:] >= 0.15, worst_precision[balanced:], -1)))
    )
    lower = np.flatnonzero((np.arange(len(cuts)) < balanced) & (worst_recall >= 0.85))
    sensitive = int(lower[-1]) if len(lower) else int(np.flatnonzero(cuts < cuts[balanced] / 2)[-1])
    points = {}
    for name, i in (("precise", precise), ("balanced", balanced), ("sensitive", sensitive)):
        points[name] = {
            "threshold": round(float(cuts[i]), 3),
            "precision": round(float(precision[i]), 3),
            "recall": round(float(recall[i]), 3),
        }
        others = ", ".join(
            f"{s.name} {a[i]:.2f} / {b[i]:.2f}" for s, (a, b) in zip(sets, found, strict=True)
        )
        lines.append(f"{name} from {cuts[i]:.3f}: precision / recall {others}")
    return points, lines


def settle_alone(
    head: TwoScaleHead,
    found: Sequence[Calibration],
    far: NDArray[np.float32],
    labels: NDArray[np.integer],
) -> None:
    """Let the value for a missing near scale give the stain's frequencies on held-out columns."""
    target = torch.from_numpy(np.asarray(labels, np.float32))
    x = torch.from_numpy(far)
    scale = torch.tensor([c.scale for c in found], dtype=torch.float32)
    offset = torch.tensor([c.offset for c in found], dtype=torch.float32)
    missing = head.without_near
    optimizer = torch.optim.Adam([missing], 0.02)
    began = missing.detach().clone()
    for _ in range(150):
        chosen = torch.randperm(len(x))[:20_000]
        p = torch.sigmoid(head(None, x[chosen]) * scale + offset)
        joint = [p[:, 0]]
        for child, parent in PARENTS.items():
            joint.append(joint[MARKERS.index(parent)] * p[:, MARKERS.index(child)])
        product = torch.stack(joint, dim=1).clamp(1e-6, 1 - 1e-6)
        loss = F.binary_cross_entropy(product, target[chosen])
        loss = loss + 1e-3 * (missing - began).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
