"""A piece of simulated H&E tissue: layout, ground, cells, stain."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate import celltypes
from lymphinfer.simulate.ground import render_ground
from lymphinfer.simulate.layout import Layout, LayoutSettings, make_layout
from lymphinfer.simulate.nuclei import LabelImage, stamp_cells
from lymphinfer.simulate.sites import place_sites, type_prior
from lymphinfer.simulate.stain import Stain, sample_stain, to_rgb

PAPER_RATIOS: dict[str, float] = {"CD45": 0.22, "CD3e": 0.04, "CD4": 0.006, "CD8a": 0.006}
"""Positive to negative cells of the ORION cohort."""

DEMO_SHARES: dict[str, float] = {"CD45": 0.34, "CD3e": 0.16, "CD4": 0.07, "CD8a": 0.05}
"""Share of positive cells of an immune-rich tissue, in which small pictures show every type."""


@dataclass(frozen=True)
class TissueSettings:
    """What a piece of tissue is like.

    Attributes
    ----------
    layout : LayoutSettings
        Glands, aggregates, vessels, background.
    marker_share : dict of str to float
        Share of cells that carry each marker.
    stain_spread : float
        Scale of the stain's variation between slides.
    """

    layout: LayoutSettings = field(default_factory=LayoutSettings)
    marker_share: dict[str, float] = field(default_factory=lambda: dict(DEMO_SHARES))
    stain_spread: float = 1.0


@dataclass(frozen=True)
class Cells:
    """The truth about every cell of a piece of tissue.

    Attributes
    ----------
    y, x : ndarray of float64, (cells,)
        Nucleus centres, px (pixel centres at integers).
    type : ndarray of intp, (cells,)
        Index in `celltypes.TYPES`.
    looks : ndarray of intp, (cells,)
        Index of the type whose looks the cell has, mostly its own.
    context : ndarray of intp, (cells,)
        Index in `sites.CONTEXTS`.
    angle : ndarray of float64, (cells,)
        Direction of the major axis, radians.
    features : ndarray of float64, (cells, features)
        Latent features, columns as `celltypes.FEATURES`.
    markers : ndarray of bool, (cells, markers)
        True markers, columns as the panel's.
    posterior : ndarray of float64, (cells, markers)
        Best possible probability of each marker: by Bayes' rule from the latent features and the
        type frequencies of the cell's context.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    type: NDArray[np.intp]
    looks: NDArray[np.intp]
    context: NDArray[np.intp]
    angle: NDArray[np.float64]
    features: NDArray[np.float64]
    markers: NDArray[np.bool_]
    posterior: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Cells:
        """Cells of the given indices or mask."""
        return Cells(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Tissue:
    """A rendered piece of tissue.

    Attributes
    ----------
    rgb : ndarray of uint8, (height, width, 3)
        H&E.
    densities : ndarray of float32, (height, width, 2)
        Haematoxylin and eosin of which `rgb` is the picture.
    labels : LabelImage or None
        Each pixel's nucleus.
    cells : Cells
        The truth.
    layout : Layout
        The regions.
    stain : Stain
        The stain.
    mpp : float
        Pixel size, µm.
    """

    rgb: NDArray[np.uint8]
    densities: NDArray[np.float32]
    labels: LabelImage | None
    cells: Cells
    layout: Layout
    stain: Stain
    mpp: float


def render_tissue(
    size_px: tuple[int, int],
    *,
    mpp: float = 0.325,
    seed: int | np.random.SeedSequence = 0,
    settings: TissueSettings | None = None,
    stain: Stain | None = None,
    periodic: bool = False,
    label_reach_px: float | None = None,
) -> Tissue:
    """Render a piece of tissue.

    Parameters
    ----------
    size_px : tuple of int
        (width, height), px.
    mpp : float
        Pixel size, µm.
    seed : int or numpy.random.SeedSequence
        The same seed gives the same tissue.
    settings : TissueSettings, optional
        What the tissue is like.
    stain : Stain, optional
        The stain; drawn where not given.
    periodic : bool
        Opposite edges fit together; sizes must divide by `layout.factor` (4 at 0.325 µm/px).
    label_reach_px : float, optional
        Make `Tissue.labels` too, nuclei dilated by this many pixels.

    Returns
    -------
    Tissue
    """
    settings = settings or TissueSettings()
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    rngs = [np.random.default_rng(s) for s in root.spawn(6)]
    width, height = size_px
    layout = make_layout(rngs[0], (height, width), mpp, settings.layout)
    cells = sample_cells(rngs[1], layout, mpp, settings.marker_share)
    stain = stain or sample_stain(rngs[2], settings.stain_spread)
    canvas = render_ground(rngs[3], layout, (height, width), mpp)
    labels = stamp_cells(
        rngs[4],
        canvas,
        cells.features,
        cells.y,
        cells.x,
        cells.angle,
        mpp,
        periodic=periodic,
        label_reach_px=label_reach_px,
    )
    rgb = to_rgb(rngs[5], canvas, stain, mpp)
    return Tissue(
        rgb=rgb, densities=canvas, labels=labels, cells=cells, layout=layout, stain=stain, mpp=mpp
    )


def sample_cells(
    rng: np.random.Generator, layout: Layout, mpp: float, marker_share: dict[str, float]
) -> Cells:
    """Place cells on a layout and draw their types and features.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    layout : Layout
        Regions.
    mpp : float
        Pixel size, µm.
    marker_share : dict of str to float
        Share of cells that carry each marker.

    Returns
    -------
    Cells
    """
    sites = place_sites(rng, layout, mpp)
    prior = type_prior(sites.context, marker_share)
    prior = prior[sites.context]
    types = celltypes.draw_types(rng, prior)
    looks = celltypes.draw_looks(rng, types, prior)
    features = celltypes.sample_features(rng, looks)
    carries = celltypes.marker_matrix(TCELL_PANEL.names)
    posterior = celltypes.type_posterior(features, prior) @ carries
    return Cells(
        y=sites.y,
        x=sites.x,
        type=types,
        looks=looks,
        context=sites.context,
        angle=sites.angle,
        features=features,
        markers=carries[types],
        posterior=posterior,
    )
