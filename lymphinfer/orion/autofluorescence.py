"""Removing autofluorescence from a channel: by published numbers, or by a slide's own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from lymphinfer.orion.gates import AfCorrection
from lymphinfer.orion.layout import orion_layout
from lymphinfer.orion.mixture import Values, find_background

PUBLISHED_AF: Mapping[str, AfCorrection] = {
    name: AfCorrection(entry.lambda_, entry.beta)
    for name, entry in orion_layout().file.autofluorescence.items()
}
"""Corrections by channel that another group used for the whole cohort (ORION's data contract)."""


class AfMethod(StrEnum):
    """How autofluorescence is removed: estimated by slide, published for all, or not."""

    ESTIMATE = "estimate"
    PUBLISHED = "published"
    NONE = "none"


def find_correction(
    marker: str, raw: Values, autofluorescence: Values, method: AfMethod, foot_sigmas: float
) -> AfCorrection | None:
    """Decide how a channel of a slide is corrected.

    Parameters
    ----------
    marker : str
        Name of the channel.
    raw, autofluorescence : ndarray of float64, (N,)
        Raw means of the channel and of AF1, artefacts left out.
    method : AfMethod
    foot_sigmas : float
        With ``estimate`` the background's mode comes to lie this many of its widths above 0, where
        correction ends, so that no cell of interest is cut off.

    Returns
    -------
    AfCorrection or None
        None for no correction; that is also what ``published`` gives for other channels.
    """
    if method is AfMethod.NONE:
        return None
    if method is AfMethod.PUBLISHED:
        return PUBLISHED_AF.get(marker)
    slope = round(slope_on_autofluorescence(raw, autofluorescence), 3)
    background = find_background(raw - slope * autofluorescence)
    return AfCorrection(slope, round(foot_sigmas * background.sigma - background.mode, 1))


def slope_on_autofluorescence(values: Values, autofluorescence: Values) -> float:
    """Counts of autofluorescence in a channel for each count in AF1.

    Cells are binned by AF1 between its 1st and 99th percentile; the slope is Theil and Sen's
    through the lower quartile of the channel in each bin, which positive cells hardly move.

    Parameters
    ----------
    values, autofluorescence : ndarray of float64, (N,)
        The channel and AF1.

    Returns
    -------
    float
        0 to 3.
    """
    from scipy.stats import theilslopes

    bins = min(20, len(values) // 50)
    if bins < 3:
        return 0.0
    edges = np.quantile(autofluorescence, np.linspace(0.01, 0.99, bins + 1))
    which = np.searchsorted(edges, autofluorescence, side="right") - 1
    points = [
        (
            float(np.median(autofluorescence[which == i])),
            float(np.quantile(values[which == i], 0.25)),
        )
        for i in range(bins)
        if (which == i).sum() >= 20
    ]
    if len(points) < 3:
        return 0.0
    af, levels = np.array(points).T
    if np.ptp(af) <= 0:
        return 0.0
    return float(np.clip(theilslopes(levels, af)[0], 0.0, 3.0))
