"""An RO-Crate of a result folder: what it packs and says, and what other readers make of it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.export.ro_crate import NO_LICENCE, PROFILE, write_ro_crate
from lymphinfer.export.views import ViewOptions, write_view
from tests.export.results_made import made_nuclei, made_result, spread_centers

LICENCE = "https://creativecommons.org/licenses/by/4.0/"


@pytest.fixture
def result(tmp_path):
    tables = [made_nuclei(spread_centers(30, seed), np.linspace(0, 1, 30), seed) for seed in (0, 1)]
    made = made_result(tmp_path / "a", tables, name="lung (1).svs")
    write_view(made, "geojson")
    write_view(made, "csv")
    (made.folder / "notes.txt").write_text("the user's own")
    history = [{"began": 1.7e9, "seconds": 90.0, "end": "done"}]
    (made.folder / "state.json").write_text(json.dumps({"history": history}))
    return made


def read(path: Path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        content = {name: archive.read(name) for name in archive.namelist()}
    graph = json.loads(content["ro-crate-metadata.json"])["@graph"]
    return content, {entity["@id"]: entity for entity in graph}


def test_everything_packed_is_described_and_everything_described_is_packed(result):
    path = write_view(result, "ro-crate")
    assert path.name == "lung (1).ro-crate.zip"
    content, entities = read(path)
    files = {entity["@id"]: entity for entity in entities.values() if entity["@type"] == "File"}
    assert {unquote(name) for name in files} == content.keys() - {"ro-crate-metadata.json"}
    for name, entity in files.items():
        packed = content[unquote(name)]
        assert entity["contentSize"] == str(len(packed))
        assert entity["sha256"] == hashlib.sha256(packed).hexdigest()
    assert {"summary.json", "lung (1).zip", "lung (1).csv"} < content.keys()
    assert sum(name.startswith("parts/") for name in content) == 2
    assert not {"state.json", "notes.txt"} & content.keys()
    assert content["summary.json"] == (result.folder / "summary.json").read_bytes()


def test_it_says_what_made_the_numbers_and_what_they_rest_on(result):
    _, entities = read(write_view(result, "ro-crate"))
    action = entities["#prediction"]
    assert (action["startTime"], action["endTime"]) == (
        "2023-11-14T22:13:20+00:00", "2023-11-14T22:14:50+00:00",
    )  # fmt: skip
    assert entities["#slide"]["identifier"] == "abc"
    assert entities["#bundle"]["identifier"] == "sha256:" + "ab" * 32
    assert entities["#lymphinfer"]["softwareVersion"] == result.summary["versions"]["lymphinfer"]
    assert entities["#setting-hierarchy"]["value"] == "conditional"
    cd45, cd8a = entities["#marker-CD45"], entities["#marker-CD8a"]
    assert "stain, 4 patients" in cd45["description"] and "base-rate" in cd8a["description"]
    assert cd45["value"] == result.summary["markers"]["CD45"]["expected_per_mm2"]
    assert "Not for diagnosis" in entities["./"]["description"]
    # Every entity that is spoken of is there.
    spoken = [value for entity in entities.values() for value in entity.values()]
    spoken = [item for value in spoken for item in (value if isinstance(value, list) else [value])]
    named = {item["@id"] for item in spoken if isinstance(item, dict)}
    assert {name for name in named if "://" not in name} <= entities.keys()


def test_a_licence_is_stated_or_said_to_be_missing(result):
    _, entities = read(write_view(result, "ro-crate"))
    assert entities[entities["./"]["license"]["@id"]]["name"] == NO_LICENCE
    done = CliRunner().invoke(
        app, ["export", str(result.folder), "--to", "ro-crate", "--license", LICENCE]
    )
    assert done.exit_code == 0, done.output
    _, entities = read(Path(done.stdout.strip()))
    assert entities["./"]["license"] == {"@id": LICENCE}


def test_the_same_results_give_the_same_bytes_and_no_crate_holds_a_crate(result, tmp_path):
    first = write_view(result, "ro-crate").read_bytes()
    assert write_view(result, "ro-crate").read_bytes() == first
    other = write_view(result, "ro-crate", tmp_path / "x.zip", ViewOptions(licence="CC0"))
    assert not any(name.endswith(".ro-crate.zip") for name in read(other)[0])


def test_the_rocrate_library_reads_it(result, tmp_path):
    rocrate = pytest.importorskip("rocrate.rocrate", reason="the library rocrate is not installed")
    crate = rocrate.ROCrate(write_ro_crate(tmp_path / "a.zip", result, LICENCE))
    assert crate.root_dataset["conformsTo"].id == PROFILE
    names = {entity.id for entity in crate.data_entities}
    assert {"summary.json", "parts/", "lung%20(1).zip"} <= names
    action = crate.get("#prediction")
    assert action["instrument"]["name"] == "LymphInfer" and len(action["result"]) >= 4


@pytest.mark.slow
def test_a_validator_of_the_specification_misses_nothing(result, tmp_path, monkeypatch):
    services = pytest.importorskip(
        "rocrate_validator.services", reason="roc-validator is not installed"
    )
    import rocrate
    from rocrate_validator.models import Severity, ValidationSettings
    from rocrate_validator.utils import document_loader
    from rocrate_validator.utils.http import HttpRequester

    # No network in tests: the library's own, newer context stands in for that of RO-Crate 1.1.
    known = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())
    answer = SimpleNamespace(
        status_code=200, headers={"Content-Type": "application/ld+json"}, json=lambda: known
    )
    monkeypatch.setattr(document_loader, "_fetch_json_ld", lambda source: known)
    monkeypatch.setattr(HttpRequester, "get", lambda *_, **__: answer, raising=False)
    folder = tmp_path / "crate"
    with zipfile.ZipFile(write_ro_crate(tmp_path / "a.zip", result, LICENCE)) as archive:
        archive.extractall(folder)
    for profile in ("ro-crate-1.1", "process-run-crate-0.5"):
        settings = ValidationSettings(
            rocrate_uri=str(folder),
            profile_identifier=profile,
            requirement_severity=Severity.REQUIRED,
        )
        found = services.validate(settings).get_issues()
        assert not found, [issue.message for issue in found]
