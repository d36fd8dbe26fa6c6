r"""The paper's figures 2 and 4 on CRC01: ``python -m recipes.orion_crc01.figures --slide …``.

Figure 2 is every nucleus by the gates of `recipes.he.crc01`; figure 4 the field of held-out column
4 that shows most of every marker, called by the network that `table1_gpu` kept, from thresholds of
the highest balanced accuracy on the validation columns. Both are drawn by what draws them for any
cohort (`lymphinfer gate show`, `lymphinfer evaluate --figure`). Writes JPEGs for the manual.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from lymphinfer.orion.celltable import CellTable
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.figure import draw_gates, save_figure
from lymphinfer.orion.gates import Gates, SlideGates
from lymphinfer.orion.gates_file import write_gates
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.paper.figure4 import draw_figure
from lymphinfer.training.config import DataConfig, ModelConfig, RetrainConfig
from lymphinfer.training.inputs import make_stores, open_inputs, open_split
from lymphinfer.training.scorer import trained_scorer
from recipes.he.crc01 import MPP, TiledSlide, read_slide
from recipes.orion_crc01.bundle import network, told_by
from recipes.orion_crc01.cells import gate
from recipes.orion_crc01.cohort import column_name, write_cohort
from recipes.orion_crc01.plan import PATCH_PX
from recipes.orion_crc01.table1 import calibrated_on

COLUMNS = (1, 2, 4)
"""For training, for validation, and the held-out one that is drawn; a cohort needs all three."""
SAMPLED = 2000
QUALITY = 82
SMALL_PATCHES = "resnet10t"


def crc01_gates() -> SlideGates:
    """The gates of every column."""
    return SlideGates({name: gate(name) for name in TCELL_PANEL.names})


def figure_2(slide: TiledSlide, path: Path) -> None:
    """Histograms of all nuclei in the colours of their ranges."""
    x, y = slide.xy.astype(np.float64).T
    values = {name: slide.values[name].astype(np.float64) for name in TCELL_PANEL.names}
    cells = CellTable(slide.folder, np.arange(1, len(x) + 1), x, y, values)
    figure = draw_gates(cells, crc01_gates(), TCELL_PANEL, "ORION CRC01, one patient")
    save_figure(figure, path)


def figure_4(slide: TiledSlide, run: Path, path: Path, work: Path) -> None:
    """H&E and each marker's stain in a field, outlines by what the network calls."""
    told = told_by(slide, run, "paper")
    calibrated = calibrated_on(
        slide, told.panel, told.labels, told.cells["val"], told.logits["val"], "none"
    )
    scorer = trained_scorer("CRC01", network(told, run, "paper"), told.panel, "none", calibrated)
    write_cohort(slide.folder, work / "cohort", COLUMNS)
    write_gates(work / "gates.toml", Gates({column_name(c): crc01_gates() for c in COLUMNS}))
    splits = str(work / "cohort" / "splits.toml")
    # Nothing is trained: a backbone that takes such patches as they are.
    config = RetrainConfig(
        data=DataConfig(PATCH_PX, MPP, SAMPLED, splits), model=ModelConfig(backbone=SMALL_PATCHES)
    )
    inputs = open_inputs(work / "cohort", work / "gates.toml", config, detector=False)
    test = open_split(make_stores(inputs, config.data, work / "stores"), "test")
    predictions = scorer.predict(test)
    (drawn,) = open_cohort(work / "cohort").only((column_name(COLUMNS[-1]),)).slides
    draw_figure(drawn, path, scorer, predictions, test.mpp)


def as_jpeg(png: Path, path: Path, width: int) -> None:
    """A PNG as a JPEG no wider than `width` px."""
    with Image.open(png) as opened:
        image = opened.convert("RGB")
        if image.width > width:
            image = image.resize((width, round(image.height * width / image.width)))
        image.save(path, quality=QUALITY, optimize=True)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path, required=True, help="tiles and cells.parquet")
    parser.add_argument("--run", type=Path, required=True, help="folder that table1_gpu wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    slide = read_slide(words.slide)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        figure_2(slide, work / "2.png")
        as_jpeg(work / "2.png", words.out / "crc01-gates.jpg", 1100)
        figure_4(slide, words.run, work / "4.png", work)
        as_jpeg(work / "4.png", words.out / "crc01-calls.jpg", 1500)


if __name__ == "__main__":
    main()
