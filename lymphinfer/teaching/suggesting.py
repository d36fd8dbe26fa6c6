"""Nuclei whose labels would teach most: where the model is unsure, of many kinds and places.

Three of four are uncertain ones. They are drawn by clusters of what is known of them
(probabilities, area, lymphocytes around, place), the most uncertain of each cluster (Zhdanov 2019,
"Diverse mini-batch active learning"). One of four is drawn evenly over the probabilities: a model
that is asked about its doubts alone learns nothing of what it is wrongly sure of, and cannot be
calibrated.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.table import read_ids, read_rings
from lymphinfer.errors import ResultError
from lymphinfer.export.qupath_areas import annotation, qupath_shape, validate_annotations
from lymphinfer.export.results import Result
from lymphinfer.teaching.naming import SUGGESTED
from lymphinfer.textfiles import json_bytes

COLOR = (255, 0, 200)
EVEN_SHARE = 0.25
_CANDIDATES = 20
_AROUND_UM = 50.0
_NAMESPACE = uuid.UUID("0f5d1c1e-5a0b-5c67-9c1e-6a4b6f0c7d52")


@dataclass(frozen=True)
class Suggestions:
    """Nuclei to be reviewed.

    Attributes
    ----------
    rows : ndarray of int64, (n,)
        Their places in the order of the result's tables, those that would teach most first.
    uncertain : int
        How many were drawn for their uncertainty: they stand first.
    """

    rows: NDArray[np.int64]
    uncertain: int


def choose(
    probabilities: NDArray[np.floating],
    threshold: float,
    kinds: NDArray[np.floating],
    places: NDArray[np.floating],
    count: int,
    seed: int = 0,
) -> Suggestions:
    """Choose the nuclei to be reviewed.

    Parameters
    ----------
    probabilities : ndarray of float, (N,)
        Of the marker.
    threshold : float
        From where it is called.
    kinds : ndarray of float, (N, K)
        What is known of the nuclei, in any units.
    places : ndarray of float, (N, 2)
        Centroids, any unit.
    count : int
    seed : int

    Returns
    -------
    Suggestions
        At most `count`, each nucleus once.
    """
    from sklearn.cluster import KMeans

    total = len(probabilities)
    count = min(count, total)
    even = round(count * EVEN_SHARE)
    wanted = count - even
    doubt = np.abs(_logit(probabilities) - _logit(np.array(threshold)))
    candidates = np.argsort(doubt, kind="stable")[: max(wanted * _CANDIDATES, wanted)]
    known = np.column_stack([_scaled(kinds), _scaled(places)])[candidates]
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    if wanted:
        kinds_of = max(1, min(wanted, len(np.unique(known, axis=0))))
        cluster = KMeans(kinds_of, n_init=1, max_iter=30, random_state=seed).fit_predict(known)
        for k in range(kinds_of):
            members = candidates[cluster == k]
            if len(members):
                chosen.append(int(members[np.argmin(doubt[members])]))
        # Equal nuclei share a cluster: the next most uncertain take the places.
        rest = candidates[~np.isin(candidates, chosen)]
        chosen += rest[: wanted - len(chosen)].tolist()
    chosen.sort(key=lambda i: float(doubt[i]))
    left = np.setdiff1d(np.arange(total), chosen)
    ordered = left[np.argsort(_logit(probabilities[left]), kind="stable")]
    others: list[int] = []
    # Evenly over the values, not over the nuclei: most of them are surely negative.
    values = _logit(probabilities[ordered])
    for goal in rng.permutation(np.linspace(values[0], values[-1], even)) if even else ():
        free = np.flatnonzero(~np.isin(ordered, others))
        near = free[np.argsort(np.abs(values[free] - goal), kind="stable")[:10]]
        others.append(int(ordered[rng.choice(near)]))
    return Suggestions(np.array([*chosen, *others], np.int64), len(chosen))


def suggest(result: Result, marker: str | None, count: int) -> Suggestions:
    """Choose the nuclei of a slide that are to be reviewed.

    Parameters
    ----------
    result : Result
    marker : str or None
        Which the labels are for; the panel's first without.
    count : int

    Raises
    ------
    ResultError
        The result has no such marker, nothing learned for it, or no nuclei.
    """
    from scipy.spatial import cKDTree

    marker = marker or result.panel.names[0]
    learned = [name for name in result.panel.names if result.is_learned(name)]
    if marker not in learned:
        raise ResultError(
            f"{result.folder}: nothing was learned for {marker} here, so that no nucleus is in "
            f"doubt; choose one of {', '.join(learned) or 'another bundle'}"
        )
    keys = [f"p_{result.panel.markers[result.panel.index(name)].key}" for name in learned]
    columns = ("x", "y", "area_um2", *keys)
    tables = list(result.tables(columns))
    if not sum(table.num_rows for table in tables):
        raise ResultError(f"{result.folder}: no nuclei to suggest; predict another slide")
    x, y, area, *values = (
        np.concatenate([table.column(name).to_numpy() for table in tables]).astype(np.float64)
        for name in columns
    )
    p = dict(zip(learned, values, strict=True))
    places = np.column_stack([x, y])
    tree = cKDTree(places * result.mpp)
    near = tree.query(places * result.mpp, k=min(9, len(places)))
    nearest, others = np.atleast_2d(near[0].T).T, np.atleast_2d(near[1].T).T
    around = (p[marker][others] * (nearest <= _AROUND_UM)).mean(axis=1)
    kinds = np.column_stack([*map(_logit, values), np.log(area), around])
    at = result.operating_point.get("markers", {}).get(marker, {}).get("threshold", 0.5)
    return choose(p[marker], float(at), kinds, places, count)


def write_suggestions(path: Path, result: Result, found: Suggestions) -> Path:
    """Write nuclei to be reviewed as annotations for QuPath, of class `SUGGESTED`.

    Parameters
    ----------
    path : Path
    result : Result
    found : Suggestions
        Of this result.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ResultError
        The nuclei cannot be read, or the file cannot be written.
    """
    rank = {int(row): i for i, row in enumerate(found.rows)}
    features: list[tuple[int, dict[str, Any]]] = []
    start = 0
    for table in result.tables():
        mine = [row for row in rank if start <= row < start + table.num_rows]
        if mine:
            rings, ids = read_rings(table), read_ids(table)
            for row in mine:
                i = row - start
                numbers = {
                    m.measurement: table.column(f"p_{m.key}")[i].as_py()
                    for m in result.panel.markers
                }
                area = qupath_shape(shapely.Polygon(rings[i]), result.qupath_offset)
                # Not the nucleus' own id, which may stand in the image already.
                identity = str(uuid.uuid5(_NAMESPACE, ids[i].tobytes().hex()))
                made = annotation(
                    area, identity=identity, name=f"{SUGGESTED} {rank[row] + 1}",
                    class_names=[SUGGESTED], color=COLOR,
                    measurements=numbers | {
                        "Rank": rank[row] + 1.0,
                        "Drawn for its uncertainty": float(rank[row] < found.uncertain),
                    },
                )  # fmt: skip
                if made is not None:
                    features.append((rank[row], made))
        start += table.num_rows
    ordered = [feature for _, feature in sorted(features, key=lambda each: each[0])]
    validate_annotations(ordered)
    content = {
        "type": "FeatureCollection",
        "lymphinfer": result.provenance,
        "features": ordered,
    }
    with atomic_write(path) as file:
        file.write(json_bytes(content, default=str))
    return path


def _logit(p: NDArray[np.floating]) -> NDArray[np.float64]:
    q = np.clip(np.asarray(p, np.float64), 1e-4, 1 - 1e-4)
    found: NDArray[np.float64] = np.log(q / (1 - q))
    return found


def _scaled(values: NDArray[np.floating]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9)
    return found
