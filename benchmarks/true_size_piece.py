"""The periodic piece of made tissue that a slide of true size repeats, and its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.simulate import panel19
from lymphinfer.simulate.cell_table import measure_cells
from lymphinfer.simulate.cohort_slide import DILATION_PX, relabel
from lymphinfer.simulate.design import IMBALANCES, MPP, draw_conditions, marker_shares, plan_cohort
from lymphinfer.simulate.fluorescence import render_fluorescence
from lymphinfer.simulate.nuclei import LabelImage
from lymphinfer.simulate.tissue import render_tissue

_REACH_PX = 64


@dataclass(frozen=True)
class Piece:
    """The periodic piece.

    Attributes
    ----------
    rgb : ndarray of uint8, (P, P, 3)
    white : ndarray of uint8, (3,)
        Glass.
    labels : ndarray of int32, (P, P)
        1 to n.
    over : tuple of ndarray of int8, (P, P)
        Copies down and to the right that a pixel's cell has its centre in: 0 but at the edges.
    counts : ndarray of uint16, (19, P, P)
    table : dict of str to ndarray of float64, (n,)
        By column of a cell table.
    """

    rgb: NDArray[np.uint8]
    white: NDArray[np.uint8]
    labels: NDArray[np.int32]
    over: tuple[NDArray[np.int8], NDArray[np.int8]]
    counts: NDArray[np.uint16]
    table: dict[str, NDArray[np.float64]]

    @property
    def px(self) -> int:
        """Its side."""
        return len(self.labels)


def make_piece(seed: int, px: int) -> Piece:
    """Render the piece as a simulated cohort's CRC01 is, but periodic."""
    plan = plan_cohort(3)[0]
    told = draw_conditions(plan, seed, marker_shares(IMBALANCES["paper"]), 1.0)
    tissue = render_tissue(
        (px, px), mpp=MPP, seed=told.tissue_seed, settings=told.tissue, stain=told.stain,
        periodic=True, label_reach_px=DILATION_PX,
    )  # fmt: skip
    assert tissue.labels is not None
    image, cells = relabel(tissue.labels, tissue.cells)
    rng = np.random.default_rng(told.image_seed)
    eosin = np.ascontiguousarray(tissue.densities[..., 1])
    rgb = np.roll(tissue.rgb, told.shift_px[::-1], axis=(0, 1))
    layout, stain = tissue.layout, tissue.stain
    del tissue
    counts = render_fluorescence(
        rng, image, eosin, layout,
        panel19.draw_expression(rng, cells.type, cells.y, cells.x, MPP), told.acquisition, MPP,
    )  # fmt: skip
    at = np.zeros((2, len(cells) + 1))
    at[:, 1:] = cells.y, cells.x
    here = np.arange(px)
    over = (
        _copies(here[:, None], at[0][image.labels], px),
        _copies(here[None, :], at[1][image.labels], px),
    )
    return Piece(
        rgb=rgb,
        white=np.rint(np.array(stain.white)).astype(np.uint8),
        labels=image.labels,
        over=over,
        counts=counts,
        table=_measured(image, counts, at),
    )


def _copies(place: NDArray[Any], center: NDArray[np.float64], px: int) -> NDArray[np.int8]:
    """How many pieces further on the copy of a cell is that a pixel belongs to."""
    return np.rint((place - center) / px).astype(np.int8)


def _measured(
    image: LabelImage, counts: NDArray[np.uint16], at: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The cell table of one copy; cells at the edge are measured whole."""
    px, m = len(image.labels), _REACH_PX
    around = np.pad(image.labels, m, mode="wrap")
    here = np.arange(-m, px + m)
    own = (_copies(here[:, None], at[0][around], px) == 0) & (
        _copies(here[None, :], at[1][around], px) == 0
    )
    around[~own] = 0
    table = measure_cells(around, np.pad(counts, ((0, 0), (m, m), (m, m)), mode="wrap"))
    for name in ("X_centroid", "Y_centroid"):
        table[name] = table[name] - m
    return table
