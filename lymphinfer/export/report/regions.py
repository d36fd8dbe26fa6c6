"""The part of a slide's page that shows its regions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import shapely

from lymphinfer.export.regions import record_of, row_color
from lymphinfer.export.report.areas import svg_path
from lymphinfer.export.report.figures import BASE_RATE_COLOR, LEARNED_COLOR, new_figure
from lymphinfer.export.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 60
_MOST_BARS = 24


def region_part(result: Result) -> dict[str, Any] | None:
    """What the page shows of a slide's regions; None where none were measured.

    Returns
    -------
    dict or None
        ``record``; ``shown``, the first `MOST_ROWS` rows; ``shapes`` of the map, the large ones
        beneath; ``classes`` of the annotations, with their colours; ``ratio_notes``; ``chart``, the
        figure.

    Raises
    ------
    ResultError
        The record is damaged.
    """
    record = record_of(result)
    if record is None:
        return None
    rows = record["rows"]
    return {
        "record": record,
        "shown": rows[:MOST_ROWS],
        "left": max(0, len(rows) - MOST_ROWS),
        "shapes": _shapes(result, record),
        "classes": _classes(record),
        "ratio_notes": _ratio_notes(rows),
        "aggregates": _aggregates(record),
        "chart": densities(result, rows),
    }


def densities(result: Result, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the expected density of each region and marker as bars, with their intervals.

    Annotations come last, and only for as long as there is room.
    """
    bars = sorted(rows, key=lambda row: row["kind"] == "annotation")[:_MOST_BARS]
    names = result.panel.names
    figure = new_figure(2.6 + 2.1 * len(names), 0.9 + 0.26 * len(bars))
    all_axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, names, strict=True):
        learned = result.is_learned(name)
        for i, row in enumerate(bars):
            values = row["markers"][name]
            density = values["expected_per_mm2"]
            if density is None:
                continue
            axes.barh(
                i,
                density,
                0.7,
                color=LEARNED_COLOR if learned else BASE_RATE_COLOR,
                hatch=None if learned else "////",
                edgecolor="none" if learned else "#666666",
                linewidth=0.4,
            )
            blocks = values["expected_per_mm2_blocks"]
            low, high = blocks or values["expected_per_mm2_cells"]
            # By the probabilities alone an interval is too narrow for a region: drawn thin.
            axes.plot([low, high], [i, i], color="black", lw=1.6 if blocks else 0.6)
        axes.set_title(f"{name} ({result.word(name)})", loc="left", fontsize=9)
        axes.set_xlim(left=0)
        axes.set_xlabel("expected per mm²")
        axes.locator_params(axis="x", nbins=4)
    all_axes[0].set_yticks(range(len(bars)), [row["region"] for row in bars])
    all_axes[0].set_ylim(len(bars) - 0.4, -0.6)
    return figure


def _shapes(result: Result, record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Areas of the map: bands and centres filled, annotations as lines over them."""
    step = max(result.dimensions) / 1400
    kinds = {"band": "fill", "centre": "fill", "annotation": "line"}
    found = []
    for row in sorted(record["rows"], key=lambda row: row["kind"] == "annotation"):
        if row["kind"] not in kinds:
            continue
        area = shapely.from_geojson(json.dumps(row["geometry"]))
        if area.is_empty:
            continue
        color = _rgb(record, row)
        found.append({"kind": kinds[row["kind"]], "name": row["region"], "color": color,
                      "path": svg_path(area, step)})  # fmt: skip
    spots = [
        shapely.from_geojson(json.dumps(spot["geometry"])) for spot in record["hot_spots"]["spots"]
    ]
    if spots:
        found.append({"kind": "hot", "name": "hot spots (Gi*)", "color": "#dc322f",
                      "path": svg_path(shapely.union_all(spots), step)})  # fmt: skip
    return found


def _classes(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Classes of the annotations and their colours; without a class the annotation's own name."""
    return list(
        {
            row["class"] or row["region"]: _rgb(record, row)
            for row in record["rows"]
            if row["kind"] == "annotation"
        }.items()
    )[:_MOST_BARS]


def _ratio_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of ratios, once for all regions."""
    notes = [
        f"{ratio['child']} to {ratio['parent']}: {ratio['note']}"
        for row in rows
        for ratio in row["ratios"]
        if "note" in ratio
    ]
    return list(dict.fromkeys(notes))


def _rgb(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return "rgb({}, {}, {})".format(*row_color(record, row))


def _aggregates(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The largest aggregates, in QuPath's words of size."""
    return list(record["aggregates"]["largest"][:10])
