r"""HoVer-Net: a short training, parity with TIAToolbox's engine, and dense against patch features.

python benchmarks/hovernet.py train  --data DIR --out RUN [--steps 400] [--width 8] [--mpp 0.5]
python benchmarks/hovernet.py parity --data DIR --out RUN [--images 2]
python benchmarks/hovernet.py dense  --data DIR --out RUN [--images 14]

DIR holds consep/train and consep/test. RUN is the folder of `train`; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

from lymphinfer.compute import channels_last, half_type
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.dense import CELL_PX, DenseMarkers, pool_windows
from lymphinfer.markers.hovernet import HoVerNetFeatures, features_state
from lymphinfer.markers.patches import cut_patches
from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder
from lymphinfer.nuclei.hovernet.decode import instance_map
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.hovernet.infer import predict_maps
from lymphinfer.nuclei.hovernet.network import STRIDE_PX, HoVerNetConfig, build_network
from lymphinfer.training.detectors.hovernet import TYPES, HoVerNetTrainer, HoVerNetTraining, segment
from lymphinfer.training.detectors.stardist import resample

PATCH_PX = 112
CANVAS_PX = 128
CPU = torch.device("cpu")


def config_of(run: Path) -> HoVerNetTraining:
    values = json.loads((run / "config.json").read_text())
    network = HoVerNetConfig(**{**values["network"], "types": tuple(values["network"]["types"])})
    keep = ("mpp", "crop_px", "batch_size", "steps")
    return HoVerNetTraining(network=network, **{k: values[k] for k in keep})


def trained(run: Path) -> tuple[nn.Module, HoVerNetTraining]:
    config = config_of(run)
    net = build_network(config.network)
    state = load_file(run / "state.safetensors")
    prefix = "average."
    net.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if prefix in k})
    return channels_last(net.eval()), config


def train(data: Path, run: Path, steps: int, width: int, mpp: float, batch: int) -> dict[str, Any]:
    images = read_folder(data / "consep" / "train")
    config = HoVerNetTraining(
        network=HoVerNetConfig("fast", TYPES, width),
        mpp=mpp,
        steps=steps,
        batch_size=batch,
        learning_rate=2e-3,
        ema_decay=0.99,
        validate_every=20,
        bf16=half_type(CPU) is torch.bfloat16,
    )
    began = time.perf_counter()
    HoVerNetTrainer(config, run).fit(images)
    seconds = time.perf_counter() - began
    net, _ = trained(run)
    test = read_folder(data / "consep" / "test")
    score, found = segment(net, config.network, test, mpp=mpp, autocast=half_type(CPU))
    return {
        "images": len(test),
        "annotated": sum(i.n_nuclei for i in test),
        "found": int(sum(f.max(initial=0) for f in found)),
        "training_seconds": round(seconds),
        **asdict(score),
    }


PATCH_SIDES = {"fast": (256, 164), "original": (270, 80)}


def one_patch(image: NDArray[np.uint8], config: HoVerNetConfig) -> tuple[int, int]:
    """Sides of input and output of a patch that covers an image."""
    geometry = config.geometry
    wanted = max(image.shape[:2]) + geometry.lost_px
    side = -(-(wanted - geometry.odd_px) // STRIDE_PX) * STRIDE_PX + geometry.odd_px
    return side, side - geometry.lost_px


def tiatoolbox_instances(
    net: nn.Module, image: NDArray[np.uint8], config: HoVerNetConfig, side: tuple[int, int]
) -> NDArray[np.int32]:
    """Instances (H, W) by TIAToolbox's own engine: its patches, merging and post-processing.

    `side` is that of a patch's input and of its output, px.
    """
    from tiatoolbox.models.engine.io_config import IOInstanceSegmentorConfig
    from tiatoolbox.models.engine.multi_task_segmentor import MultiTaskSegmentor

    outputs = 3 if config.types else 2
    at = {"units": "baseline", "resolution": 1.0}
    ioconfig = IOInstanceSegmentorConfig(
        input_resolutions=[at],
        output_resolutions=[at] * outputs,
        margin=128,
        # One tile: the post-processing stretches gradients to the range of what it is given.
        tile_shape=[4096, 4096],
        patch_input_shape=[side[0]] * 2,
        patch_output_shape=[side[1]] * 2,
        stride_shape=[side[1]] * 2,
        save_resolution=at,
    )
    engine = MultiTaskSegmentor(model=net, batch_size=1, num_workers=0, device="cpu", verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        Image.fromarray(image).save(path)
        found = engine.run(
            [path],
            patch_mode=False,
            ioconfig=ioconfig,
            save_dir=Path(folder) / "out",
            output_type="zarr",
            return_predictions=(True,),
            auto_get_mask=False,
            wsireader_kwargs={"mpp": (0.25, 0.25)},
        )
        import zarr

        group = zarr.open(str(next(iter(found.values()))), mode="r")
        return np.asarray(group["predictions"], np.int32).squeeze()


def matched(ours: NDArray[np.int32], theirs: NDArray[np.int32], iou: float) -> tuple[int, int, int]:
    """Pairs at an IoU, and instances of each."""
    from stardist.matching import matching

    result = matching(theirs, ours, thresh=iou, criterion="iou")
    return result.tp, result.n_true, result.n_pred


def our_instances(
    net: nn.Module, image: NDArray[np.uint8], config: HoVerNetConfig, shift: int
) -> NDArray[np.int32]:
    """Our instances (H, W), with the encoder's strides moved by some pixels over the image."""
    moved = np.pad(image, ((shift, 0), (shift, 0), (0, 0)), mode="edge")
    return instance_map(predict_maps(net, config, moved))[shift:, shift:]


def parity(data: Path, run: Path, count: int) -> dict[str, Any]:
    """Our instances against those of TIAToolbox's engine: [matched at IoU 0.9, theirs, ours].

    Images lie on a white canvas: both see the same beyond their edges. First the whole image
    is one of its patches, with our strides on the pixels on which it has its own. What differs then
    is the network's: its output changes when its strides of 8 px move over the image, and the usual
    patches move them from patch to patch and show it zeros in place of tissue at their edges.
    """
    net, config = trained(run)
    lost = config.network.geometry.lost_px
    ours_begins, theirs_begins = -(-(lost // 2) // STRIDE_PX) * STRIDE_PX, lost // 2
    same = (theirs_begins - ours_begins) % STRIDE_PX
    names = "same strides", "ours at other strides", "its usual patches"
    result: dict[str, Any] = {name: np.zeros(3, int) for name in names}
    for item in read_folder(data / "consep" / "test")[:count]:
        image, _ = resample(item, config.mpp)
        around = (CANVAS_PX, CANVAS_PX)
        image = np.pad(image, (around, around, (0, 0)), constant_values=255)
        whole = one_patch(image, config.network)
        theirs, usual = (
            tiatoolbox_instances(net, image, config.network, s)[: image.shape[0], : image.shape[1]]
            for s in (whole, PATCH_SIDES[config.network.mode])
        )
        ours, moved = (our_instances(net, image, config.network, s) for s in (same, 0))
        for name, pair in zip(names, ((ours, theirs), (moved, ours), (ours, usual)), strict=True):
            result[name] += matched(*pair, 0.9)
    return {k: v.tolist() for k, v in result.items()}


def centers_of(instances: NDArray[np.int32], n: int) -> NDArray[np.float64]:
    found = ndimage.center_of_mass(instances > 0, instances, np.arange(1, n + 1))
    return np.array(found).reshape(-1, 2)[:, ::-1]


@torch.inference_mode()
def patch_features(backbone: nn.Module, patches: NDArray[np.uint8], norm: nn.Module) -> Any:
    rows = []
    for start in range(0, len(patches), 32):
        x = torch.from_numpy(patches[start : start + 32]).permute(0, 3, 1, 2).float() / 255
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half_type(CPU) is not None):
            rows.append(backbone(norm(x.contiguous(memory_format=torch.channels_last))).float())
    return torch.cat(rows).numpy()


def fit_head(classifier: MarkerClassifier, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Train the head alone on features; the backbone stays the detector's."""
    torch.manual_seed(0)
    head = classifier.heads[0].train()
    features, labels = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(600):
        chosen = torch.randint(len(x), (256,))
        loss = nn.functional.binary_cross_entropy_with_logits(
            head(features[chosen])[:, 0], labels[chosen]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()


def sample(item: AnnotatedImage, mpp: float, rng: Any, at_most: int) -> tuple[Any, ...]:
    """Image, centres and labels of some annotated nuclei."""
    image, instances = resample(item, mpp)
    centers = centers_of(instances, item.n_nuclei)
    known = np.flatnonzero((item.leukocyte[1:] >= 0) & np.isfinite(centers).all(axis=1))
    if len(known) > at_most:
        known = np.sort(rng.choice(known, at_most, replace=False))
    return image, centers[known], item.leukocyte[1:][known]


def dense(data: Path, run: Path, count: int, at_most: int) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    net, config = trained(run)
    name = "hovernet" + ("" if config.network.divisor == 1 else f"-w{config.network.divisor}")
    classifier = MarkerClassifier(ClassifierConfig(("CD45",), backbone=name, hidden=128))
    backbone = classifier.backbones[0]
    assert isinstance(backbone, HoVerNetFeatures)
    backbone.load_state_dict(features_state(net.state_dict(), backbone), strict=False)
    channels_last(classifier.eval())
    half = half_type(CPU)
    detector = HoVerNetDetector(
        net, config.network, mpp=config.mpp, working_mpp=config.mpp, autocast=half
    )
    engine = DenseMarkers(detector, classifier, autocast=half)
    window = PATCH_PX - backbone.lost_px
    rng = np.random.default_rng(0)
    sets = {
        "train": read_folder(data / "consep" / "train")[:: max(1, 27 // max(1, count))],
        "test": read_folder(data / "consep" / "test")[:count],
    }
    by_patch: dict[str, list[Any]] = {k: [] for k in sets}
    by_tile: dict[str, list[Any]] = {k: [] for k in sets}
    exact: list[Any] = []
    labels: dict[str, list[Any]] = {k: [] for k in sets}
    seconds = {"patch": 0.0, "dense": 0.0, "detection alone": 0.0}
    nuclei = 0
    for split, images in sets.items():
        for item in images:
            image, centers, y = sample(item, config.mpp, rng, at_most)
            labels[split].append(y)
            began = time.perf_counter()
            patches = cut_patches(image, centers, PATCH_PX)
            by_patch[split].append(patch_features(backbone, patches, classifier.normalise))
            cut = time.perf_counter()
            tile = engine.infer(image)
            by_tile[split].append(pool_windows(tile.features[0], centers, window, CELL_PX))
            if split == "test":
                pooled = time.perf_counter()
                exact.append(
                    pool_windows(
                        predict_maps(net, config.network, image, autocast=half, cell_px=1).features,
                        centers,
                        window,
                    )
                )
                detecting = time.perf_counter()
                detector.cell_px = 0
                detector.infer(image)
                detector.cell_px = CELL_PX
                seconds["detection alone"] += time.perf_counter() - detecting
                seconds["patch"] += cut - began
                seconds["dense"] += pooled - cut
                nuclei += len(y)
    x = {k: np.concatenate(v) for k, v in by_patch.items()}
    t = {k: np.concatenate(v) for k, v in by_tile.items()}
    y = {k: np.concatenate(v) for k, v in labels.items()}

    def auroc(features: NDArray[np.float32]) -> float:
        with torch.inference_mode():
            scores = classifier.heads[0](torch.from_numpy(features))[:, 0].numpy()
        return float(roc_auc_score(y["test"], scores))

    result: dict[str, Any] = {"nuclei": nuclei, "shared_pass": engine.shared, "seconds": seconds}
    fit_head(classifier, x["train"], y["train"])
    result["head trained on patches"] = {
        "AUROC by patch": auroc(x["test"]),
        "AUROC dense": auroc(t["test"]),
        "AUROC dense, cells of 1 px": auroc(np.concatenate(exact)),
    }
    fit_head(classifier, t["train"], y["train"])
    result["head trained on dense features"] = {
        "AUROC dense": auroc(t["test"]),
        "AUROC by patch": auroc(x["test"]),
    }
    scale = x["test"].std(axis=0).mean()
    result["feature difference, patch to dense, in deviations"] = float(
        np.abs(x["test"] - t["test"]).mean() / scale
    )
    result["feature difference, cells of 4 px to 1 px, in deviations"] = float(
        np.abs(np.concatenate(exact) - t["test"]).mean() / scale
    )
    added = max(1e-9, seconds["dense"] - seconds["detection alone"])
    result["patch over dense, with detection"] = (
        seconds["patch"] + seconds["detection alone"]
    ) / seconds["dense"]
    result["patch over dense, classification alone"] = seconds["patch"] / added
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "parity", "dense"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=14)
    parser.add_argument("--nuclei", type=int, default=150, help="of each image at most")
    a = parser.parse_args()
    if a.what == "train":
        result = train(a.data, a.out, a.steps, a.width, a.mpp, a.batch)
    elif a.what == "parity":
        result = parity(a.data, a.out, a.images)
    else:
        result = dense(a.data, a.out, a.images, a.nuclei)
    Console().print_json(json.dumps(result))


if __name__ == "__main__":
    main()
