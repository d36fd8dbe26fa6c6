"""A folder of made slides, good and bad, and what its results are compared by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from lymphinfer.predict.settings import PredictSettings
from tests.predict.conftest import disc_image, write_svs

GOOD = 12
BAD = ("empty.svs", "text.svs", "cut.svs", "no_mpp.svs", "folder.svs")


def settings(bundle: Path, **changes: object) -> PredictSettings:
    values = {"device": "cpu", "precision": "fp32", "workers": 1, "tile_px": 256, **changes}
    return PredictSettings(bundle=str(bundle), **values)


def write_slides(folder: Path, count: int = 2, side: int = 420) -> Path:
    """Slides of discs, no two alike, half of them in a subfolder under the same names."""
    for i in range(count):
        image, _ = disc_image(side + 8 * (i % 3), side, seed=i)
        place = folder / ("sub" if i % 2 else "")
        place.mkdir(parents=True, exist_ok=True)
        write_svs(place / f"slide{i // 2:02d}.svs", image)
    return folder


def write_bad_slides(folder: Path) -> Path:
    """Files and a folder that are no slides, and a valid slide without tissue."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.svs").touch()
    (folder / "text.svs").write_text("not a slide")
    (folder / "folder.svs").mkdir()
    image, _ = disc_image(500, 400)
    write_svs(folder / "no_mpp.svs", image, mpp=None)
    whole = write_svs(folder / "cut.svs", image).read_bytes()
    (folder / "cut.svs").write_bytes(whole[: len(whole) // 2])
    write_svs(folder / "white.svs", np.full((300, 400, 3), 243, np.uint8))
    return folder


def copy_slides(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def result_bytes(root: Path) -> dict[str, bytes]:
    """Every file of a result tree; times, states and calls aside."""
    files = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        if path.name in ("state.json", "batch.csv", "batch.json") or path.parent.name == "runs":
            continue
        if path.name == "summary.json":
            summary = json.loads(path.read_text())
            for key in ("seconds", "shards"):
                summary.pop(key)
            files[name] = json.dumps(summary, sort_keys=True).encode()
        else:
            files[name] = path.read_bytes()
    return files
