"""What strangers get: one version everywhere, a wheel with all its weights, recipes that agree."""

from __future__ import annotations

import importlib.util
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from lymphinfer.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_every_file_that_names_the_version_names_this_one():
    images = [*ROOT.glob("examples/cluster/*"), *ROOT.glob("packaging/**/*"), ROOT / "Dockerfile"]
    found = {
        (path.name, version)
        for path in images
        if path.is_file()
        for version in re.findall(r"lymphinfer:(\d[\w.]*)", path.read_text("utf-8"))
    }
    assert found
    assert {version for _, version in found} == {__version__}, found
    assert re.search(r"^version: (\S+)$", read("CITATION.cff"), re.MULTILINE)[1] == __version__
    assert re.search(r"^## (\S+) \(", read("CHANGELOG.md"), re.MULTILINE)[1] == __version__
    project = tomllib.loads(read("pyproject.toml"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "lymphinfer/version.py"


def test_no_fingerprint_hangs_on_the_version():
    for name in ("settings", "plan", "earlier"):
        assert "__version__" not in read(f"lymphinfer/predict/{name}.py")


def test_the_citation_is_valid():
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    content = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= content.keys()
    assert content["license"] == tomllib.loads(read("pyproject.toml"))["project"]["license"]
    cff = pytest.importorskip("cffconvert", reason="cffconvert is not installed")
    cff.Citation(read("CITATION.cff")).validate()


CONDA = {"torch": "pytorch", "openslide-bin": "openslide"}
"""Names on conda-forge where they are others."""


def conda_recipe():
    jinja2 = pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

    def load_file_regex(load_file, regex_pattern, from_recipe_dir):
        assert from_recipe_dir
        return re.search(regex_pattern, (ROOT / "packaging" / "conda" / load_file).read_text())

    text = jinja2.Template(read("packaging/conda/meta.yaml"), undefined=jinja2.StrictUndefined)
    return yaml.safe_load(text.render(load_file_regex=load_file_regex, PYTHON="$PYTHON"))


def test_the_conda_recipe_needs_what_the_package_needs():
    recipe = conda_recipe()
    assert recipe["package"] == {"name": "lymphinfer", "version": __version__}
    project = tomllib.loads(read("pyproject.toml"))["project"]
    # The recipe is one for all systems: what Macs alone need is their users' to add.
    common = [entry for entry in project["dependencies"] if "== 'darwin'" not in entry]
    wanted = dict(requirement(entry) for entry in common)
    wanted = {CONDA.get(name, name): least for name, least in wanted.items()}
    found = dict(entry.split(" ", 1) for entry in recipe["requirements"]["run"])
    assert found.pop("python") == project["requires-python"]
    # The wheel's number has a fourth part that is the wheel's own.
    assert wanted.pop("openslide").startswith(found.pop("openslide"))
    assert found == wanted
    host = recipe["requirements"]["host"]
    assert "hatchling >=1.25" in host and "hatchling>=1.25" in read("pyproject.toml")
    for entry in recipe["build"]["entry_points"]:
        name, _, place = entry.partition(" = ")
        assert project["scripts"][name] == place


def requirement(entry: str) -> tuple[str, str]:
    name, rest = re.fullmatch(r"([\w-]+)(.*)", entry.partition(";")[0].strip()).groups()
    return name, rest


@pytest.fixture(scope="module")
def check_wheel():
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "tools" / "check_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_wheel(path: Path, check_wheel, *, version=__version__, leave=(), change=(), more=()):
    info = f"lymphinfer-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in sorted(check_wheel.wanted_files() - set(leave)):
            source = ROOT / name.replace("lymphinfer/weights/", "weights/")
            wheel.writestr(name, b"other" if name in change else source.read_bytes())
        for name in more:
            wheel.writestr(name, b"")
        wheel.writestr(f"{info}/METADATA", f"Name: lymphinfer\nVersion: {version}\n\n")
        wheel.writestr(f"{info}/entry_points.txt", "")
        wheel.writestr(f"{info}/licenses/LICENSE", "")
    return path


def test_a_wheel_that_lacks_something_is_told(check_wheel, tmp_path, capsys):
    weights = "lymphinfer/weights/he-v2/far.safetensors"
    right = made_wheel(tmp_path / "right.whl", check_wheel)
    assert check_wheel.problems(right) == []
    assert "he-v2" in capsys.readouterr().out
    wrong = made_wheel(
        tmp_path / "wrong.whl", check_wheel, version="0.0.9", leave=("lymphinfer/py.typed",),
        change=(weights,), more=("tests/conftest.py",),
    )  # fmt: skip
    found = " | ".join(check_wheel.problems(wrong))
    for words in ("version 0.0.9", "lymphinfer/py.typed is missing", f"{weights} is not what",
                  "tests/conftest.py does not belong"):  # fmt: skip
        assert words in found
