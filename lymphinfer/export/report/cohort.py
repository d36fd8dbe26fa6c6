"""Slides in the groups of a user's table: numbers, intervals, a figure, and files to go on with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import ResultError
from lymphinfer.export.regions import write_csv
from lymphinfer.export.report.figures import LEARNED_COLOR, new_figure
from lymphinfer.export.results import Result
from lymphinfer.textfiles import decode, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLIDE, PATIENT = "slide", "patient"
COHORT_CSV, GROUPS_CSV = "cohort.csv", "groups.csv"
FEWEST = 3
"""Patients, or slides, from which on a group's mean has an interval."""
_DRAWS = 2000


@dataclass(frozen=True)
class Grouping:
    """A user's table of slides.

    Attributes
    ----------
    path : Path
    column : str
        By which slides are grouped.
    rows : dict of str to dict of str to str
        By slide, as the table names it without its folder: the row.
    """

    path: Path
    column: str
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def has_patients(self) -> bool:
        """Whether the table says whose slides they are."""
        return any(row.get(PATIENT) for row in self.rows.values())

    def row(self, result: Result) -> dict[str, str] | None:
        """A slide's row, by its file name or by that without its suffix."""
        for name in (result.name, result.stem, Path(result.name).stem):
            if name in self.rows:
                return self.rows[name]
        return None


def read_grouping(path: Path, column: str) -> Grouping:
    """Read a csv or tsv with the columns ``slide``, the one to group by, and maybe ``patient``.

    Raises
    ------
    ResultError
        It cannot be read, lacks a column, or names a slide twice.
    """
    try:
        text = decode(path.read_bytes())
        dialect = csv.Sniffer().sniff(text.split("\n", 1)[0], ",;\t|") if text.strip() else "excel"
        reader = csv.DictReader(io.StringIO(text), dialect=dialect, skipinitialspace=True)
        found = [
            {(k or "").strip(): (v or "").strip() for k, v in row.items() if k} for row in reader
        ]
        names = [str(name).strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResultError(f"{path}: the table of slides cannot be read ({reason})") from error
    missing = [name for name in (SLIDE, column) if name not in names]
    if missing:
        raise ResultError(
            f"{path}: no column {' or '.join(missing)} in the table of slides; it has "
            f"{', '.join(names)}: it needs `{SLIDE}` and the column to group by"
        )
    rows: dict[str, dict[str, str]] = {}
    for row in found:
        name = row[SLIDE].replace("\\", "/").rsplit("/", 1)[-1]
        if name in rows:
            raise ResultError(f"{path}: the slide {name} stands there twice; leave one row")
        rows[name] = row
    return Grouping(path, column, rows)


@dataclass(frozen=True)
class Cohort:
    """Slides in groups.

    Attributes
    ----------
    grouping : Grouping
    names : tuple of str
        Groups, sorted; numbers by their value.
    slides : list of dict
        A row a slide and marker, for tables.
    groups : list of dict
        A row a group and marker, for tables.
    left_out : tuple of str
        Slides without a group.
    """

    grouping: Grouping
    names: tuple[str, ...]
    slides: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    left_out: tuple[str, ...]

    @property
    def statement(self) -> str:
        """How many slides of how many patients stand in the groups, for people."""
        counted = {row[SLIDE] for row in self.slides if row["group"]}
        patients = {row[PATIENT] for row in self.slides if row["group"] and row.get(PATIENT)}
        whose = f" of {len(patients)} patients" if patients else ""
        left = ""
        if self.left_out:
            names = ", ".join(self.left_out[:5])
            more = f" and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
            left = f"; {len(self.left_out)} without a group left out: {names}{more}"
        unit = "patients" if patients else "slides"
        by, table = self.grouping.column, shown(self.grouping.path.name)
        return (
            f"{len(counted)} slides{whose} in {len(self.names)} groups by `{by}` of {table}{left}. "
            f"Intervals of 95 % for the mean, by drawing {unit} with replacement; none below "
            f"{FEWEST} {unit}. Groups were not drawn at random: a difference between them is no "
            "proof of its cause."
        )


def group_slides(results: Sequence[Result], grouping: Grouping) -> Cohort:
    """Put slides into the groups of a table.

    Raises
    ------
    ResultError
        The table names none of the slides.
    """
    slides: list[dict[str, Any]] = []
    left_out = []
    for result in results:
        row = grouping.row(result) or {}
        group = row.get(grouping.column, "")
        if not group:
            left_out.append(shown(result.name))
        slides += [
            {
                SLIDE: shown(result.name),
                "group": group,
                **({PATIENT: row.get(PATIENT, "")} if grouping.has_patients else {}),
                "marker": name,
                "evidence": result.word(name),
                "bundle": str(result.summary["bundle"].get("name")),
                "tissue_mm2": result.summary.get("tissue_mm2"),
                "nuclei": result.nuclei,
                **{
                    key: result.summary["markers"][name].get(key)
                    for key in ("expected", "expected_per_mm2", "positive", "positive_per_mm2")
                },
                **{k: v for k, v in row.items() if k not in (SLIDE, PATIENT)},
            }
            for name in result.panel.names
        ]
    names = sorted({row["group"] for row in slides if row["group"]}, key=_order)
    if not names:
        raise ResultError(
            f"{grouping.path}: none of its slides ({', '.join(list(grouping.rows)[:3])} …) has "
            f"results here, such as {shown(results[0].name) if results else 'none'}: its column "
            f"`{SLIDE}` must hold file names"
        )
    markers = list(dict.fromkeys(str(row["marker"]) for row in slides))
    groups = [_group(slides, marker, name) for marker in markers for name in names]
    return Cohort(grouping, tuple(names), slides, groups, tuple(left_out))


def write_tables(root: Path, cohort: Cohort) -> list[Path]:
    """Write `COHORT_CSV`, a row a slide and marker, and `GROUPS_CSV`, a row a group and marker.

    Raises
    ------
    ResultError
        They cannot be written.
    """
    return [
        write_csv(root / COHORT_CSV, cohort.slides),
        write_csv(root / GROUPS_CSV, cohort.groups),
    ]


def strips(cohort: Cohort) -> Figure:
    """Draw each slide as a dot on a line a group, a panel a marker, with means and intervals."""
    markers = list(dict.fromkeys(row["marker"] for row in cohort.groups))
    height = 0.9 + 0.34 * len(cohort.names)
    figure = new_figure(2.2 + 2.1 * len(markers), height)
    panels = figure.subplots(1, len(markers), sharey=True, squeeze=False)[0]
    for axes, marker in zip(panels, markers, strict=True):
        rows = [row for row in cohort.groups if row["marker"] == marker]
        for i, row in enumerate(rows):
            values = _values(cohort.slides, marker, row["group"])
            jitter = 0.16 * np.sin(2.4 * np.arange(len(values)))
            learned = row["evidence"] != "base-rate"
            color = LEARNED_COLOR if learned else "#777777"
            axes.scatter(values, i + jitter, s=18, alpha=0.7, edgecolors=color,
                         facecolors=color if learned else "none")  # fmt: skip
            if row["mean"] is not None:
                axes.plot([row["mean"]] * 2, [i - 0.3, i + 0.3], color="black", lw=1.6)
            if row["mean_low"] is not None:
                axes.plot([row["mean_low"], row["mean_high"]], [i + 0.34] * 2, color="black", lw=1)
        axes.set_title(f"{marker} ({rows[0]['evidence']})", loc="left", fontsize=9)
        axes.set_xlim(left=0)
        axes.set_xlabel("expected per mm²")
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(cohort.names)), cohort.names)
    panels[0].set_ylim(len(cohort.names) - 0.4, -0.6)
    return figure


def _group(slides: Sequence[Mapping[str, Any]], marker: str, group: str) -> dict[str, Any]:
    mine = [row for row in slides if row["marker"] == marker and row["group"] == group]
    known = [row for row in mine if row["expected_per_mm2"] is not None]
    values = np.array([row["expected_per_mm2"] for row in known], np.float64)
    units = [row.get(PATIENT) or f"slide {row[SLIDE]}" for row in known]
    quartiles = np.percentile(values, (25, 50, 75)) if len(values) else [math.nan] * 3
    low, high = _interval(values, units)
    return {
        "group": group,
        "marker": marker,
        "evidence": ", ".join(sorted({str(row["evidence"]) for row in mine})),
        "slides": len(known),
        "patients": len({row[PATIENT] for row in known if row.get(PATIENT)}) or None,
        "mean": _rounded(values.mean() if len(values) else math.nan),
        "mean_low": _rounded(low),
        "mean_high": _rounded(high),
        "quartile_1": _rounded(quartiles[0]),
        "median": _rounded(quartiles[1]),
        "quartile_3": _rounded(quartiles[2]),
        "least": _rounded(values.min() if len(values) else math.nan),
        "most": _rounded(values.max() if len(values) else math.nan),
    }


def _interval(values: NDArray[np.float64], units: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean over slides, by drawing those of a patient together."""
    _, which = np.unique(list(units), return_inverse=True)
    count = int(which.max()) + 1 if len(values) else 0
    if count < FEWEST:
        return math.nan, math.nan
    total = np.bincount(which, values, count)
    members = np.bincount(which, minlength=count).astype(np.float64)
    drawn = np.random.default_rng(0).integers(0, count, (_DRAWS, count))
    low, high = np.percentile(total[drawn].sum(axis=1) / members[drawn].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _values(slides: Sequence[Mapping[str, Any]], marker: str, group: str) -> NDArray[np.float64]:
    return np.array(
        [
            np.nan if row["expected_per_mm2"] is None else row["expected_per_mm2"]
            for row in slides
            if row["marker"] == marker and row["group"] == group
        ],
        np.float64,
    )


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


def _order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name
