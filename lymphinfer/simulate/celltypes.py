"""Cell types, their markers, and the latent features from which a cell's looks are drawn.

A cell's type enters its picture by its latent features alone: given its features, position, context
and neighbours' features the picture does not depend on the type. The class-conditional densities
are known (`log_density`), so the best possible posterior of a type, hence of a marker, is known
too.

Each feature is Gaussian given the looks, features being independent given the looks. What makes the
best possible AUROC less than 1:

- a share `LOOKALIKE` of all cells has the looks of a type drawn from its context, whatever its own
  type: cells above one another in the section, signal that spills over to a neighbour's nucleus;
- a share `AMBIGUOUS` of the rest has features from one common distribution: small dark nuclei, as
  pyknotic or tangentially cut cells of any type show;
- B cells, T cells and their kinds differ by fractions of a standard deviation only (`T_CELL_SHIFT`,
  `CD4_SHIFT`, `CD8_SHIFT`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEATURES: tuple[str, ...] = (
    "log_diameter",  # ln of the nucleus' equivalent diameter in µm
    "log_aspect",  # ln of major over minor axis
    "chromatin",  # mean haematoxylin density of the nucleus, OD
    "vesicular",  # 0 even, 1 pale inside a dark rim
    "clumping",  # amplitude of coarse chromatin, share of the mean
    "nucleolus",  # haematoxylin density of the nucleoli over the nucleus' own, OD
    "cytoplasm",  # width of the cytoplasm around the nucleus, µm
    "cytoplasm_eosin",  # eosin density of the cytoplasm, OD
    "cytoplasm_haematoxylin",  # haematoxylin density of the cytoplasm, OD
    "eccentricity",  # nucleus off the cytoplasm's centre, share of the cytoplasm's width
    "lobes",  # 0 one body, 1 three separate lobes
    "halo",  # clearing around the cell, 0-1
    "irregularity",  # amplitude of the contour's waves, share of the radius
)


@dataclass(frozen=True)
class CellType:
    """One cell type.

    Attributes
    ----------
    name : str
        As it stands in the truth table.
    markers : tuple of str
        The panel's markers that the type carries.
    mean, std : tuple of float
        Of each of `FEATURES`, given the type.
    """

    name: str
    markers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


_LYMPHOCYTE = (1.73, 0.13, 0.66, 0.10, 0.24, 0.02, 0.90, 0.13, 0.07, 0.20, 0.02, 0.45, 0.05)
_LYMPHOCYTE_STD = (0.09, 0.06, 0.07, 0.08, 0.06, 0.03, 0.30, 0.05, 0.03, 0.12, 0.04, 0.22, 0.02)


def _shifted(changes: dict[str, float]) -> tuple[float, ...]:
    """Lymphocyte means moved by a number of standard deviations in the named features."""
    return tuple(
        mean + std * changes.get(name, 0.0)
        for name, mean, std in zip(FEATURES, _LYMPHOCYTE, _LYMPHOCYTE_STD, strict=True)
    )


T_CELL_SHIFT: dict[str, float] = {"log_diameter": -0.30, "chromatin": 0.30, "cytoplasm": -0.25}
"""How T cells differ from the mean lymphocyte, in standard deviations; B cells go the other way."""

CD8_SHIFT: dict[str, float] = {"irregularity": 0.30, "cytoplasm_eosin": 0.35, "clumping": 0.25}
"""How CD8a T cells differ from other T cells, in standard deviations: weakly."""

CD4_SHIFT: dict[str, float] = {"log_diameter": 0.25, "halo": -0.25, "clumping": -0.30}
"""How CD4 T cells differ from other T cells, in standard deviations: weakly."""


def _sum(*shifts: dict[str, float]) -> dict[str, float]:
    return {name: sum(s.get(name, 0.0) for s in shifts) for name in FEATURES}


_B_SHIFT = {name: -value for name, value in T_CELL_SHIFT.items()}

# Columns as in FEATURES.
TYPES: tuple[CellType, ...] = (
    CellType(
        "epithelial",
        (),
        (2.02, 0.42, 0.33, 0.66, 0.20, 0.24, 1.20, 0.22, 0.08, 0.10, 0.02, 0.04, 0.05),
        (0.11, 0.13, 0.05, 0.16, 0.06, 0.12, 0.45, 0.03, 0.02, 0.10, 0.04, 0.06, 0.02),
    ),
    CellType(
        "tumour",
        (),
        (2.14, 0.40, 0.40, 0.58, 0.27, 0.34, 1.40, 0.23, 0.11, 0.12, 0.02, 0.06, 0.09),
        (0.16, 0.18, 0.08, 0.20, 0.08, 0.15, 0.60, 0.04, 0.03, 0.12, 0.05, 0.08, 0.04),
    ),
    CellType(
        "fibroblast",
        (),
        (1.74, 1.16, 0.42, 0.28, 0.20, 0.04, 0.45, 0.24, 0.05, 0.10, 0.02, 0.10, 0.08),
        (0.17, 0.30, 0.09, 0.18, 0.07, 0.05, 0.25, 0.06, 0.02, 0.10, 0.04, 0.12, 0.03),
    ),
    CellType(
        "endothelial",
        (),
        (1.72, 0.98, 0.47, 0.22, 0.18, 0.03, 0.45, 0.22, 0.05, 0.10, 0.02, 0.08, 0.06),
        (0.16, 0.24, 0.08, 0.14, 0.06, 0.04, 0.25, 0.06, 0.02, 0.10, 0.04, 0.10, 0.03),
    ),
    CellType(
        "macrophage",
        ("CD45",),
        (1.94, 0.38, 0.40, 0.44, 0.24, 0.10, 2.70, 0.20, 0.06, 0.45, 0.06, 0.22, 0.13),
        (0.13, 0.14, 0.07, 0.16, 0.06, 0.07, 0.70, 0.05, 0.03, 0.20, 0.06, 0.16, 0.04),
    ),
    CellType(
        "neutrophil",
        ("CD45",),
        (1.66, 0.20, 0.70, 0.06, 0.14, 0.02, 1.40, 0.34, 0.03, 0.15, 0.72, 0.20, 0.08),
        (0.10, 0.10, 0.08, 0.06, 0.05, 0.03, 0.35, 0.06, 0.02, 0.12, 0.16, 0.15, 0.03),
    ),
    CellType(
        "plasma",
        ("CD45",),
        (1.76, 0.16, 0.58, 0.26, 0.46, 0.04, 2.30, 0.17, 0.24, 0.85, 0.02, 0.14, 0.05),
        (0.09, 0.08, 0.07, 0.12, 0.08, 0.04, 0.50, 0.05, 0.05, 0.18, 0.04, 0.12, 0.02),
    ),
    CellType("b-cell", ("CD45",), _shifted(_B_SHIFT), _LYMPHOCYTE_STD),
    CellType("t-cell", ("CD45", "CD3e"), _shifted(T_CELL_SHIFT), _LYMPHOCYTE_STD),
    CellType(
        "t-cell-cd4",
        ("CD45", "CD3e", "CD4"),
        _shifted(_sum(T_CELL_SHIFT, CD4_SHIFT)),
        _LYMPHOCYTE_STD,
    ),
    CellType(
        "t-cell-cd8",
        ("CD45", "CD3e", "CD8a"),
        _shifted(_sum(T_CELL_SHIFT, CD8_SHIFT)),
        _LYMPHOCYTE_STD,
    ),
)
TYPE_NAMES: tuple[str, ...] = tuple(t.name for t in TYPES)

LOOKALIKE = 0.08
"""Share of cells with the looks of a type that is drawn from their context."""

AMBIGUOUS = 0.06
"""Share of all looks whose features are drawn from the common distribution."""

_COMMON_MEAN = (1.62, 0.28, 0.62, 0.10, 0.18, 0.03, 0.60, 0.20, 0.06, 0.15, 0.03, 0.25, 0.07)
_COMMON_STD = (0.14, 0.16, 0.10, 0.10, 0.07, 0.04, 0.35, 0.06, 0.03, 0.14, 0.06, 0.20, 0.03)

_MEAN: Array = np.array([t.mean for t in TYPES])
_STD: Array = np.array([t.std for t in TYPES])


def type_index(name: str) -> int:
    """Index of a type in `TYPES` by name; `ValueError` when there is none."""
    return TYPE_NAMES.index(name)


def marker_matrix(markers: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which type carries which marker.

    Parameters
    ----------
    markers : tuple of str
        Marker names, such as a panel's.

    Returns
    -------
    ndarray of bool, (types, markers)
    """
    return np.array([[m in t.markers for m in markers] for t in TYPES], dtype=bool)


def draw_types(rng: np.random.Generator, prior: Array) -> NDArray[np.intp]:
    """Draw a type for each cell.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    prior : ndarray of float64, (cells, types)
        Probabilities; rows sum to 1.

    Returns
    -------
    ndarray of intp, (cells,)
    """
    cumulative = prior.cumsum(axis=1)
    draw = rng.random(len(prior)) * cumulative[:, -1]
    index = (draw[:, None] >= cumulative).sum(axis=1)
    return np.asarray(np.minimum(index, prior.shape[1] - 1), dtype=np.intp)


def draw_looks(rng: np.random.Generator, types: NDArray[np.intp], prior: Array) -> NDArray[np.intp]:
    """Draw the type whose looks each cell has: its own, but for the share `LOOKALIKE`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    types : ndarray of intp, (cells,)
        The cells' types.
    prior : ndarray of float64, (cells, types)
        Probability of each type in the cell's context.

    Returns
    -------
    ndarray of intp, (cells,)
    """
    other = draw_types(rng, prior)
    return np.asarray(np.where(rng.random(len(types)) < LOOKALIKE, other, types))


def sample_features(rng: np.random.Generator, looks: NDArray[np.intp]) -> Array:
    """Draw the latent features of cells.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    looks : ndarray of intp, (cells,)
        Index of the type whose looks each cell has.

    Returns
    -------
    ndarray of float64, (cells, features)
        Columns as in `FEATURES`.
    """
    unit = rng.standard_normal((len(looks), len(FEATURES)))
    common = rng.random(len(looks)) < AMBIGUOUS
    mean = np.where(common[:, None], np.array(_COMMON_MEAN), _MEAN[looks])
    std = np.where(common[:, None], np.array(_COMMON_STD), _STD[looks])
    return np.asarray(mean + std * unit)


def _log_normal(features: Array, mean: Array, std: Array) -> Array:
    unit = (features - mean) / std
    return np.asarray(-0.5 * (unit**2).sum(-1) - np.log(std).sum(-1))


def log_density(features: Array) -> Array:
    """Log density of features given the looks of each type, up to one constant.

    Parameters
    ----------
    features : ndarray of float64, (cells, features)
        As `sample_features` returns them.

    Returns
    -------
    ndarray of float64, (cells, types)
    """
    own = np.stack([_log_normal(features, m, s) for m, s in zip(_MEAN, _STD, strict=True)], axis=1)
    common = _log_normal(features, np.array(_COMMON_MEAN), np.array(_COMMON_STD))
    return np.asarray(np.logaddexp(own + np.log1p(-AMBIGUOUS), common[:, None] + np.log(AMBIGUOUS)))


def type_posterior(features: Array, prior: Array) -> Array:
    """Posterior of each type by Bayes' rule, the share `LOOKALIKE` included.

    Parameters
    ----------
    features : ndarray of float64, (cells, features)
        Latent features.
    prior : ndarray of float64, (cells, types)
        Probability of each type in the cell's context; rows sum to 1.

    Returns
    -------
    ndarray of float64, (cells, types)
        Rows sum to 1.
    """
    density = log_density(features)
    density = np.exp(density - density.max(axis=1, keepdims=True))
    looks_of_any = (prior * density).sum(axis=1, keepdims=True)
    weight = prior * ((1 - LOOKALIKE) * density + LOOKALIKE * looks_of_any)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))
