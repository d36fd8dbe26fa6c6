"""The QuPath scripts and their how-to name what the program really writes and takes.

QuPath itself is no part of the tests: what the scripts call of it is held against the list in
`qupath_api`. They are parsed by Groovy where ``GROOVY_JAR`` names its jar (4.0, as QuPath has it;
the npm package npm-groovy-lint brings one) or the system has one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from lymphinfer.annotations import OUT_OF_FOCUS, TISSUE, read_annotations
from lymphinfer.cells.table import measurements, schema
from lymphinfer.cli.app import app
from lymphinfer.panel import TCELL_PANEL
from tests.export.qupath_api import CLASSES, INSTANCES, JAVA_AND_GROOVY, SCRIPTING

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "qupath"
TEXTS = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.iterdir())}
SCRIPTS = [name for name in TEXTS if name.endswith(".groovy")]
ROOT_COMMAND = typer.main.get_command(app)
KEYWORDS = {"assert", "catch", "for", "if", "in", "return", "switch", "while"}
LITERAL = re.compile(
    r"/\*.*?\*/|//[^\n]*|'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|(?<=\()/[^/\n]+/", re.DOTALL
)
PARSER = """
import java.io.File;
import org.codehaus.groovy.control.CompilationUnit;
import org.codehaus.groovy.control.Phases;
public class Parse {
    public static void main(String[] names) throws Exception {
        for (String name : names) {
            CompilationUnit unit = new CompilationUnit();
            unit.addSource(new File(name));
            unit.compile(Phases.CONVERSION);
        }
    }
}
"""


def code(text: str) -> str:
    """A script without comments, patterns and texts, but with what is put into its texts."""
    return LITERAL.sub(lambda found: f"'' {put_into(found[0])}", text)


def put_into(literal: str) -> str:
    """What stands in ``${…}`` of a text, as code."""
    found = []
    while literal.startswith('"') and (start := literal.find("${")) >= 0:
        depth, end = 1, start + 2
        while depth:
            depth += {"{": 1, "}": -1}.get(literal[end], 0)
            end += 1
        found.append(code(literal[start + 2 : end - 1]))
        literal = '"' + literal[end:]
    return " ".join(found)


def own_methods(text: str) -> set[str]:
    closures = re.findall(r"\bdef (\w+) = \{", text)
    return {*closures, *re.findall(r"^[\w<>, ]+ (\w+)\([^)]*\) \{", text, re.MULTILINE)}


def built_commands(text: str) -> list[list[str]]:
    """Command lines that a script starts, with every option it may add; then those it speaks of."""
    added = re.findall(r"command \+= \[('--[^\]]*)\]", text)
    examples = re.findall(r"such as \[('--[^\]]*)\]", text)
    started = re.findall(r"\[lymphinfer, ('[^\]]*)\]", text)
    lines = [[*parts(start), *(w for more in [*added, *examples] for w in parts(more))]
             for start in started]  # fmt: skip
    spoken = re.findall(r'println "[^"\n]*?: lymphinfer ((?:[^"\n\\]|\\.)*)"', text)
    lines += [shlex.split(re.sub(r"\$\{\w+\}", "x", line).replace('\\"', '"')) for line in spoken]
    return lines


def parts(text: str) -> list[str]:
    """Words of a Groovy list; 1 for what is not known before it runs."""
    return [word[1:-1] if word.startswith("'") else "1" for word in re.split(r",\s*", text)]


def test_the_how_to_names_every_measurement_and_class():
    words = " ".join(TEXTS["README.md"].split())
    for name in measurements(schema(TCELL_PANEL)).values():
        assert f"`{name}`" in words
    for call in TCELL_PANEL.calls:
        assert f"`{TCELL_PANEL.class_name(call)}`" in words


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_read_measurements_that_are_written(name):
    written = set(measurements(schema(TCELL_PANEL)).values())
    assert set(re.findall(r"'([A-Z][\w ]* probability)'", TEXTS[name])) <= written


@pytest.mark.parametrize("name", [n for n in SCRIPTS if "isOfLymphInfer(" in TEXTS[n]])
def test_nuclei_of_another_program_are_not_taken_for_ours(name):
    # StarDist's own detections in QuPath have a measurement of this name too.
    start = TEXTS[name].index("boolean isOfLymphInfer(")
    asked = TEXTS[name][start : TEXTS[name].index("\n}", start)]
    assert "'Detection probability'" in asked and f"'{TCELL_PANEL.markers[0].measurement}'" in asked


def test_the_how_to_lists_every_script():
    assert set(SCRIPTS) == set(re.findall(r"^\| `(\w+\.groovy)`", TEXTS["README.md"], re.MULTILINE))


def test_the_menu_has_every_other_script():
    listed = re.findall(
        r"^    '[^']+': '(\w+\.groovy)'", TEXTS["install_menu.groovy"], re.MULTILINE
    )
    assert sorted([*listed, "install_menu.groovy"]) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_what_to_change_and_where_it_runs(name):
    head = TEXTS[name].split("*/")[0]
    assert head.startswith("/*")
    for words in (" * Change: ", " * Runs in: ", " * For QuPath 0.5 to 0.7. See README.md."):
        assert words in head


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_only_what_qupath_ships(name):
    imported = re.findall(r"^import (.*)$", TEXTS[name], re.MULTILINE)
    assert imported.pop() == "static qupath.lib.gui.scripting.QPEx.*"
    assert set(imported) <= set(CLASSES)
    used = {path for path in CLASSES if re.search(rf"\b{path.split('.')[-1]}\b", code(TEXTS[name]))}
    assert used == set(imported)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_call_only_methods_that_qupath_has(name):
    text = code(TEXTS[name])
    # Without an open project it is a text, and what resolves it throws.
    assert "PROJECT_BASE_DIR" not in text and "buildFilePath" not in text
    statics = {path.split(".")[-1]: methods for path, methods in CLASSES.items()}
    for owner, method in re.findall(r"\b([A-Z]\w+)\.(\w+)\(", text):
        assert owner not in statics or method in statics[owner], f"{owner}.{method}"
    of_objects = set().union(*INSTANCES.values(), *CLASSES.values(), JAVA_AND_GROOVY)
    called = set(re.findall(r"\.(\w+)\s*[({]", text)) | set(re.findall(r"\*\.(\w+)", text))
    assert called <= of_objects, called - of_objects
    free = set(re.findall(r"(?<![\w.])(?<!new )([a-z]\w*)\(", text)) - KEYWORDS
    known = SCRIPTING | own_methods(text) | {"println"}
    assert free <= known, free - known


@pytest.mark.parametrize("name", [n for n in SCRIPTS if built_commands(TEXTS[n])])
def test_the_program_takes_the_commands_of_a_script(name):
    for words in built_commands(TEXTS[name]):
        command = ROOT_COMMAND.commands[words[0]]
        command.make_context(words[0], words[1:])


def test_the_scripts_that_start_the_program_were_found():
    names = [name for name in SCRIPTS if built_commands(TEXTS[name])]
    assert names == ["classify_nuclei.groovy", "count_regions.groovy", "export_annotations.groovy",
                     "import_tissue.groovy", "run_lymphinfer.groovy", "run_project.groovy",
                     "suggest_nuclei.groovy", "teach_bundle.groovy"]  # fmt: skip
    (full,) = built_commands(TEXTS["run_lymphinfer.groovy"])
    assert {"--out", "--bundle", "--series", "--mpp", "--roi", "--device"} <= set(full)


@pytest.mark.parametrize("name", [n for n in SCRIPTS if "removeObjects(" in TEXTS[n]])
def test_nothing_is_taken_away_unasked(name):
    assert re.search(r"^(Boolean replace = null|boolean replace = false)$", TEXTS[name], re.M)
    # What is removed is what was asked about, and it is removed after the new objects were read.
    assert set(re.findall(r"removeObjects\(([^)]*)\)", TEXTS[name])) == {"old, true"}
    assert TEXTS[name].index("PathIO.readObjects(") < TEXTS[name].index("removeObjects(")


@pytest.mark.parametrize("name", [n for n in SCRIPTS if "void setColors(" in TEXTS[n]])
def test_an_import_sets_the_colours_that_the_summary_states_parents_first(name):
    text = TEXTS[name]
    assert "summary.calls.sort { it.key.count(':') }" in text and "setColor(ColorTools" in text
    assert re.search(r"^ *setColors\(summary\)\n *def \w+ = PathIO\.readObjects\(", text, re.M)


def test_the_tissue_is_known_by_the_names_that_are_written():
    assert f"['{TISSUE}', '{OUT_OF_FOCUS}']" in TEXTS["import_tissue.groovy"]


def test_what_the_export_writes_is_read_with_names_and_classes(tmp_path):
    assert "'FEATURE_COLLECTION'" in TEXTS["export_annotations.groovy"]
    # A line of QuPath's own writer with that option.
    written = tmp_path / "slide.svs.geojson"
    written.write_text(
        '{"type":"FeatureCollection","features":[{"type":"Feature","id":'
        '"0f7a6f41-6a5e-4d0b-8c5f-6e5f6f3a2b10","geometry":{"type":"Polygon","coordinates":'
        '[[[10,10],[90,10],[90,50],[10,50],[10,10]]]},"properties":{"objectType":"annotation",'
        '"name":"core 1","classification":{"name":"Tumor","color":[200,0,0]},"isLocked":true}}]}'
    )
    (annotation,) = read_annotations(written)
    assert (annotation.name, annotation.class_name) == ("core 1", "Tumor")
    assert annotation.geometry.area == 80 * 40


def groovy_jar() -> str | None:
    """Groovy's jar, by GROOVY_JAR or where systems have it."""
    named = os.environ.get("GROOVY_JAR")
    places = ("/usr/share/java/groovy-all.jar", "/usr/share/groovy/lib/groovy-all.jar")
    return next((jar for jar in (named, *places) if jar and Path(jar).is_file()), None)


@pytest.mark.slow
@pytest.mark.skipif(
    groovy_jar() is None or shutil.which("java") is None, reason="needs Java and GROOVY_JAR"
)
def test_groovy_parses_the_scripts(tmp_path):
    parser = tmp_path / "Parse.java"
    parser.write_text(PARSER)
    broken = tmp_path / "broken.groovy"
    broken.write_text("def a = [1, 2\nprintln a {")
    start = ["java", "-cp", str(groovy_jar()), str(parser)]
    assert subprocess.run([*start, str(broken)], capture_output=True).returncode != 0
    paths = [str(FOLDER / name) for name in SCRIPTS]
    done = subprocess.run([*start, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
