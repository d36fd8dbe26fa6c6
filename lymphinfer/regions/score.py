"""An immune score: densities of two markers in the tumour's centre and margin, among a reference.

After Galon et al. (2014) and Pagès et al. (2018), who stain and count the cells: the mean of the
percentiles of four densities. It is a research number, not the assay of that name.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lymphinfer.bundles.evidence import Evidence
from lymphinfer.errors import AnnotationError
from lymphinfer.panel import Panel
from lymphinfer.textfiles import decode

FEWEST = 10
"""Slides in a reference: a percentile among fewer says nothing."""
PLACES = ("centre", "margin")
STATEMENT = (
    "mean of the percentiles of the expected densities of {markers} in the centre and the invasive "
    "margin, among {n} slides of {source}; the interval goes from all four lower to all four upper "
    "ends of the intervals between blocks. A research number, not a clinical assay"
)

Reference = dict[str, list[float]]


def score_columns(panel: Panel) -> list[str]:
    """Names of a reference's columns: marker and place, expected per mm².

    Examples
    --------
    >>> from lymphinfer.panel import TCELL_PANEL
    >>> score_columns(TCELL_PANEL)
    ['CD3e centre', 'CD3e margin', 'CD8a centre', 'CD8a margin']
    """
    return [f"{name} {place}" for name in panel.scored for place in PLACES]


def read_reference(path: Path, panel: Panel) -> Reference:
    """Read a csv of densities, a row a slide.

    Parameters
    ----------
    path : Path
        With the columns of `score_columns`, per mm²; others are passed over.
    panel : Panel

    Returns
    -------
    dict of str to list of float
        By column.

    Raises
    ------
    AnnotationError
        It cannot be read, lacks a column, or a number is none.
    """
    wanted = score_columns(panel)
    try:
        reader = csv.DictReader(io.StringIO(decode(path.read_bytes())))
        rows, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: the reference cannot be read ({error})") from error
    missing = [name for name in wanted if name not in names]
    if missing:
        raise AnnotationError(
            f"{path}: the reference has no column {', '.join(missing)}; it needs a row a slide and "
            f"the columns {', '.join(wanted)}, expected nuclei per mm²"
        )
    found: Reference = {}
    for name in wanted:
        values = [_number(row[name]) for row in rows]
        if any(value is None for value in values):
            line = values.index(None) + 2
            raise AnnotationError(f"{path}: line {line} of the reference has no number as {name}")
        found[name] = [value for value in values if value is not None]
    return found


def reference_of(records: Sequence[Mapping[str, Any]], panel: Panel) -> dict[str, Reference]:
    """Densities of a batch's own slides, by class: those that have all four.

    Parameters
    ----------
    records : sequence of mapping
        Contents of ``regions.json``.
    panel : Panel
    """
    found: dict[str, Reference] = {}
    for record in records:
        for name in margin_classes(record):
            densities = _densities(record, name, panel)
            if isinstance(densities, str):
                continue
            for column, (value, _) in densities.items():
                found.setdefault(name, {}).setdefault(column, []).append(value)
    return found


def margin_classes(record: Mapping[str, Any]) -> list[str]:
    """Classes of a record that have a centre and a margin."""
    return [str(row["class"]) for row in record["rows"] if row["kind"] == "margin"]


def immune_score(
    record: Mapping[str, Any], class_name: str, panel: Panel, reference: Reference, source: str
) -> dict[str, Any]:
    """Score a slide, or say why not.

    Parameters
    ----------
    record : mapping
        Content of ``regions.json``.
    class_name : str
        One of `margin_classes`.
    panel : Panel
    reference : dict
        From `read_reference`, or of the class from `reference_of`.
    source : str
        What the reference is, for people.

    Returns
    -------
    dict
        ``score`` and ``interval``, 0 to 100, ``percentiles``, ``evidence`` and ``statement``; or
        ``refused``, in words.
    """
    head: dict[str, Any] = {
        "class": class_name,
        "evidence": {n: _statement(record, n) for n in panel.scored},
    }
    densities = _densities(record, class_name, panel)
    if isinstance(densities, str):
        return head | {"refused": densities}
    n = min((len(values) for values in reference.values()), default=0)
    if n < FEWEST:
        return head | {"refused": f"{source} has {n} slides; a percentile needs {FEWEST} or more"}
    parts, ends = {}, []
    for column, (value, interval) in densities.items():
        known = reference[column]
        low, middle, high = (percentile(v, known) for v in (interval[0], value, interval[1]))
        parts[column] = {"per_mm2": value, "percentile": middle, "interval": [low, high]}
        ends.append((low, middle, high))
    low, middle, high = np.mean(ends, axis=0)
    markers = " and ".join(panel.scored)
    return head | {
        "score": round(float(middle), 1),
        "interval": [round(float(low), 1), round(float(high), 1)],
        "percentiles": parts,
        "statement": STATEMENT.format(markers=markers, n=n, source=source),
    }


def percentile(value: float, reference: Sequence[float]) -> float:
    """Share of a reference below a value, half of those equal to it, in percent.

    Examples
    --------
    >>> percentile(2, [1, 2, 3, 4])
    37.5
    """
    known = np.asarray(reference, np.float64)
    return 100 * float((known < value).mean() + (known == value).mean() / 2)


def _densities(
    record: Mapping[str, Any], class_name: str, panel: Panel
) -> dict[str, tuple[float, tuple[float, float]]] | str:
    """The four densities with their intervals, or why there are none."""
    if not panel.scored:
        return f"the panel {panel.name} has no immune score"
    words = {n: (record["evidence"].get(n) or {}).get("evidence") for n in panel.scored}
    weak = [n for n, word in words.items() if word != Evidence.STAIN]
    if weak:
        said = ", ".join(f"{n}: {words[n] or 'unknown'}" for n in weak)
        return f"given only where the evidence of {' and '.join(panel.scored)} is stain ({said})"
    rows = {
        row["kind"]: row for row in record["rows"]
        if row["class"] == class_name and row["kind"] in PLACES
    }  # fmt: skip
    found = {}
    for name in panel.scored:
        for place in PLACES:
            values = rows[place]["markers"][name]
            value, interval = values["expected_per_mm2"], values["expected_per_mm2_blocks"]
            if value is None or interval is None:
                return f"{rows[place]['region']}: too little tissue for an interval between blocks"
            found[f"{name} {place}"] = (float(value), (float(interval[0]), float(interval[1])))
    return found


def _statement(record: Mapping[str, Any], name: str) -> str:
    row = record["evidence"].get(name) or {}
    return str(row.get("statement") or row.get("evidence") or "unknown")


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
