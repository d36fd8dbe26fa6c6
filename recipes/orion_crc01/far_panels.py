r"""AUROC of other panels' markers by he-v2's far scale on columns that it has not seen.

python -m recipes.orion_crc01.far_panels --slide DIR

The far network (1.3 µm/px, 166 µm around a nucleus) was taught every channel of CRC01; the bundle
uses four of its outputs. Writes ``far_panels.json`` beside this module. **One patient.**
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.cells.files import atomic_write
from lymphinfer.panel import PANELS
from lymphinfer.training.intervals import PatientBootstrap
from recipes.he.crc01 import TiledSlide, read_slide
from recipes.he.far import features_of
from recipes.orion_crc01.cells import blocks, labels_of
from recipes.orion_crc01.columns import TEST_COLUMNS

RESULT = Path(__file__).with_suffix(".json")
PANEL = PANELS["immune"]


def measure(slide: TiledSlide, bundle: str, device: str) -> dict[str, Any]:
    """AUROC with intervals by tile of each marker of the panel, over all nuclei."""
    loaded = load_bundle(bundle)
    if loaded.markers.far is None:
        raise SystemExit(f"bundle {bundle} has no far scale")
    net = loaded.markers.far.engine.net.to(device)
    columns = [c for c in TEST_COLUMNS if (slide.column == c).any()]
    index, features = features_of(net, slide, columns, device=device)
    with torch.inference_mode():
        told = net.tell(torch.from_numpy(features).to(device)).float().cpu().numpy()
    labels, tile = labels_of(slide, PANEL)[index], blocks(slide, index)
    found: dict[str, Any] = {}
    for i, name in enumerate(PANEL.names):
        boot = PatientBootstrap(labels[:, i], tile)
        value = boot.auroc(told[:, net.config.outputs.index(name)].astype(np.float64))
        found[name] = {
            "auroc": [round(v, 4) for v in (value.value, value.low, value.high)],
            "positive": int((labels[:, i] == 1).sum()),
            "negative": int((labels[:, i] == 0).sum()),
        }
    manifest = loaded.manifest
    return {
        "bundle": manifest.name,
        "version": manifest.version,
        "columns": columns,
        "nuclei": len(index),
        "markers": found,
    }


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path, required=True, help="H&E tiles and cells.parquet")
    parser.add_argument("--bundle", default="he-v2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    words = parser.parse_args()
    document = measure(read_slide(words.slide), words.bundle, words.device)
    with atomic_write(words.out) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())
    for name, m in document["markers"].items():
        print(f"{name}: {m['auroc']} of {m['positive']:,} positive nuclei")


if __name__ == "__main__":
    main()
