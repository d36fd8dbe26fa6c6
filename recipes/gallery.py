r"""Pictures of what the default bundle says of real tissue: ``python -m recipes.gallery --data …``.

Each is a part of an openly licensed image that no weight was trained on (the validation columns of
CRC01, BRCA-M2C's val, NuCLS, OpenSlide's CMU-1), predicted whole by `lymphinfer.predict_slide` and
drawn twice: as it is, and with every nucleus outlined in the colour of its call. Where a truth is
known it is dotted: a stain or an annotation. Writes JPEGs for the manual.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.registry import DEFAULT_BUNDLE
from lymphinfer.cells.table import read_calls, read_rings
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides import open_slide

SIDE_UM = 110.0
PICTURE_PX = 560
GAP_PX = 12
QUALITY = 80
NAMED = (0, 0, 0)
"""Of a truth's dots."""


@dataclass(frozen=True)
class Plate:
    """A picture of the gallery.

    Attributes
    ----------
    name : str
        Of its file.
    source : str
        Below the data's folder.
    mpp : float or None
        µm/px of an image that does not say.
    corner_um : tuple of float
        Where the part begins (x, y).
    truth : tuple of int and str, or None
        Number of a column of the ``.csv`` beside the image, and its value, of nuclei that are
        dotted; x and y come first there.
    """

    name: str
    source: str
    mpp: float | None
    corner_um: tuple[float, float] = (0.0, 0.0)
    truth: tuple[int, str] | None = None


PLATES = (
    Plate("crc01-infiltrate", "orion-c01-tiles/C01_28007.png", 0.5, truth=(2, "1")),
    Plate("crc01-blood", "orion-c01-tiles/C01_6207.png", 0.5, truth=(2, "1")),
    Plate("brca-m2c", "brca-m2c/val", 0.5, (200.0, 200.0), (2, "1")),
    Plate("nucls", "nucls/train_8.png", 0.25, truth=(2, "2")),
    Plate("cmu-1-skin", "slides/CMU-1-Small-Region.svs", None, (500.0, 500.0)),
)


def read_pixels(plate: Plate, data: Path) -> tuple[NDArray[np.uint8], float, Path]:
    """An image (H, W, 3), its pixel size in µm/px, and its file."""
    path = data / plate.source
    if path.is_dir():
        path = sorted(p for p in path.iterdir() if p.suffix in (".jpg", ".png"))[0]
    if plate.mpp is not None:
        return np.asarray(Image.open(path).convert("RGB")), plate.mpp, path
    with open_slide(path) as slide:
        width, height = slide.dimensions
        return slide.read_region(0, 0, width, height, slide.mpp), slide.mpp, path


def truth_points(plate: Plate, path: Path) -> NDArray[np.float64]:
    """Places (N, 2) of the truth's nuclei, px of the image."""
    if plate.truth is None:
        return np.empty((0, 2))
    column, value = plate.truth
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row[column] == value]
    return np.array([[float(row[0]), float(row[1])] for row in rows]).reshape(-1, 2)


def draw(plate: Plate, data: Path, bundle: str) -> Image.Image:
    """The part as it is, beside the part with its nuclei."""
    pixels, mpp, path = read_pixels(plate, data)
    with TemporaryDirectory() as place:
        slide = Path(place) / "picture.tif"
        per_cm = 1e4 / mpp
        tifffile.imwrite(
            slide, pixels, tile=(256, 256), photometric="rgb", metadata=None,
            resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
        )  # fmt: skip
        settings = PredictSettings(bundle=bundle, force=True)
        predict_slide(slide, Path(place) / "out", settings=settings)
        result = open_result(Path(place) / "out")
        table = pa.concat_tables(result.tables())
    panel, rings = result.panel, read_rings(table)
    calls = read_calls(table, panel)
    side = min(SIDE_UM / mpp, *pixels.shape[:2])
    corner = np.minimum(np.array(plate.corner_um) / mpp, np.array(pixels.shape[1::-1]) - side)
    x0, y0 = np.maximum(corner, 0)
    zoom = PICTURE_PX / side
    part = Image.fromarray(pixels).resize(
        (PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC, box=(x0, y0, x0 + side, y0 + side)
    )
    drawn = part.copy()
    pen = ImageDraw.Draw(drawn)
    for i in range(len(rings)):
        places = (np.concatenate([rings[i], rings[i][:1]]) - (x0, y0)) * zoom
        called = panel.calls[calls[i]]
        pen.line(list(map(tuple, places)), fill=panel.color(called), width=2, joint="curve")
    for x, y in (truth_points(plate, path) - (x0, y0)) * zoom:
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=NAMED)
    both = Image.new("RGB", (2 * PICTURE_PX + GAP_PX, PICTURE_PX), "white")
    both.paste(part, (0, 0))
    both.paste(drawn, (PICTURE_PX + GAP_PX, 0))
    return both


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images/gallery"))
    parser.add_argument("--bundle", default=DEFAULT_BUNDLE)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for plate in PLATES:
        picture = draw(plate, arguments.data, arguments.bundle)
        picture.save(arguments.out / f"{plate.name}.jpg", quality=QUALITY)
        print(plate.name)


if __name__ == "__main__":
    main()
