"""What a region holds: areas, counts, densities with their intervals, fractions and ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.export.results import Result
from lymphinfer.regions.grid import Grid
from lymphinfer.regions.intervals import blocks_interval, cells_interval
from lymphinfer.regions.nuclei import Nuclei

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """What is the same for all regions of a slide.

    Attributes
    ----------
    result : Result
    nuclei : Nuclei
    blocks : Grid
        Between which densities are compared.
    places : ndarray of intp, shape (N,)
        The block of each nucleus.
    """

    result: Result
    nuclei: Nuclei
    blocks: Grid
    places: NDArray[np.intp]


def count_region(scene: Scene, inside: Mask, tissue_mm2: float, shares: F64) -> dict[str, Any]:
    """Count a region's nuclei and markers.

    Parameters
    ----------
    scene : Scene
    inside : ndarray of bool, shape (N,)
        Nuclei of the region that lie on tissue.
    tissue_mm2 : float
        Its area on tissue, mm².
    shares : ndarray of float64, flat
        Share of each block that the region's tissue covers.

    Returns
    -------
    dict
        ``nuclei``, ``nuclei_per_mm2``, ``blocks``, ``markers`` and ``ratios``, as `regions.json`
        has them.
    """
    result, panel = scene.result, scene.result.panel
    places = scene.places[inside]
    block_mm2 = shares * (tissue_mm2 / total if (total := shares.sum()) else 0.0)
    nuclei = int(inside.sum())
    sums: dict[str, F64] = {}
    markers = {}
    for i, name in enumerate(panel.names):
        given = scene.nuclei.probabilities[inside, i].astype(np.float64)
        p = np.nan_to_num(given)
        sums[name] = scene.blocks.sums(places, p)
        called = None
        if result.is_called(name):
            called = int((scene.nuclei.positive(name) & inside).sum())
        markers[name] = _marker(result, name, p, called, tissue_mm2, sums[name], block_mm2)
    return {
        "nuclei": nuclei,
        "nuclei_per_mm2": per(nuclei, tissue_mm2),
        "nuclei_per_mm2_blocks": rounded_pair(
            blocks_interval(scene.blocks.sums(places), block_mm2)
        ),
        "blocks": int((block_mm2 > 0).sum()),
        "markers": markers,
        "ratios": _ratios(result, markers, sums),
    }


def _marker(
    result: Result,
    name: str,
    p: F64,
    called: int | None,
    tissue_mm2: float,
    sums: F64,
    block_mm2: F64,
) -> dict[str, Any]:
    low, high = cells_interval(p)
    expected = float(p.sum())
    n = len(p)
    return {
        "evidence": result.word(name),
        "called": called,
        "called_per_mm2": None if called is None else per(called, tissue_mm2),
        "called_fraction": None if called is None else per(called, n),
        "expected": rounded(expected),
        "expected_cells": [low, high],
        "expected_fraction": per(expected, n),
        "expected_fraction_cells": [per(low, n), per(high, n)] if n else None,
        "expected_per_mm2": per(expected, tissue_mm2),
        "expected_per_mm2_cells": [per(low, tissue_mm2), per(high, tissue_mm2)]
        if tissue_mm2
        else None,
        "expected_per_mm2_blocks": rounded_pair(blocks_interval(sums, block_mm2)),
    }


def _ratios(
    result: Result, markers: Mapping[str, Mapping[str, Any]], sums: Mapping[str, F64]
) -> list[dict[str, Any]]:
    """Child to parent, where both have learned evidence; else why not."""
    rows: list[dict[str, Any]] = []
    for marker in result.panel.markers:
        if marker.parent is None:
            continue
        child, parent = markers[marker.name], markers[marker.parent]
        row: dict[str, Any] = {
            "child": marker.name,
            "parent": marker.parent,
            "evidence": {name: result.word(name) for name in (marker.name, marker.parent)},
        }
        without = [n for n in (marker.name, marker.parent) if not result.is_learned(n)]
        if without:
            row["refused"] = f"nothing was learned for {' and '.join(without)}"
        else:
            row["expected"] = per(child["expected"], parent["expected"])
            row["expected_blocks"] = rounded_pair(
                blocks_interval(sums[marker.name], sums[marker.parent])
            )
            never = [n for n in (marker.name, marker.parent) if not result.is_called(n)]
            row["called"] = None if never else per(child["called"], parent["called"])
            if never:
                row["note"] = f"{' and '.join(never)}: only expected, never called"
        rows.append(row)
    return rows


def per(number: float, whole: float) -> float | None:
    """Share or density; None of nothing."""
    return rounded(number / whole) if whole else None


def rounded(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def rounded_pair(interval: tuple[float, float] | None) -> list[float] | None:
    """An interval for JSON."""
    return None if interval is None else [rounded(end) for end in interval]
