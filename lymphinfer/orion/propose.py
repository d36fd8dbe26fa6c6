"""Proposed gates: where a slide's own intensities divide negative from positive cells.

For each marker, in panel order:

1. Autofluorescence is removed (`AfCorrection`), by a robust estimate of the slide or by published
   numbers.
2. The background's mode and width are found among all cells (`find_background`).
3. Two Gaussians are fitted to log intensities above the background's foot. A child marker is
   fitted among the cells that are positive for its parent, where it is common even if it is rare on
   the slide. Where the positive share is still small, or spill-over between neighbours blurs the
   two, only the tail above the background is fitted, from further and further up; where no two
   components can be told apart, the background alone decides.
   Where the file's range ends above the background, as in a picture made for the eye, a large share
   of the cells has the same lowest value and nothing is known of their background: they are
   negative, and the two are fitted to what lies above.
4. A cell is positive where it belongs to the upper component with a probability of at least
   `confidence` and lies no further than two widths below that component's mean, negative where the
   probability is at most one minus `confidence`, uncertain between.

Gaussian mixtures on autofluorescence-corrected ORION intensities, and the published numbers, follow
the group named in ORION's data contract. A proposal is a start: a pathologist should look at it
(`lymphinfer gate show`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.autofluorescence import AfMethod, find_correction
from lymphinfer.orion.celltable import AUTOFLUORESCENCE, BLANK, CellTable
from lymphinfer.orion.cohort_file import ImageTable
from lymphinfer.orion.gates import Gate, SlideGates
from lymphinfer.orion.labels import NEGATIVE, POSITIVE, apply_gate, gate_values, usable_cells
from lymphinfer.orion.layout import orion_layout
from lymphinfer.orion.mixture import (
    Background,
    TwoGaussians,
    Values,
    find_background,
    fit_two_gaussians,
    split_in_two,
)
from lymphinfer.panel import Panel

_FOOT_SIGMAS = 8.0
# Where the fitted tail begins, in widths above the background's mode; -inf fits all cells.
_TAIL_SIGMAS = (-np.inf, 2.5, 5.0, 10.0, 20.0)
_TAIL_SHARE = 0.05
# Ashman's D: from 2 on a mixture has two modes; below 1.5 its parts mean nothing.
_TWO_MODES, _MIN_SEPARATION = 2.0, 1.5
# Below this the upper component's own cells are few, and spill-over outnumbers them.
_TYPICAL_SDS = 2.0
_MAX_CLUTTER = 0.05
# More equal values than chance leaves among means of a camera's counts.
_FLOOR_SHARE = 0.2
# Above a floor: populations of less than twice each other's intensity are one.
_LEAST_FOLD = float(np.log(2))
_MIN_CELLS, _MIN_POOL, _MIN_TAIL, _MIN_COMPONENT = 100, 30, 30, 5
_MAX_FITTED = 100_000


@dataclass(frozen=True)
class Proposal:
    """A proposed gate and what it rests on.

    Attributes
    ----------
    marker : str
    gate : Gate
    method : str
        ``"mixture"``, ``"tail mixture"``, ``"background"`` or ``"above floor"``.
    pool : str
        The marker among whose positive cells was fitted, or ``"all"``.
    background : Background
        Of the corrected intensities, counts.
    separation : float or None
        Ashman's D of the two components; below 2 look twice.
    positive, negative : int
        Cells that the gate labels, before curation.
    """

    marker: str
    gate: Gate
    method: str
    pool: str
    background: Background
    separation: float | None
    positive: int
    negative: int


def proposal_channels(panel: Panel) -> tuple[str, ...]:
    """Channels that `propose_slide` needs."""
    return (*panel.names, AUTOFLUORESCENCE, BLANK)


def propose_slide(
    cells: CellTable,
    panel: Panel,
    *,
    af: AfMethod = AfMethod.ESTIMATE,
    confidence: float = 0.95,
    seed: int = 0,
    keep: Mapping[str, Gate] | None = None,
    image: ImageTable | None = None,
) -> tuple[SlideGates, tuple[Proposal, ...]]:
    """Propose a slide's gates; the module says how.

    Parameters
    ----------
    cells : CellTable
        With the channels of `proposal_channels`, all finite.
    panel : Panel
    af : AfMethod
        How autofluorescence is removed.
    confidence : float
        Above 0.5, below 1.
    seed : int
        Decides which 100,000 cells are fitted where there are more.
    keep : mapping of str to Gate, optional
        Gates that stand, by marker; its children are proposed accordingly.
    image : ImageTable, optional
        The cohort's: what its blank channel may have, and where its range ends; ORION's where
        None.

    Returns
    -------
    gates : SlideGates
    proposals : tuple of Proposal
        One a marker that is not kept.

    Raises
    ------
    DataError
        Too few cells without artefact.
    """
    rng, af = np.random.default_rng(seed), AfMethod(af)
    image = orion_layout().file.image if image is None else image
    blank_max = image.blank_max if BLANK in cells.intensities else None
    usable = usable_cells(cells, blank_max)
    if usable.sum() < _MIN_CELLS:
        raise DataError(
            f"{cells.path}: {int(usable.sum())} of {len(cells)} cells are no artefacts by their "
            f"blank channel (at most {blank_max}); gates need {_MIN_CELLS}. Leave the slide out."
        )
    if AUTOFLUORESCENCE not in cells.intensities:
        af = AfMethod.NONE
    gates: dict[str, Gate] = {}
    positive: dict[str, NDArray[np.bool_]] = {}
    proposals = []
    for marker in panel.markers:
        kept = (keep or {}).get(marker.name)
        if kept is not None:
            gates[marker.name] = kept
        else:
            pool, name = usable, "all"
            if marker.parent is not None and positive[marker.parent].sum() >= _MIN_POOL:
                pool, name = positive[marker.parent], marker.parent
            proposal = _propose(
                cells, marker.name, usable, pool, name, af, confidence, rng, image.saturation
            )
            cells_of = "all" if name == "all" else f"{name}+"
            stamp = f"lymphinfer gate propose ({proposal.method}, {cells_of} cells, seed {seed})"
            proposal = replace(proposal, gate=replace(proposal.gate, set_by=stamp))
            proposals.append(proposal)
            gates[marker.name] = proposal.gate
        values = gate_values(cells, marker.name, gates[marker.name])
        positive[marker.name] = usable & (apply_gate(values, gates[marker.name]) == POSITIVE)
    return SlideGates(gates, blank_max), tuple(proposals)


def _propose(
    cells: CellTable,
    marker: str,
    usable: NDArray[np.bool_],
    pool: NDArray[np.bool_],
    pool_name: str,
    af: AfMethod,
    confidence: float,
    rng: np.random.Generator,
    saturation: float,
) -> Proposal:
    """Propose one marker's gate from the cells of a pool and the background of all usable cells."""
    values = cells.intensities[marker]
    correction = None
    floor = _floor(values[usable])
    # A correction would spread what the floor has made equal.
    if af is not AfMethod.NONE and floor is None:
        glow = cells.intensities[AUTOFLUORESCENCE]
        correction = find_correction(marker, values[usable], glow[usable], af, _FOOT_SIGMAS)
        if correction is not None:
            # Not cut off at 0: a cut would hide the background's shape.
            values = values - correction.lambda_ * glow + correction.beta
    background = find_background(values[usable])
    fitted = values[pool]
    if len(fitted) > _MAX_FITTED:
        fitted = rng.choice(fitted, _MAX_FITTED, replace=False, shuffle=False)
    if floor is None:
        found = _thresholds(fitted, background, confidence, saturation)
    else:
        found = _above_floor(fitted, floor, confidence, saturation, rng)
    thresholds, method, separation = found
    # Corrected values end at 0, so no threshold can lie below.
    least = 0.1 if correction is not None else -np.inf
    low, high, over = (round(max(t, least), 1) for t in thresholds)
    gate = Gate(low, max(high, low), max(over, high + 1.0, low + 1.0), af=correction)
    labels = apply_gate(gate_values(cells, marker, gate), gate)[usable]
    return Proposal(
        marker,
        gate,
        method,
        pool_name,
        background,
        separation,
        int((labels == POSITIVE).sum()),
        int((labels == NEGATIVE).sum()),
    )


def _thresholds(
    values: Values, background: Background, confidence: float, saturation: float
) -> tuple[tuple[float, float, float], str, float | None]:
    """Thresholds in the values' counts, the method, and the separation of the components."""
    sigma = background.sigma
    foot = background.mode - _FOOT_SIGMAS * sigma
    # Below the mode nothing is learned about the signal, and logarithms would stretch it.
    log_values = np.log(np.maximum(values - foot, (_FOOT_SIGMAS - 2) * sigma))
    fit, method = _best_fit(log_values, sigma)
    if fit is None:
        low_max, high_min = background.mode + 2 * sigma, background.mode + 5 * sigma
        return (low_max, high_min, saturation), method, None
    low_max, high_min = _between(fit, confidence)
    typical = float(np.exp(fit.mean[1] - _TYPICAL_SDS * fit.sd[1]))
    high_min = max(high_min, typical, (_FOOT_SIGMAS + 3) * sigma)
    low_max = min(max(low_max, (_FOOT_SIGMAS + 1) * sigma), high_min)
    over = min(float(np.exp(fit.mean[1] + 4 * max(fit.sd[1], 0.25))), saturation)
    return (low_max + foot, high_min + foot, over + foot), method, fit.separation


def _floor(values: Values) -> float | None:
    """The lowest value, where so many cells have it that the file's range must end there."""
    lowest = float(values.min())
    return lowest if float((values == lowest).mean()) >= _FLOOR_SHARE else None


def _above_floor(
    values: Values, floor: float, confidence: float, saturation: float, rng: np.random.Generator
) -> tuple[tuple[float, float, float], str, float | None]:
    """As `_thresholds`, from the cells above the floor of the file's range."""
    above = np.sort(values[values > floor]) - floor
    if len(above) < _MIN_TAIL:
        top = float(above[-1]) if len(above) else 1.0
        return (floor + top / 2, floor + 2 * top, saturation), "background", None
    step = float(np.min(np.diff(np.unique(above)), initial=float(above[0])))
    # Rounded values have gaps, in which a narrow component would settle.
    room = min(step, 1.0)
    log_values = np.log(np.maximum(above + rng.uniform(-0.5, 0.5, len(above)) * room, room / 2))
    fit = _fit(log_values)
    apart = fit.separation >= _MIN_SEPARATION and np.diff(fit.mean)[0] >= _LEAST_FOLD
    if not apart or min(fit.weight) * len(above) < _MIN_COMPONENT:
        # What lies above is of one kind: the floor is the background.
        high_min = float(np.exp(log_values.mean() - _TYPICAL_SDS * log_values.std()))
        return (floor + min(step, high_min) / 2, floor + high_min, saturation), "above floor", None
    low_max, high_min = _between(fit, confidence)
    high_min = max(high_min, float(np.exp(fit.mean[1] - _TYPICAL_SDS * fit.sd[1])))
    # Up to half a step above the floor all are alike.
    low_max = min(max(low_max, step / 2), high_min)
    over = min(float(np.exp(fit.mean[1] + 4 * max(fit.sd[1], 0.25))) + floor, saturation)
    high_min += floor
    return (
        (low_max + floor, high_min, max(over, high_min)),
        "above floor",
        fit.separation,
    )


def _between(fit: TwoGaussians, confidence: float) -> tuple[float, float]:
    """Where negatives end and positives begin, by the posterior between the two means."""
    grid = np.linspace(fit.mean[0], fit.mean[1], 2001)
    posterior = fit.posterior(grid)
    # Between the means the upper component's share need not rise everywhere: the negatives end
    # where it first is in doubt, the positives begin where it is in doubt no more.
    doubtful = np.flatnonzero(posterior > 1 - confidence)
    unsure = np.flatnonzero(posterior < confidence)
    low_max = float(np.exp(grid[doubtful[0]])) if len(doubtful) else float(np.exp(grid[-1]))
    high_min = float(np.exp(grid[unsure[-1]])) if len(unsure) else float(np.exp(grid[0]))
    return low_max, high_min


def _best_fit(log_values: Values, sigma: float) -> tuple[TwoGaussians | None, str]:
    """Fit all cells, then ever more of the tail alone, until two components stand apart."""
    best: TwoGaussians | None = None
    method = "background"
    above = log_values > np.log((_FOOT_SIGMAS + _TAIL_SIGMAS[1]) * sigma)
    common = above.mean() > _TAIL_SHARE
    for start in _TAIL_SIGMAS if common else _TAIL_SIGMAS[1:]:
        fitted = log_values[log_values > np.log(max(_FOOT_SIGMAS + start, 1e-9) * sigma)]
        if len(fitted) < _MIN_TAIL:
            break
        fit = _fit(fitted)
        apart = fit.separation if min(fit.weight) * len(fitted) >= _MIN_COMPONENT else 0.0
        if apart >= (best.separation if best is not None else _MIN_SEPARATION):
            best, method = fit, "mixture" if start < 0 else "tail mixture"
        if apart >= _TWO_MODES:
            break
    return best, method


def _fit(values: Values) -> TwoGaussians:
    """Fit two Gaussians from Otsu's division of the values."""
    upper = values > split_in_two(values)
    sides = values[~upper], values[upper]
    means = (float(sides[0].mean()), float(sides[1].mean()))
    sds = (float(sides[0].std()), float(sides[1].std()))
    return fit_two_gaussians(values, means, sds, max_clutter=_MAX_CLUTTER)
