r"""Train the shipped H&E networks on the open data sets; see the bundles' cards.

python -m recipes.he.detector detector   --data DIR --out RUN/detector --round 1..8 \
    [--initial RUN|BUNDLE] [--steps N] [--teacher RUN|BUNDLE ...] [--device cuda] [--workers N]
python -m recipes.he.detector average    --out RUN/detector --initial RUN|BUNDLE --detector RUN \
    [--share S]
python -m recipes.he.detector head       --data DIR --out RUN/detector --initial RUN|BUNDLE \
    [--teacher RUN|BUNDLE ...]
python -m recipes.he.detector classifier --data DIR --out RUN/classifier --detector RUN/detector \
    [--teacher RUN|BUNDLE ...]
python -m recipes.he.detector bundle     --data DIR --out RUN --weights weights

The last writes he-v1 (patches) and he-v1-fast (the detector's own marker head).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import Evidence, MarkerSpec
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.compute import channels_last
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.nucleus_encoder import NAME
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.nuclei.metrics import score_segmentation
from lymphinfer.nuclei.stardist.batch_norm import unfold_batch_norm
from lymphinfer.nuclei.stardist.decode import decode, refine
from lymphinfer.nuclei.stardist.dense import DensePrediction
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.nuclei.stardist.infer import predict_dense
from lymphinfer.nuclei.stardist.network import (
    StarDistConfig,
    StarDistNet,
    build_network,
)
from lymphinfer.training.detectors.stardist import (
    CropDataset,
    TrainConfig,
    Trainer,
    pool_over_instances,
    resample,
)
from recipes.he.marker_head import HIDDEN, with_context
from recipes.he.open_sets import NO_LEUKOCYTES, PURPLE, SETS, load, organ, shrunk
from recipes.he.patches import by_patches
from recipes.he.rounds import MILD, ROUNDS

MPP = 0.325
# 26 µm. Before it learns, the detector says on its test nuclei's patches of 80, 112 and 144 px what
# gives an AUROC of 0.957, 0.959 and 0.960, at 1, 2.3 and 5 times the cost.
CLASSIFIER = ClassifierConfig(("CD45",), backbone=NAME, hidden=HIDDEN, patch_px=80)
NETWORK = StarDistConfig(
    encoder="resnet", n_blocks=3, n_conv_after_unet=96, batch_norm=True, n_markers=1
)

# Mean over 40 ORION slides of each child's positive fraction over its parent's, and the 5th and
# 95th percentile: lymphinfer/orion/data/slide_marker_means.csv.
BASE_RATES = (
    ("CD3e", 0.38, (0.16, 0.60)),
    ("CD4", 0.61, (0.33, 0.83)),
    ("CD8a", 0.46, (0.22, 0.76)),
)


def network_of(start: str) -> StarDistNet:
    """Detector of a run's folder or of a bundle, without batch normalisation."""
    file = Path(start) / "stardist.safetensors"
    if file.exists() and not (Path(start) / "bundle.toml").exists():
        weights = load_file(file)
        bias = weights.get("marker_context.near.bias")
        context = 0 if bias is None else len(bias)
        net = build_network(replace(NETWORK, batch_norm=False, n_marker_context=context))
        net.load_state_dict(weights)
        return net.eval()
    found = load_bundle(start).detector
    if not isinstance(found, StarDistDetector):
        raise SystemExit(f"{start}: its detector is no StarDist")
    return cast(StarDistNet, found.net)


def unfolded(start: str, sets: dict[str, list[AnnotatedImage]]) -> dict[str, Tensor]:
    """The same with batch normalisation, to train it further."""
    crops = CropDataset(sets, TrainConfig(network=NETWORK, augmentation=MILD)).images(32)
    return dict(unfold_batch_norm(network_of(start), crops).state_dict())


def taught(image: AnnotatedImage, teachers: Sequence[StarDistNet]) -> AnnotatedImage:
    """Label nuclei by what other networks are sure of: their mean logit over 8 mirrored views."""
    pixels, instances = resample(image, MPP)
    pooled = []
    for net in teachers:
        seen = predict_dense(net, pixels[None], autocast=torch.bfloat16, n_views=8)[0]
        assert seen.marker_logit is not None
        step = net.config.grid
        of_nuclei = pool_over_instances(
            seen.marker_logit, instances[::step, ::step], image.n_nuclei
        )
        pooled.append(of_nuclei[:, 0])
    probability = 1 / (1 + np.exp(-np.mean(pooled, axis=0)))
    leukocyte = np.full_like(image.leukocyte, -1)
    leukocyte[1:][probability < 0.1] = 0
    leukocyte[1:][probability > 0.85] = 1
    return replace(image, leukocyte=leukocyte)


def teach(sets: dict[str, list[AnnotatedImage]], teachers: Sequence[str]) -> None:
    """Label TNBC by these runs or bundles, where there are any."""
    if teachers:
        nets = [channels_last(network_of(name)) for name in teachers]
        sets["tnbc"] = [taught(i, nets) for i in sets["tnbc"]]


def head(data: Path, out: Path, initial: str, teachers: Sequence[str]) -> None:
    """A marker head that reads more of a trained detector's maps, on all of CoNSeP's training."""
    sets = labelled_sets(data, teachers)
    save(with_context(channels_last(network_of(initial)), sets, MPP), out)


def labelled_sets(data: Path, teachers: Sequence[str]) -> dict[str, list[AnnotatedImage]]:
    """What marker heads learn from, and under `others` images that show how nuclei look besides."""
    sets, held_out = load(data)
    teach(sets, teachers)
    # A quarter of the organs without leukocytes: more of them cost CoNSeP's own.
    organs = [i for i in sets["nuinsseg"] if organ(i) in NO_LEUKOCYTES]
    others = [i for i in sets["nuinsseg"] if organ(i) not in NO_LEUKOCYTES]
    return {
        "consep": sets["consep"] + held_out["consep"],
        "tnbc": sets["tnbc"],
        "nuinsseg": organs[::4],
        "others": (others + sets["lymphoid"] + sets["epithelium"])[::2],
    }


def detector(
    data: Path,
    out: Path,
    number: int,
    steps: int | None,
    initial: str | None,
    teachers: Sequence[str],
    device: str,
    workers: int | None,
) -> None:
    """A round of StarDist with the dense leukocyte head; `initial` is what to begin from."""
    plan = ROUNDS[number - 1]
    sets, held_out = load(data, by_organ=plan.by_organ)
    config = TrainConfig(
        network=NETWORK,
        steps=steps or plan.steps,
        learning_rate=plan.learning_rate,
        weight_decay=1e-2,
        batch_size=plan.batch_size,
        seed=number - 1,
        augmentation=plan.augmentation,
        shares=dict(zip(SETS, plan.shares, strict=True)),
        overlap_share=plan.overlap_share,
        marker_share=plan.marker_share,
        marker_doubt=plan.marker_doubt,
    )
    weights = None
    if initial is not None:
        weights = unfolded(initial, sets)
    teach(sets, teachers)
    if plan.small_epithelium:
        sets["epithelium"] += [shrunk(i) for i in sets["epithelium"]]
    if plan.without_purple:
        sets["lymphoid"] = [i for i in sets["lymphoid"] if organ(i) not in PURPLE]
    if plan.everything:
        sets["consep"] += held_out.pop("consep")
    looks = [step for step in plan.looks if step <= config.steps]
    trainer = Trainer(config, out, device=device, initial=weights, workers=workers, looks=looks)
    net = trainer.fit(sets, held_out.get("consep", []) + held_out["tnbc"])
    if looks:
        net = mean_of([trainer.look(step) for step in looks])
    if initial is not None:
        net = mean_of([network_of(initial), net], (plan.keep, 1 - plan.keep))
    save(net, out)


def save(net: nn.Module, out: Path, what: str = "stardist") -> None:
    """Write a network's weights to a run's folder."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in net.state_dict().items()}
    save_file(weights, out / f"{what}.safetensors")


def mean_of(nets: Sequence[StarDistNet], shares: Sequence[float] | None = None) -> StarDistNet:
    """Network of mean weights, without batch normalisation."""
    shares = shares or [1 / len(nets)] * len(nets)
    states = [net.state_dict() for net in nets]
    mean = {
        name: sum(share * state[name].float() for share, state in zip(shares, states, strict=True))
        for name in states[0]
    }
    net = build_network(nets[0].config)
    net.load_state_dict(mean)
    return net.eval()


def classifier(data: Path, out: Path, detector_run: str, teachers: Sequence[str]) -> None:
    """A patch classifier for the leukocyte label, out of what the detector knows."""
    sets = labelled_sets(data, teachers)
    net = network_of(detector_run)
    save(by_patches(channels_last(net), sets, MPP, CLASSIFIER), out, "classifier")


def choose_decoding(
    net: StarDistNet,
    held_out: dict[str, list[AnnotatedImage]],
    autocast: torch.dtype | None = torch.bfloat16,
) -> dict[str, Any]:
    """How to decode: the best mean PQ over the held-out sets, as values of a bundle's detector."""
    grid = net.config.grid
    truth: dict[str, list[NDArray[np.int32]]] = {name: [] for name in held_out}
    dense: dict[str, list[DensePrediction]] = {name: [] for name in held_out}
    for name, images in held_out.items():
        for item in images:
            pixels, instances = resample(item, MPP)
            truth[name].append(instances)
            dense[name] += predict_dense(net, pixels[None], autocast=autocast)

    def mean_pq(prob_threshold: float, nms_threshold: float, refine_at: tuple[float, ...]) -> float:
        scores = []
        for name in held_out:
            drawn = []
            for prediction, instances in zip(dense[name], truth[name], strict=True):
                found = decode(
                    prediction.prob,
                    prediction.dist,
                    grid=grid,
                    prob_threshold=prob_threshold,
                    nms_threshold=nms_threshold,
                )
                found = refine(found, prediction.dist, grid=grid, fractions=refine_at)
                drawn.append(found.label_image(instances.shape))
            scores.append(score_segmentation(truth[name], drawn).pq)
        return float(np.mean(scores))

    best: tuple[float, dict[str, Any]] = (0.0, {})
    # Higher thresholds score higher still on these images, and lose slides that look otherwise.
    for choice in product((0.4, 0.45, 0.5, 0.55), (0.3, 0.4), ((), (0.3, 0.6))):
        pq = mean_pq(*choice)
        named = dict(zip(("prob_threshold", "nms_threshold", "refine_at"), choice, strict=True))
        print(f"held-out PQ {pq:.4f}: {named}", flush=True)
        best = max(best, (pq, named), key=lambda scored: scored[0])
    return best[1]


def bundle(data: Path, run: Path, weights: Path) -> None:
    """Choose how to decode on held-out images, and write both bundles."""
    net = channels_last(network_of(str(run / "detector")))
    _, held_out = load(data)
    # Kept, so that a second call, which adds what quality.py has measured, takes seconds.
    chosen = run / "decoding.json"
    if not chosen.exists():
        chosen.write_text(json.dumps(choose_decoding(net, held_out)))
    decoding = json.loads(chosen.read_text())
    detector = {
        "kind": "stardist",
        "file": "stardist.safetensors",
        "mpp": MPP,
        **decoding,
        "network": net.config.to_dict(),
    }
    network = MarkerClassifier(CLASSIFIER)
    network.load_state_dict(load_file(run / "classifier" / "classifier.safetensors"))
    write(
        weights / "he-v1",
        "StarDist nuclei; CD45 as leukocyte morphology from patches, learned on real H&E; "
        "CD3e, CD4 and CD8a by base rate",
        {"stardist.safetensors": net, "classifier.safetensors": network},
        detector,
        {"kind": "patch", "file": "classifier.safetensors", "network": CLASSIFIER.to_dict()},
    )
    write(
        weights / "he-v1-fast",
        "StarDist nuclei; CD45 as leukocyte morphology from the detector's own features, learned "
        "on real H&E; CD3e, CD4 and CD8a by base rate",
        {"stardist.safetensors": net},
        detector,
        {"kind": "feature", "markers": ["CD45"]},
    )


def write(
    folder: Path,
    summary: str,
    modules: dict[str, nn.Module],
    detector: dict[str, Any],
    classifier: dict[str, Any],
) -> None:
    """Write one bundle; its AUROC is that of ``quality.json``, where that is there.

    Logits are not scaled: three held-out images are no sample, and scaling fitted on them made the
    test images worse.
    """
    cohort = "40 ORION slides (Lin et al. 2023), fractions published by the data's authors"
    write_bundle(
        folder,
        modules=modules,
        header={
            "name": folder.name,
            "version": "0.7.0",
            "summary": summary,
            "licence": "Apache-2.0",
            "panel": "t-cell",
            "mpp": MPP,
            "hierarchy": "conditional",
        },
        detector=detector,
        classifier=classifier,
        markers=[
            MarkerSpec(
                "CD45",
                Evidence.MORPHOLOGY,
                "inflammatory nuclei of CoNSeP (H&E annotation, not a stain), tested on its test "
                "images; trained besides on organs of NuInsSeg, and on TNBC as earlier versions "
                "read it; against ORION's own CD45 stain (60 tiles, one patient) he-v1-fast had "
                "AUROC 0.78",
                threshold=0.5,
                **measured_auroc(folder),
            ),
            *(
                MarkerSpec(name, Evidence.BASE_RATE, cohort, rate=rate, rate_range=spread)
                for name, rate, spread in BASE_RATES
            ),
        ],
    )


def measured_auroc(folder: Path) -> dict[str, Any]:
    """AUROC on the test images from ``quality.json``, once ``quality.py --json`` has written it."""
    path = folder / "quality.json"
    if not path.exists():
        return {}
    cd45 = json.loads(path.read_text())["consep_test"]["cd45"]
    low, high = cd45["auroc_interval"]
    return {
        "auroc": round(cd45["auroc"], 3),
        "auroc_interval": (round(low, 3), round(high, 3)),
    }


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["detector", "average", "head", "classifier", "bundle"])
    parser.add_argument("--data", type=Path, help="for all but average")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--round", type=int, choices=range(1, len(ROUNDS) + 1), default=1)
    parser.add_argument("--steps", type=int, help="of the detector; by default the round's")
    parser.add_argument("--initial", help="run or bundle to start from")
    parser.add_argument("--teacher", nargs="*", default=[], help="runs or bundles; label TNBC")
    parser.add_argument("--device", default="cpu", help="of the detector")
    parser.add_argument("--workers", type=int, help="processes that cut crops, of the detector")
    parser.add_argument("--share", type=float, default=0.6, help="of --initial in the average")
    parser.add_argument("--detector", help="the detector's run, or a bundle")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.what == "detector":
        detector(
            arguments.data,
            arguments.out,
            arguments.round,
            arguments.steps,
            arguments.initial,
            arguments.teacher,
            arguments.device,
            arguments.workers,
        )
    elif arguments.what == "average":
        nets = [network_of(arguments.initial), network_of(arguments.detector)]
        save(mean_of(nets, (arguments.share, 1 - arguments.share)), arguments.out)
    elif arguments.what == "head":
        head(arguments.data, arguments.out, arguments.initial, arguments.teacher)
    elif arguments.what == "classifier":
        classifier(arguments.data, arguments.out, arguments.detector, arguments.teacher)
    else:
        bundle(arguments.data, arguments.out, arguments.weights)


if __name__ == "__main__":
    main()
