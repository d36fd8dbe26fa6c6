"""The tables of the manual's page on Table 1, from the measured rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lymphinfer.panel import TCELL_PANEL
from lymphinfer.paper.numbers import PATCH_SIZE_AUROC, TABLE_1, PaperRow
from recipes.orion_crc01.plan import HOVERNET

PAGE = Path(__file__).parents[2] / "docs" / "table-1-on-crc01.md"
PAPER_PX_UM = 0.325
LEAST_STEPS = 30
"""A network that was trained for fewer steps says nothing of its setting."""
_MARK = re.compile(r"(<!-- table: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Results = Mapping[str, Any]


def tables_of(results: Results, far: Results) -> dict[str, str]:
    """Tables by name, as Markdown, of `table1` and `far_panels`."""
    return {
        "far": far_scale(far),
        "table-1": table_1(results),
        "wbce": wbce(results),
        "sizes": sizes(results),
        "panels": panels(results),
        "bundle": bundle(results),
        "training": training(results),
    }


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table between its marks.

    Raises
    ------
    ValueError
        A table has no place, or a place no table.
    """
    places = {match["name"] for match in _MARK.finditer(page)}
    if places != set(tables):
        raise ValueError(f"places {sorted(places)}, tables {sorted(tables)}")
    return _MARK.sub(lambda m: f"{m[1]}\n{tables[m['name']]}\n{m[3]}", page)


def _group(results: Results, group: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["group"] == group and "metrics" in row]


def too_short(row: Mapping[str, Any]) -> bool:
    """Whether any of a row's networks has hardly been trained."""
    return bool(min(fit["steps"] for fit in row["fits"]) < LEAST_STEPS)


def paper_row(row: Mapping[str, Any]) -> PaperRow | None:
    """The paper's row of the same setting; None where it has none."""
    backbone = "hovernet" if row["backbone"] == HOVERNET else row["backbone"]
    kind = row["weighted"], row["multitask"]
    same = [p for p in TABLE_1 if p.backbone == backbone and (p.weighted, p.multitask) == kind]
    return same[0] if same else None


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    return "\n".join([*first, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _with_interval(values: Sequence[float | None]) -> str:
    value, low, high = values
    return f"{_two(value)} ({_two(low)}-{_two(high)})"


def table_1(results: Results) -> str:
    """Rows in the paper's order of settings, ours in bold, the paper's behind."""
    order = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
    backbones = list(dict.fromkeys(row["backbone"] for row in _group(results, "table")))
    rows = sorted(
        _group(results, "table"),
        key=lambda r: (backbones.index(r["backbone"]), order[r["weighted"], r["multitask"]]),
    )
    names = TCELL_PANEL.names
    body = []
    for row in rows:
        paper = paper_row(row)
        cells = []
        for i, name in enumerate(names):
            m = row["metrics"][name]
            own = f"**{_two(m['auroc'][0])} / {_two(m['balanced_accuracy'][0])}**"
            if too_short(row):
                own = "-"
            theirs = "" if paper is None else " ({:.2f} / {:.2f})".format(*paper.cells[i])
            cells.append(own + theirs)
        marks = ["x" if row[key] else "" for key in ("weighted", "multitask")]
        body.append([row["title"], *marks, *cells])
    return _lines(["backbone", "WBCE", "MTL", *names], body)


def wbce(results: Results) -> str:
    """Balanced accuracy at 0.5 without and with weights, and what the paper has."""
    table = _group(results, "table")
    body = []
    for row in table:
        if row["weighted"]:
            continue
        twin = [
            r for r in table if r["weighted"]
            and (r["backbone"], r["multitask"]) == (row["backbone"], row["multitask"])
        ]  # fmt: skip
        if not twin or too_short(row) or too_short(twin[0]):
            continue
        paper, weighted = paper_row(row), paper_row(twin[0])
        cells = []
        for i, name in enumerate(TCELL_PANEL.names):
            pair = [r["metrics"][name]["balanced_accuracy"][0] for r in (row, twin[0])]
            cell = f"**{_two(pair[0])} → {_two(pair[1])}**"
            if paper is not None and weighted is not None:
                cell += f" ({paper.cells[i][1]:.2f} → {weighted.cells[i][1]:.2f})"
            cells.append(cell)
        body.append([row["title"], "one" if row["multitask"] else "four", *cells])
    return _lines(["backbone", "networks", *TCELL_PANEL.names], body)


def sizes(results: Results) -> str:
    """AUROC by the width of a patch."""
    names = TCELL_PANEL.names
    paper = {round(px * PAPER_PX_UM): value for px, value in PATCH_SIZE_AUROC.items()}
    said = ", ".join(f"{value:.2f} at {um} µm" for um, value in paper.items())
    body = [
        [f"{row['patch_um']:.0f}", str(row["patch_px"])]
        + [_with_interval(row["metrics"][name]["auroc"]) for name in names]
        for row in _group(results, "size")
    ]
    return _lines(["µm", "px of 1.3 µm", *names], body) + f"\nThe paper's {names[0]}: {said}.\n"


def panels(results: Results) -> str:
    """AUROC of each marker of the other panels."""
    body = []
    for row in _group(results, "panel"):
        for name, m in row["metrics"].items():
            share = m["positive"] / max(m["positive"] + m["negative"], 1)
            body.append(
                [row["panel"], name, _with_interval(m["auroc"]),
                 _with_interval(m["balanced_accuracy"]), f"{m['positive']:,}", f"{share:.3f}"]
            )  # fmt: skip
    header = ["panel", "marker", "AUROC", "balanced accuracy", "positive cells", "of all labelled"]
    return _lines(header, body)


def far_scale(far: Results) -> str:
    """AUROC by the far scale of a shipped bundle."""
    body = [
        [name, _with_interval(m["auroc"]), f"{m['positive']:,} / {m['negative']:,}"]
        for name, m in far["markers"].items()
    ]
    return _lines(["marker", f"AUROC, {far['bundle']}", "positive / negative"], body)


def bundle(results: Results) -> str:
    """The row that ships."""
    body = [
        [name, *(_with_interval(m[k]) for k in ("auroc", "average_precision")),
         _with_interval(m["balanced_accuracy"]), f"{m['positive']:,} / {m['negative']:,}"]
        for row in _group(results, "bundle")
        for name, m in row["metrics"].items()
    ]  # fmt: skip
    header = ["marker", "AUROC", "average precision", "balanced accuracy", "positive / negative"]
    return _lines(header, body)


def training(results: Results) -> str:
    """What each row saw, and for how long."""
    body = []
    for row in results["rows"]:
        if "failed" in row:
            body.append([f"`{row['key']}`", "failed", "", "", "", ""])
            continue
        fits, first = row["fits"], row["first"]
        body.append(
            [
                f"`{row['key']}`",
                f"{row['parameters'] / 1e6:.1f}M",
                "" if first is None else f"{first['patches']:,} in {first['seconds']:.0f} s",
                f"{sum(f['patches'] for f in fits):,} in {sum(f['seconds'] for f in fits):.0f} s",
                ", ".join(str(f["steps"]) for f in fits),
                f"{row['test_cells']:,}",
            ]
        )
    header = [
        "row",
        "weights",
        "first training, patches",
        "its own, patches",
        "steps",
        "test cells",
    ]
    return _lines(header, body)
