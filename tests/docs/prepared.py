"""The files that the texts speak of, small: made once, copied into each page's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tomli_w
import torch
from PIL import Image
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.panel import TCELL_PANEL
from tests.nuclei.test_keras import write_model
from tests.predict.conftest import disc_image, write_svs
from tests.training.training_made import retrain_config

from .source_text import ROOT

SIDE = 256
COHORT = ("--slides", "4", "--size", "512", "--seed", "5", "--imbalance", "rich", "--workers", "1")


def slide(path: Path, seed: int = 0) -> None:
    write_svs(path, disc_image(SIDE, SIDE, seed=seed)[0])


def slides(path: Path) -> None:
    path.mkdir()
    for seed, name in enumerate(("a", "b")):
        slide(path / f"{name}.svs", seed)


def slide_list(path: Path) -> None:
    slide(path.with_name("listed.svs"), 7)
    path.write_text("slide,mpp\nlisted.svs,\n")


def photo(path: Path) -> None:
    Image.fromarray(disc_image(SIDE, SIDE)[0]).save(path)


def annotations(path: Path) -> None:
    def square(name: str, left: int) -> dict[str, object]:
        ring = [(left, 20), (left + 90, 20), (left + 90, 200), (left, 200), (left, 20)]
        properties = {"objectType": "annotation",
                      "classification": {"name": name, "color": [200, 0, 0]}}  # fmt: skip
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "geometry": geometry, "properties": properties}

    found = [square("Tumor", 20), square("Stroma", 130)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))


def reference(path: Path) -> None:
    names = [f"{marker} {place}" for marker in TCELL_PANEL.scored for place in ("centre", "margin")]
    rows = [[str(50 * i + j) for j in range(len(names))] for i in range(12)]
    path.write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")


def annotation_folder(path: Path) -> None:
    path.mkdir()
    for name in ("a", "b"):
        annotations(path / f"{name}.geojson")


def annotated(path: Path) -> None:
    path.mkdir()
    for seed in range(3):
        image, centers = disc_image(SIDE, SIDE, seed=seed)
        yy, xx = np.mgrid[:SIDE, :SIDE]
        labels = np.zeros((SIDE, SIDE), np.int32)
        for i, (x, y) in enumerate(centers, start=1):
            labels[(xx - x) ** 2 + (yy - y) ** 2 <= 64] = i
        Image.fromarray(image).save(path / f"{seed}.png")
        np.savez(path / f"{seed}.npz", inst_map=labels)


def keras_model(path: Path) -> None:
    from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network

    torch.manual_seed(1)
    config = StarDistConfig(n_rays=8, n_filter_base=4, n_depth=2, n_conv_after_unet=8)
    write_model(path, build_network(config))


def hovernet_file(path: Path) -> None:
    from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network

    torch.manual_seed(1)
    net = build_network(HoVerNetConfig("fast", ("A", "B", "C", "D"), 8))
    torch.save({"desc": net.state_dict()}, path)


def bundle_to_pull(path: Path) -> None:
    """``my-bundle`` as another host would have it."""
    shutil.copytree(ROOT / "weights" / "he-v1", path)
    manifest = path / "bundle.toml"
    manifest.write_text(manifest.read_text("utf-8").replace('"he-v1"', '"my-bundle"', 1), "utf-8")


def disc_features(path: Path, seed: int, kind: str) -> None:
    """The discs of a slide of `slide`: as detections with outlines, or as points with classes."""
    features = []
    for i, (x, y) in enumerate(disc_image(SIDE, SIDE, seed=seed)[1]):
        angles = np.linspace(0, 2 * np.pi, 17)
        ring = np.stack([x + 8 * np.cos(angles), y + 8 * np.sin(angles)], axis=1).tolist()
        if kind == "detection":
            features.append({"type": "Feature", "properties": {"objectType": kind},
                             "geometry": {"type": "Polygon", "coordinates": [ring]}})  # fmt: skip
        else:
            name = "Lymphocyte" if i % 2 else "Tumor"
            properties = {"objectType": "annotation", "classification": {"name": name}}
            features.append({"type": "Feature", "properties": properties,
                             "geometry": {"type": "Point", "coordinates": [x, y]}})  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def nuclei_of_slide(path: Path) -> None:
    disc_features(path, 0, "detection")


def slides_to_teach(path: Path) -> None:
    path.mkdir()
    for seed in range(5):
        slide(path / f"{seed}.svs", seed)


def named_nuclei(path: Path) -> None:
    path.mkdir()
    for seed in range(5):
        disc_features(path / f"{seed}.geojson", seed, "point")


def patients(path: Path) -> None:
    path.write_text("slide,patient,response\na.svs,1,yes\nb.svs,2,no\n")


def tiny_config(path: Path) -> None:
    path.write_text(tomli_w.dumps(retrain_config(Path("he-v1")).to_dict()))


def called(*words: str) -> Callable[[Path], None]:
    """A file or folder that a command makes, named by ``{}``."""

    def make(path: Path) -> None:
        done = CliRunner().invoke(app, [w.format(path) for w in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    return make


def results(path: Path, source: Callable[[Path], None], name: str) -> None:
    source(path.with_name(name))
    called("predict", str(path.with_name(name)), "--out", "{}", "--device", "cpu")(path)


def own_slides(path: Path) -> None:
    """H&E, immunofluorescence and masks that nobody has described or measured."""
    called("simulate", "{}", *COHORT)(path)
    for file in [*path.rglob("*.csv"), *path.rglob("*.json"), *path.rglob("*.parquet")]:
        file.unlink()


MAKERS: dict[str, Callable[[Path], None]] = {
    "slide.svs": slide,
    "slides/": slides,
    "slides.csv": slide_list,
    "photo.png": photo,
    "annotations.geojson": annotations,
    "tissue.geojson": annotations,
    "annotations/": annotation_folder,
    "cells.geojson": nuclei_of_slide,
    "to-teach/": slides_to_teach,
    "named/": named_nuclei,
    "patients.csv": patients,
    "reference.csv": reference,
    "annotated/": annotated,
    "cohort/": called("simulate", "{}", *COHORT),
    "own/": own_slides,
    "ORION/": called("simulate", "{}", *COHORT),
    "2D_versatile_he/": keras_model,
    "hovernet_fast-monusac.pth": hovernet_file,
    "host/my-bundle": bundle_to_pull,
    "tiny.toml": tiny_config,
    "results/": partial(results, source=slides, name="predicted"),
    "RESULT": partial(results, source=slide, name="predicted.svs"),
}


class Store:
    """Makes each thing once."""

    def __init__(self, root: Path):
        self.root = root

    def put(self, name: str, folder: Path) -> None:
        """Copy a thing, and what lies beside it, into a page's folder."""
        kept = self.root / name.strip("/").replace("/", "-") / name.rstrip("/")
        if not kept.exists():
            kept.parent.mkdir(parents=True)
            MAKERS[name](kept)
        shutil.copytree(self.root / name.strip("/").replace("/", "-"), folder, dirs_exist_ok=True)
