"""``summary.json``: what was found on a slide, how sure one may be of it, and what made it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.table import read_calls
from lymphinfer.columns import values_of
from lymphinfer.panel import OTHER, PANELS, Panel
from lymphinfer.textfiles import json_bytes
from lymphinfer.version import __version__

_DISTRIBUTIONS = (
    "torch",
    "timm",
    "numpy",
    "stardist",
    "tiatoolbox",
    "openvino",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "pyarrow",
    "shapely",
)


class Counts:
    """What a summary needs of the nuclei, gathered table by table.

    Parameters
    ----------
    panel : Panel
        The markers.

    Attributes
    ----------
    nuclei : int
        Rows seen.
    calls : ndarray of int64, shape (len(panel.calls),)
        Nuclei of each call, in the order of ``panel.calls``.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.nuclei = 0
        self.calls: NDArray[np.int64] = np.zeros(len(panel.calls), np.int64)
        self._columns = (
            "area_um2",
            "detection_probability",
            *(f"p_{marker.key}" for marker in panel.markers),
        )
        self._sums = dict.fromkeys(self._columns, 0.0)
        self._known = dict.fromkeys(self._columns, 0)

    def add(self, table: pa.Table) -> None:
        """Count a table's nuclei.

        Raises
        ------
        ResultError
            If a call is not one of the panel's.
        """
        self.nuclei += table.num_rows
        self.calls += np.bincount(read_calls(table, self.panel), minlength=len(self.calls))
        for name in self._columns:
            values = values_of(table.column(name)).astype(np.float64)
            known = np.isfinite(values)
            self._sums[name] += float(values[known].sum())
            self._known[name] += int(known.sum())

    def add_all(self, tables: Iterable[pa.Table]) -> Counts:
        """Count several tables; returns itself."""
        for table in tables:
            self.add(table)
        return self

    def positive(self, marker: str) -> int:
        """Nuclei whose call has the marker in its lineage: a CD8a call counts for CD3e and CD45."""
        return int(
            sum(
                count
                for call, count in zip(self.panel.calls, self.calls, strict=True)
                if call != OTHER and marker in self.panel.lineage(call)
            )
        )

    def expected(self, marker: str) -> float:
        """Sum of the marker's probabilities: the expected number of positive nuclei."""
        return self._sums[self._probability(marker)]

    def mean_probability(self, marker: str) -> float | None:
        """Mean of the marker's probabilities; None without nuclei."""
        return self.mean(self._probability(marker))

    def mean(self, column: str) -> float | None:
        """Mean of a column's finite values; None if there are none."""
        return self._sums[column] / self._known[column] if self._known[column] else None

    def _probability(self, marker: str) -> str:
        return f"p_{self.panel.markers[self.panel.index(marker)].key}"


def summarise(
    counts: Counts,
    *,
    tissue_mm2: float | None,
    slide: Mapping[str, Any],
    bundle: Mapping[str, Any],
    evidence: Mapping[str, Any],
    arguments: Mapping[str, Any],
    seconds: Mapping[str, float],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Put a slide's summary together.

    Parameters
    ----------
    counts : Counts
        All nuclei of the slide.
    tissue_mm2 : float or None
        Area that was looked at, mm². Densities are None where it is zero or not known.
    slide : mapping
        ``name``, ``identity``, ``mpp``, ``mpp_source``, ``dimensions``, ``reader``.
    bundle : mapping
        ``name`` and ``sha256``.
    evidence : mapping
        For each marker's name what stands behind its probability.
    arguments : mapping
        What the user asked for.
    seconds : mapping
        Seconds of each stage.
    warnings : sequence of str
        What the reader of the numbers must know.

    Returns
    -------
    dict
        Ready for JSON. ``calls`` has each nucleus once, under its class, and the class's colour;
        ``markers`` has it under every marker of its lineage. ``expected`` is the sum of
        probabilities.
    """
    panel = counts.panel

    def density(number: float) -> float | None:
        return _rounded(number / tissue_mm2) if tissue_mm2 else None

    return {
        "slide": dict(slide),
        "bundle": dict(bundle),
        "panel": panel.name,
        **({} if PANELS.get(panel.name) == panel else {"panel_markers": panel.described()}),
        "warnings": list(warnings),
        "tissue_mm2": _rounded(tissue_mm2),
        "nuclei": counts.nuclei,
        "nuclei_per_mm2": density(counts.nuclei),
        "mean_area_um2": _rounded(counts.mean("area_um2")),
        "mean_detection_probability": _rounded(counts.mean("detection_probability")),
        "calls": {
            panel.class_name(call): {
                "count": int(count),
                "per_mm2": density(count),
                "color": list(panel.color(call)),
            }
            for call, count in zip(panel.calls, counts.calls, strict=True)
        },
        "markers": {
            name: {
                "evidence": evidence.get(name),
                "positive": counts.positive(name),
                "positive_per_mm2": density(counts.positive(name)),
                "expected": _rounded(counts.expected(name)),
                "expected_per_mm2": density(counts.expected(name)),
                "mean_probability": _rounded(counts.mean_probability(name)),
            }
            for name in panel.names
        },
        "arguments": dict(arguments),
        "seconds": {stage: round(float(value), 3) for stage, value in seconds.items()},
        "versions": versions(),
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write a summary as indented JSON, whole or not at all.

    Raises
    ------
    ResultError
        If it cannot be written.
    """
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    with atomic_write(path) as file:
        file.write(json_bytes(dict(summary), option, str))


def versions() -> dict[str, str]:
    """Versions of LymphInfer, Python and the packages that shape a result, where installed."""
    found = {"lymphinfer": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more would be noise in a report."""
    return None if value is None else float(f"{value:.6g}")
