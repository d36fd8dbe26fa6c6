"""The paper's figure 4: a field of H&E, then each marker's fluorescence with the calls on it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.markers.classifier import classify_patches
from lymphinfer.markers.patches import cut_patches
from lymphinfer.orion.celltable import CellTable, read_cells
from lymphinfer.orion.cohort import Cohort, OrionSlide
from lymphinfer.orion.patches import to_working
from lymphinfer.slides.planes import Planes
from lymphinfer.training.plots import new_figure, save_figure
from lymphinfer.training.scorer import Predictions, Scorer

log = logging.getLogger(__name__)

FIELD_UM = 160.0
POSITIVE_RGB, NEGATIVE_RGB = (1.0, 0.15, 0.15), (0.2, 0.95, 0.3)
_NUCLEUS_RADIUS_UM = 4.0


@dataclass(frozen=True)
class Field:
    """A square of a slide, level-0 px."""

    left: int
    top: int
    side: int

    def contains(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie in it."""
        right, bottom = self.left + self.side, self.top + self.side
        inside: NDArray[np.bool_] = (x >= self.left) & (x < right) & (y >= self.top) & (y < bottom)
        return inside


def choose_field(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: NDArray[np.int8],
    side: int,
    size_level0: tuple[int, int],
) -> Field:
    """Choose the square of the slide that shows most of every marker.

    Parameters
    ----------
    x, y : ndarray of float64, (N,)
        Centroids, level-0 px.
    labels : ndarray of int8, (N, M)
    side : int
        Of the square, px.
    size_level0 : tuple of int
        (width, height) of the slide.

    Returns
    -------
    Field
        Of the squares on a grid of half their side, the one with the largest sum over markers of
        log(1 + positive cells).
    """
    step = max(side // 2, 1)
    columns = max(1, (size_level0[0] - side) // step + 1)
    rows = max(1, (size_level0[1] - side) // step + 1)
    score = np.zeros((rows, columns))
    for positive in (labels == 1).T:
        count = np.zeros((rows + 2, columns + 2))
        row = np.clip(y[positive] // step, 0, rows).astype(int)
        column = np.clip(x[positive] // step, 0, columns).astype(int)
        np.add.at(count, (row, column), 1)
        window = count[:-1, :-1] + count[1:, :-1] + count[:-1, 1:] + count[1:, 1:]
        score += np.log1p(window[:rows, :columns])
    best_row, best_column = np.unravel_index(int(score.argmax()), score.shape)
    return Field(int(best_column) * step, int(best_row) * step, side)


def read_planes(image: Planes, channels: list[int | None], field: Field) -> NDArray[Any]:
    """Read a field of some channels at level 0, (C, side, side); zeros for one without a plane.

    Raises
    ------
    SlideError
        The file cannot be read.
    """
    box = (field.left, field.top, field.side, field.side)
    dark = np.zeros((field.side, field.side), np.uint16)
    return np.stack([dark if c is None else image.read_plane(c, *box) for c in channels])


def stretch(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Fluorescence for the eye: the 5th to the 99.7th percentile as 0 to 1."""
    low, high = np.percentile(plane, [5, 99.7])
    scaled: NDArray[np.float32] = np.clip(
        (plane.astype(np.float32) - low) / max(high - low, 1), 0, 1
    ).astype(np.float32)
    return scaled


def overlay(nuclei: NDArray[Any], marker: NDArray[Any]) -> NDArray[np.float32]:
    """Marker in yellow over nuclei in blue: two (H, W) planes to RGB (H, W, 3) in [0, 1]."""
    blue, yellow = 0.75 * stretch(nuclei), stretch(marker)
    return np.stack([yellow, yellow, np.maximum(blue - 0.5 * yellow, 0)], axis=-1)


def outline(
    shape: tuple[int, int], field: Field, cells: CellTable, mask: NDArray[Any] | None, mpp: float
) -> NDArray[np.int64]:
    """Cell number (row of `cells`, plus 1) of every outline pixel, 0 elsewhere."""
    from skimage.segmentation import find_boundaries

    labels = np.zeros(shape, np.int64)
    if mask is not None:
        order = np.argsort(cells.cell_id)
        place = np.minimum(np.searchsorted(cells.cell_id[order], mask), max(len(order) - 1, 0))
        here = cells.cell_id[order][place] == mask
        labels = np.where(here, order[place] + 1, 0)
    else:
        radius = _NUCLEUS_RADIUS_UM / mpp
        yy, xx = np.mgrid[: shape[0], : shape[1]]
        for i, (x, y) in enumerate(zip(cells.x - field.left, cells.y - field.top, strict=True)):
            labels[(xx - x) ** 2 + (yy - y) ** 2 <= radius**2] = i + 1
    return np.where(find_boundaries(labels, mode="inner"), labels, 0)


def draw_figure(
    slide: OrionSlide, path: Path, scorer: Scorer, predictions: Predictions, mpp: float
) -> None:
    """Draw a slide's field: H&E, then a panel a marker.

    Every cell of the field is predicted, whether or not it was sampled for testing.

    Parameters
    ----------
    slide : OrionSlide
        With its IF.
    path : Path
        PNG to write.
    scorer : Scorer
    predictions : Predictions
        Of the split; the field is chosen by the labels of this slide's cells.
    mpp : float
        Pixel size of the patches, µm/px.
    """
    if slide.if_ is None:
        raise DataError(f"{slide.folder}: no IF file to draw")
    stores, panel = predictions.stores, scorer.panel
    own = stores.slides == slide.folder
    patch_px = scorer.net.config.patch_px
    with slide.open_he() as image:
        side = min(round(FIELD_UM / image.mpp), *image.dimensions)
        field = choose_field(
            stores.x[own], stores.y[own], stores.labels[own], side, image.dimensions
        )
        table = read_cells(slide.cells, (), slide.table_format)
        inside = field.contains(table.x, table.y)
        cells = CellTable(table.path, table.cell_id[inside], table.x[inside], table.y[inside], {})
        scale, margin = image.mpp / mpp, patch_px // 2 + 1
        left, top = (math.floor(v * scale) - margin for v in (field.left, field.top))
        width = math.ceil(side * scale) + 2 * margin
        region = image.read_region(left, top, width, width, mpp)
        centers = np.stack(
            [to_working(v, image.mpp, mpp) - o for v, o in ((cells.x, left), (cells.y, top))],
            axis=1,
        )
        he = image.read_region(field.left, field.top, side, side, image.mpp)
        mpp_level0 = image.mpp
    logits = classify_patches(
        scorer.net,
        cut_patches(region, centers, patch_px),
        device=next(scorer.net.parameters()).device,
    )
    final = scorer.finish(logits)[1]
    layout = slide.layout
    wanted = [layout.nuclei_plane, *(layout.plane_of(name) for name in panel.names)]
    with slide.open_if() as fluorescence:
        planes = read_planes(fluorescence, wanted, field)
    mask = None
    if slide.mask is not None:
        with Planes(slide.mask) as image:
            mask = read_planes(image, [0], field)[0]
    edges = outline((side, side), field, cells, mask, mpp_level0)
    figure = new_figure(3.2 * (1 + len(panel)), 3.6)
    axes = figure.subplots(1, 1 + len(panel))
    axes[0].imshow(he)
    axes[0].set_title("H&E", fontsize=10)
    for column, name in enumerate(panel.names):
        rgb = overlay(planes[0], planes[1 + column])
        threshold = scorer.thresholds[column]
        called = final[:, column] >= (0.5 if math.isnan(threshold) else threshold)
        drawn = edges > 0
        color = np.where(called[:, None], POSITIVE_RGB, NEGATIVE_RGB)
        rgb[drawn] = color[edges[drawn] - 1]
        axes[1 + column].imshow(rgb)
        axes[1 + column].set_title(f"{name}: {int(called.sum())} of {len(called)}", fontsize=10)
    for panel_axes in axes:
        panel_axes.axis("off")
    figure.suptitle(
        f"{slide.folder}: truth yellow over nuclei blue; called positive red, negative green",
        fontsize=9,
    )
    save_figure(figure, path)


def draw_figures(cohort: Cohort, out: Path, scorer: Scorer, predictions: Predictions) -> list[Path]:
    """Draw every slide of the predictions that has its IF; the others are named in a warning.

    Parameters
    ----------
    cohort : Cohort
    out : Path
        Folder for ``figure_<slide>.png``.
    scorer : Scorer
    predictions : Predictions

    Returns
    -------
    list of Path
    """
    wanted = set(predictions.stores.slides.tolist())
    slides = [slide for slide in cohort.slides if slide.folder in wanted]
    missing = [s.folder for s in slides if s.if_ is None]
    if missing:
        log.warning(
            "no figure for %s: the IF is not there; get it with `lymphinfer orion download "
            "--slides %s --only if`",
            ", ".join(missing),
            ",".join(missing),
        )
    written = []
    for slide in slides:
        if slide.if_ is not None:
            path = out / f"figure_{slide.folder}.png"
            draw_figure(slide, path, scorer, predictions, predictions.stores.mpp)
            written.append(path)
    return written
