"""From gates to labels: positive, negative or unknown per cell and marker, and what was dropped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import AUTOFLUORESCENCE, BLANK, CellTable, load_cells
from lymphinfer.orion.gates import Gate, SlideGates
from lymphinfer.orion.layout import TableFormat
from lymphinfer.panel import Panel

POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -1
Labels = NDArray[np.int8]

CURATION_RULE = (
    "a positive label is dropped where a marker above it in the hierarchy is labelled negative"
)


@dataclass(frozen=True)
class LabelCounts:
    """What became of a slide's cells for one marker; the counts add up to all cells.

    Attributes
    ----------
    marker : str
    positive, negative : int
        Labels that stand.
    uncertain : int
        Between the thresholds.
    overexposed : int
        Over the third threshold, on a cell that is no artefact.
    artefact : int
        Cells with a bright blank channel.
    curated : int
        Positive labels that broke the hierarchy.
    """

    marker: str
    positive: int
    negative: int
    uncertain: int
    overexposed: int
    artefact: int
    curated: int


@dataclass(frozen=True)
class SlideLabels:
    """Labels of a slide's cells.

    Attributes
    ----------
    labels : ndarray of int8, (N, M)
        1 positive, 0 negative, -1 unknown; markers in panel order.
    counts : tuple of LabelCounts
        One a marker.
    """

    labels: Labels
    counts: tuple[LabelCounts, ...]


def gate_values(cells: CellTable, marker: str, gate: Gate) -> NDArray[np.float64]:
    """Intensities that a gate's thresholds apply to, float64 (N,): raw, or AF-corrected."""
    raw = cells.intensities[marker]
    if gate.af is None:
        return raw
    if AUTOFLUORESCENCE not in cells.intensities:
        raise DataError(
            f"{cells.path}: the gate of {marker} takes autofluorescence off, but the cohort names "
            "no such channel. Name it in cohort.toml ([image] autofluorescence), or remove the "
            "gate's af table."
        )
    return gate.af.apply(raw, cells.intensities[AUTOFLUORESCENCE])


def usable_cells(cells: CellTable, blank_max: float | None) -> NDArray[np.bool_]:
    """Cells that are no artefact, bool (N,): all, where there is no blank channel or no limit."""
    if blank_max is None or BLANK not in cells.intensities:
        return np.ones(len(cells), bool)
    return cells.intensities[BLANK] <= blank_max


def apply_gate(values: NDArray[np.floating], gate: Gate) -> Labels:
    """Label cells by one gate, before curation.

    Parameters
    ----------
    values : ndarray of float, (N,)
        As `gate_values` returns them.
    gate : Gate

    Returns
    -------
    ndarray of int8, (N,)
        1 from `positive_min` to below `overexposure_min`, 0 below `negative_max`, else -1; a NaN
        is unknown.
    """
    labels = np.full(len(values), UNKNOWN, np.int8)
    labels[values < gate.negative_max] = NEGATIVE
    labels[(values >= gate.positive_min) & (values < gate.overexposure_min)] = POSITIVE
    return labels


def curate(labels: Labels, panel: Panel) -> tuple[Labels, NDArray[np.int64]]:
    """Drop labels that break the hierarchy.

    The rule is `CURATION_RULE`, by the labels as gated, for every ancestor. The negative label
    above stays: macrophages carry CD4 and are rightly negative for CD3e.

    Parameters
    ----------
    labels : ndarray of int8, (N, M)
        As gated, markers in panel order.
    panel : Panel

    Returns
    -------
    curated : ndarray of int8, (N, M)
        A copy.
    dropped : ndarray of int64, (M,)
        Labels that became unknown, by marker.
    """
    curated = labels.copy()
    for column, name in enumerate(panel.names):
        above = [panel.index(ancestor) for ancestor in panel.lineage(name)[:-1]]
        broken = (labels[:, column] == POSITIVE) & (labels[:, above] == NEGATIVE).any(axis=1)
        curated[broken, column] = UNKNOWN
    return curated, (curated != labels).sum(axis=0, dtype=np.int64)


def label_cells(cells: CellTable, gates: SlideGates, panel: Panel) -> SlideLabels:
    """Gate and curate a slide's cells.

    Parameters
    ----------
    cells : CellTable
        With the channels that `needed_channels` names.
    gates : SlideGates
        A gate for every marker of the panel.
    panel : Panel

    Returns
    -------
    SlideLabels

    Raises
    ------
    DataError
        A marker has no gate.
    """
    absent = [name for name in panel.names if name not in gates.markers]
    if absent:
        raise DataError(f"{cells.path}: no gate for {', '.join(absent)} in the gates file.")
    gated = np.empty((len(cells), len(panel)), np.int8)
    overexposed = np.zeros((len(cells), len(panel)), bool)
    artefact = ~usable_cells(cells, gates.blank_max)
    for column, name in enumerate(panel.names):
        gate = gates.markers[name]
        values = gate_values(cells, name, gate)
        gated[:, column] = apply_gate(values, gate)
        overexposed[:, column] = (values >= gate.overexposure_min) & ~artefact
    gated[artefact] = UNKNOWN
    labels, dropped = curate(gated, panel)
    counts = []
    for column, name in enumerate(panel.names):
        positive, negative = (int((labels[:, column] == v).sum()) for v in (POSITIVE, NEGATIVE))
        over = int(overexposed[:, column].sum())
        spent = positive + negative + over + int(artefact.sum()) + int(dropped[column])
        counts.append(
            LabelCounts(
                marker=name,
                positive=positive,
                negative=negative,
                uncertain=len(cells) - spent,
                overexposed=over,
                artefact=int(artefact.sum()),
                curated=int(dropped[column]),
            )
        )
    return SlideLabels(labels, tuple(counts))


def needed_channels(gates: SlideGates, panel: Panel) -> tuple[str, ...]:
    """List the channels that `label_cells` needs: markers, AF1 to correct, blank to limit."""
    channels = list(panel.names)
    if any(gate.af is not None for gate in gates.markers.values()):
        channels.append(AUTOFLUORESCENCE)
    if gates.blank_max is not None:
        channels.append(BLANK)
    return tuple(channels)


def load_labelled(
    path: Path,
    gates: SlideGates,
    panel: Panel,
    size_level0: tuple[int, int] | None = None,
    form: TableFormat | None = None,
) -> tuple[CellTable, SlideLabels]:
    """Read a cell table and label it; see `load_cells` and `label_cells`."""
    cells = load_cells(path, needed_channels(gates, panel), size_level0, form)
    return cells, label_cells(cells, gates, panel)
