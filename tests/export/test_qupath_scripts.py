"""The QuPath scripts and their how-to name what the program really writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lymphinfer.cells.table import measurements, schema
from lymphinfer.panel import TCELL_PANEL

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "qupath"
TEXTS = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.iterdir())}


def test_the_how_to_names_every_measurement_and_class():
    words = " ".join(TEXTS["README.md"].split())
    for name in measurements(schema(TCELL_PANEL)).values():
        assert f"`{name}`" in words
    for call in TCELL_PANEL.calls:
        assert f"`{TCELL_PANEL.class_name(call)}`" in words


@pytest.mark.parametrize("name", [n for n in TEXTS if n.endswith(".groovy")])
def test_scripts_read_measurements_that_are_written(name):
    written = set(measurements(schema(TCELL_PANEL)).values())
    read = set(re.findall(r"'([A-Z][\w ]* probability)'", TEXTS[name]))
    assert read and read <= written
    assert TEXTS[name].count("{") == TEXTS[name].count("}")


def test_the_how_to_lists_every_script():
    scripts = {name for name in TEXTS if name.endswith(".groovy")}
    assert scripts == set(re.findall(r"^\| `(\w+\.groovy)`", TEXTS["README.md"], re.MULTILINE))


@pytest.mark.parametrize("name", [n for n in TEXTS if n.endswith(".groovy")])
def test_scripts_need_nothing_that_qupath_does_not_have(name):
    code = re.sub(r"//.*|/\*.*?\*/", "", TEXTS[name])
    assert "groovy.json" not in code
    # Without an open project it is a text, and what resolves it throws.
    assert "PROJECT_BASE_DIR" not in code and "buildFilePath" not in code


def test_the_import_sets_the_colours_that_the_summary_states():
    text = TEXTS["import_detections.groovy"]
    assert "summary.calls.each" in text and "row.color" in text and "setColor(" in text
