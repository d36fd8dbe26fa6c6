from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lymphinfer.panel import PANELS, TCELL_PANEL, panel_of, panel_with

ROOT = Path(__file__).resolve().parents[1]
MARKERS = {name for panel in PANELS.values() for name in panel.names}
# What cells of each kind carry is what a simulation makes up; it is of ORION's own 19 channels.
MADE = ("lymphinfer/simulate/",)
# Doctests aside, what is an example in a text of help may name a marker.
HELP = ("lymphinfer/cli/simulate.py", "lymphinfer/cli/predict.py")


def spelled(path: Path) -> set[str]:
    """Markers that stand as texts of their own in a module's code."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in MARKERS
    }


def test_no_module_but_the_panel_spells_a_marker():
    found = {}
    for path in sorted((ROOT / "lymphinfer").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if place != "lymphinfer/panel.py" and not place.startswith(MADE) and spelled(path):
            found[place] = spelled(path)
    assert found == {}


def test_no_text_but_help_speaks_of_a_marker():
    found = set()
    for path in sorted((ROOT / "lymphinfer").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if place == "lymphinfer/panel.py" or place.startswith((*MADE, *HELP)):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        docs = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = set(node.value.replace(".", " ").replace(",", " ").split())
                if id(node) not in docs and words & MARKERS:
                    found.add(f"{place}:{node.lineno}")
    # A message that shows how a table of the gates file is headed.
    assert {f.split(":")[0] for f in found} <= {"lymphinfer/orion/gates_file.py"}


def test_the_panels_of_b_cells_macrophages_and_regulatory_t_cells_are_there():
    assert PANELS["treg"].lineage("FOXP3") == ("CD45", "CD3e", "CD4", "FOXP3")
    assert PANELS["b-cell-macrophage"].lineage("CD20") == ("CD45", "CD20")
    assert {"CD68", "CD163"} < set(PANELS["b-cell-macrophage"].names)
    assert set(TCELL_PANEL.names) < set(PANELS["immune"].names)
    colors = [m.color for m in PANELS["immune"].markers]
    assert len(set(colors)) == len(colors)


def test_a_panel_goes_through_plain_values_and_back():
    panel = PANELS["treg"]
    made, problems = panel_of("mine", panel.described())
    assert problems == [] and made is not None
    assert (made.name, made.markers) == ("mine", panel.markers)


@pytest.mark.parametrize(
    ("markers", "words"),
    [
        ([], "a panel that is not known"),
        ([{"name": "A"}], "A: color is missing"),
        ([{"name": "A", "parent": "B", "color": (1, 2, 3)}], "must be listed before it"),
        ([{"name": "A", "color": (1, 2, 3)}] * 2, "listed twice"),
    ],
)
def test_what_is_wrong_with_a_panel_of_ones_own_is_told(markers, words):
    made, problems = panel_of("mine", markers)
    assert made is None and words in problems[0]


def test_a_network_of_any_markers_has_a_panel():
    assert panel_with(["CD45", "CD20"]).lineage("CD20") == ("CD45", "CD20")
    assert panel_with(["X", "Y"]).parent_indices == (-1, -1)
