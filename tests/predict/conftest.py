"""A bundle whose detector really finds dark discs, made without training, and slides of discs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from lymphinfer.bundles.schema import Evidence, MarkerSpec
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.configs import TwoScaleConfig
from lymphinfer.markers.far_scale import FarConfig, FarNet
from lymphinfer.markers.two_scale_head import TwoScaleHead
from lymphinfer.nuclei.stardist.network import StarDistConfig, StarDistNet, build_network

MPP = 0.325
RADIUS_PX = 8


def disc_detector(n_markers: int = 0) -> StarDistNet:
    """A StarDist network set by hand: darkness, box-blurred, is the object probability.

    Filter 0 carries 1 - red through the levels without poolings inside the U-Net (depth 1 keeps the
    skip), the features average it over 3x3, and every ray has the same length. A marker's logit
    grows with the darkness around the centre.
    """
    net = build_network(
        StarDistConfig(
            n_rays=16, n_filter_base=4, n_depth=1, n_conv_after_unet=4, n_markers=n_markers
        )
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()

        def pass_through(name: str, channel_in: int = 0) -> None:
            net.blocks[name].conv.weight[0, channel_in, :, :] = 1 / 9

        first = net.blocks["conv2d"].conv
        first.weight[0, 0, 1, 1] = -1.0
        first.bias[0] = 1.0
        pass_through("conv2d_1")
        pass_through("down_level_0_no_0")
        pass_through("down_level_0_no_1")
        # After concatenation [up, skip] the skip begins behind the up-sampled channels.
        pass_through("up_level_0_no_0", channel_in=net.blocks["middle_2"].conv.out_channels)
        pass_through("up_level_0_no_2")
        pass_through("features")
        net.prob.weight[0, 0] = 30.0
        net.prob.bias[0] = -15.0
        net.dist.bias[:] = float(RADIUS_PX)
        if n_markers:
            pass_through("features_class")
            net.marker.weight[:, 0] = 6.0
            net.marker.bias[:] = -5.0
    return net.eval()


def _write(folder: Path, modules: dict, classifier: dict) -> Path:
    write_bundle(
        folder,
        modules=modules,
        header={"name": folder.name, "version": "1", "summary": "finds dark discs",
                "licence": "none", "panel": "t-cell", "mpp": MPP, "hierarchy": "conditional"},
        detector={"kind": "stardist", "file": "stardist.safetensors", "mpp": MPP,
                  "prob_threshold": 0.5, "nms_threshold": 0.2,
                  "network": modules["stardist.safetensors"].config.to_dict()},
        classifier=classifier,
        markers=[
            MarkerSpec("CD45", Evidence.MORPHOLOGY, "made", threshold=0.5),
            MarkerSpec("CD3e", Evidence.BASE_RATE, "made", rate=0.38),
            MarkerSpec("CD4", Evidence.BASE_RATE, "made", rate=0.61),
            MarkerSpec("CD8a", Evidence.BASE_RATE, "made", rate=0.46),
        ],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def disc_bundle(tmp_path_factory) -> Path:
    """Its detector has the marker's head: neither a second network nor timm is loaded."""
    torch.manual_seed(0)
    return _write(
        tmp_path_factory.mktemp("bundles") / "discs",
        {"stardist.safetensors": disc_detector(n_markers=1)},
        {"kind": "feature", "markers": ["CD45"]},
    )


@pytest.fixture(scope="session")
def patch_bundle(tmp_path_factory) -> Path:
    """The same detector, and a marker that is read from patches, of any detector's nuclei."""
    torch.manual_seed(0)
    net = disc_detector()
    classifier = MarkerClassifier(ClassifierConfig(("CD45",), backbone="test_byobnet", hidden=8))
    return _write(
        tmp_path_factory.mktemp("bundles") / "discs",
        {"stardist.safetensors": net, "classifier.safetensors": classifier},
        {"kind": "patch", "file": "classifier.safetensors",
         "network": classifier.config.to_dict()},
    )  # fmt: skip


@pytest.fixture(scope="session")
def two_scale_bundle(tmp_path_factory) -> Path:
    """The same detector, and markers that read near and far by networks of random weights."""
    torch.manual_seed(0)
    detector = disc_detector()
    near = build_network(
        StarDistConfig(n_rays=8, n_filter_base=8, n_depth=2, n_conv_after_unet=8, n_markers=1,
                       encoder="resnet", n_blocks=1, n_marker_context=6, marker_features=True)
    )  # fmt: skip
    far = FarNet(FarConfig(widths=(4, 6), blocks=(1, 1), features=5, outputs=("a", "b"), hidden=3))
    head = TwoScaleHead(TwoScaleConfig(("CD45", "CD3e"), near=6, far=2, hidden=4))
    with torch.no_grad():
        head.far_out.weight[:] = torch.tensor([[8.0, -8.0], [6.0, 4.0]])
        head.near_out.weight[:, 3] = 4.0
        # Probabilities on both sides of one half.
        head.out.bias[:] = -20.0
    folder = tmp_path_factory.mktemp("bundles") / "two"
    write_bundle(
        folder,
        modules={"stardist.safetensors": detector, "near.safetensors": near,
                 "far.safetensors": far, "head.safetensors": head},
        header={"name": "two", "version": "1", "summary": "two scales", "licence": "none",
                "panel": "t-cell", "mpp": MPP, "hierarchy": "conditional"},
        detector={"kind": "stardist", "file": "stardist.safetensors", "mpp": MPP,
                  "prob_threshold": 0.5, "nms_threshold": 0.2,
                  "network": detector.config.to_dict()},
        classifier={"kind": "two-scale", "file": "head.safetensors",
                    "head": head.config.to_dict(),
                    "near": {"file": "near.safetensors", "mpp": MPP,
                             "network": near.config.to_dict()},
                    "far": {"file": "far.safetensors", "network": far.config.to_dict()}},
        markers=[
            MarkerSpec("CD45", Evidence.STAIN, "made", threshold=0.5, patients=1),
            MarkerSpec("CD3e", Evidence.STAIN, "made", threshold=0.5, patients=1, conditional=True),
            MarkerSpec("CD4", Evidence.BASE_RATE, "made", rate=0.61),
            MarkerSpec("CD8a", Evidence.BASE_RATE, "made", rate=0.46),
        ],
        half=False,
    )  # fmt: skip
    return folder


def disc_image(width: int, height: int, spacing: int = 40, seed: int = 0):
    """Pink tissue with dark discs on a jittered grid, and their centres (x, y)."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (225, 170, 200), np.uint8)
    image += rng.integers(0, 12, image.shape, dtype=np.uint8)
    centers = []
    yy, xx = np.mgrid[-10:11, -10:11]
    disc = yy**2 + xx**2 <= RADIUS_PX**2
    for y in range(spacing, height - spacing, spacing):
        for x in range(spacing, width - spacing, spacing):
            cx, cy = x + int(rng.integers(-8, 9)), y + int(rng.integers(-8, 9))
            window = image[cy - 10 : cy + 11, cx - 10 : cx + 11]
            window[disc] = (60, 30, 110)
            centers.append((cx + 0.5, cy + 0.5))
    return image, np.array(centers)


def write_svs(path: Path, image: np.ndarray, mpp: float | None = MPP) -> Path:
    description = "Aperio Image Library v1\r\nmade"
    if mpp:
        description += f"|AppMag = 20|MPP = {mpp}"
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", compression="jpeg",
        compressionargs={"level": 95}, description=description, metadata=None,
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def disc_slide(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """One, four or 16 tiles of 1024, 512 or 256 px."""
    image, centers = disc_image(780, 780)
    return write_svs(tmp_path_factory.mktemp("slides") / "discs.svs", image), centers


@pytest.fixture(scope="session")
def strip(tmp_path_factory) -> Path:
    """Three shards of tiles of 256 px."""
    return write_svs(tmp_path_factory.mktemp("slides") / "strip.svs", disc_image(4400, 256)[0])
