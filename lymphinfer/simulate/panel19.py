"""The 19 channels of the simulated immunofluorescence: who expresses what, where, how brightly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lymphinfer.simulate.celltypes import TYPE_NAMES

Array = NDArray[np.float64]

LOCI = ("nucleus", "membrane", "cytoplasm")


@dataclass(frozen=True)
class Channel:
    """One channel.

    Attributes
    ----------
    name : str
        As ORION's tables and `markers.csv` spell it.
    locus : str
        One of `LOCI`.
    autofluorescence : float
        Counts here for each count of autofluorescence in AF1.
    expression : dict of str to float
        Mean counts over the background of each expressing type.
    share : dict of str to float
        Share of a type's cells that express; 1 where not named.
    region : str
        Extracellular stain follows this: ``""``, ``"gland"``, ``"stroma"`` or ``"vessel"``.
    region_counts : float
        Its counts.
    """

    name: str
    locus: str
    autofluorescence: float
    expression: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    region: str = ""
    region_counts: float = 0.0


_T = ("t-cell", "t-cell-cd4", "t-cell-cd8")


def _each(names: tuple[str, ...], value: float) -> dict[str, float]:
    return dict.fromkeys(names, value)


# CD4 on macrophages is dim but there, as in real tissue: a trap for gates that ignore CD3e.
CHANNELS: tuple[Channel, ...] = (
    Channel("Hoechst", "nucleus", 0.5, _each(TYPE_NAMES, 6500.0)),
    Channel("AF1", "cytoplasm", 1.0, {"macrophage": 60.0, "neutrophil": 80.0}),
    Channel("CD31", "membrane", 0.45, {"endothelial": 900.0}, region="vessel", region_counts=250),
    Channel(
        "CD45",
        "membrane",
        0.40,
        _each(_T, 2100.0)
        | {"b-cell": 1900.0, "plasma": 1000.0, "macrophage": 1200.0, "neutrophil": 1300.0},
    ),
    Channel("CD68", "cytoplasm", 0.50, {"macrophage": 900.0, "neutrophil": 180.0}),
    Channel("Argo550", "cytoplasm", 0.05),
    Channel("CD4", "membrane", 0.25, {"t-cell-cd4": 330.0, "macrophage": 80.0}),
    Channel("FOXP3", "nucleus", 0.20, {"t-cell-cd4": 250.0}, {"t-cell-cd4": 0.2}),
    Channel("CD8a", "membrane", 0.22, {"t-cell-cd8": 380.0}),
    Channel("CD45RO", "membrane", 0.35, _each(_T, 400.0), _each(_T, 0.6)),
    Channel("CD20", "membrane", 0.30, {"b-cell": 1000.0}),
    Channel("PD-L1", "membrane", 0.45, {"macrophage": 200.0, "tumour": 40.0}, {"tumour": 0.3}),
    Channel("CD3e", "membrane", 0.75, _each(_T, 750.0)),
    Channel("CD163", "membrane", 0.40, {"macrophage": 500.0}, {"macrophage": 0.7}),
    Channel(
        "E-cadherin",
        "membrane",
        0.35,
        {"epithelial": 900.0, "tumour": 650.0},
        region="gland",
        region_counts=300,
    ),
    Channel("PD-1", "membrane", 0.30, {"t-cell-cd4": 150.0, "t-cell-cd8": 120.0}),
    Channel(
        "Ki67", "nucleus", 0.20, {"tumour": 700.0, "b-cell": 500.0}, {"tumour": 0.4, "b-cell": 0.15}
    ),
    Channel(
        "Pan-CK",
        "cytoplasm",
        0.35,
        {"epithelial": 2300.0, "tumour": 3000.0},
        region="gland",
        region_counts=1600,
    ),
    Channel(
        "SMA",
        "cytoplasm",
        0.45,
        {"fibroblast": 700.0, "endothelial": 300.0},
        {"fibroblast": 0.35},
        region="stroma",
        region_counts=120,
    ),
)
CHANNEL_NAMES: tuple[str, ...] = tuple(c.name for c in CHANNELS)

CELL_SPREAD = 0.35
"""Standard deviation of the log expression between cells of a type."""

SPECTRAL_BLEED = 0.012
"""Share of a channel's signal that shows in the next channel."""

NEIGHBOUR_SPILL = 0.04
"""Share of a membrane signal that shows on each neighbour's mask."""

NONSPECIFIC = 18.0
"""Mean counts of unspecific antibody on a cell, in all channels but Hoechst, AF1 and the blank."""

NEIGHBOUR_UM = 8.0
"""Nuclei with centres this close are neighbours."""


def draw_expression(
    rng: np.random.Generator, types: NDArray[np.intp], y: Array, x: Array, mpp: float
) -> Array:
    """Draw every cell's counts over the background in every channel.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    types : ndarray of intp, (cells,)
        True types.
    y, x : ndarray of float64, (cells,)
        Centres, px.
    mpp : float
        Pixel size, µm.

    Returns
    -------
    ndarray of float64, (cells, 19)
        Unspecific stain, bleed between channels and spill between neighbours included.
    """
    mean = np.array([[c.expression.get(n, 0.0) for c in CHANNELS] for n in TYPE_NAMES])
    share = np.array([[c.share.get(n, 1.0) for c in CHANNELS] for n in TYPE_NAMES])
    shape = (len(types), len(CHANNELS))
    spread = np.where(np.array(CHANNEL_NAMES) == "Hoechst", 0.22, CELL_SPREAD)
    # One factor a cell for all its channels: it lies deeper or higher in the section.
    common = 0.12 * rng.standard_normal((len(types), 1))
    counts = mean[types] * np.exp(spread * rng.standard_normal(shape) - spread**2 / 2 + common)
    counts *= rng.random(shape) < share[types]
    stained = [c.name not in ("Hoechst", "AF1", "Argo550") for c in CHANNELS]
    counts += np.where(stained, rng.gamma(1.5, NONSPECIFIC / 1.5, shape), 0.0)
    membrane = np.array([c.locus == "membrane" for c in CHANNELS])
    spilled = counts.copy()
    if len(types) > 1:
        tree = cKDTree(np.stack([y, x], axis=1))
        pairs = tree.query_pairs(NEIGHBOUR_UM / mpp, output_type="ndarray")
        for a, b in (pairs.T, pairs.T[::-1]):
            spill = np.zeros(shape)
            np.add.at(spill, a, counts[b])
            spilled += np.where(membrane, NEIGHBOUR_SPILL, 0.0) * spill
    spilled[:, 1:] += SPECTRAL_BLEED * spilled[:, :-1] * (np.arange(1, len(CHANNELS)) > 2)
    return np.asarray(spilled)
