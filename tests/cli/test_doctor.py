from __future__ import annotations

import shutil
from pathlib import Path

from typer.testing import CliRunner

from lymphinfer.batch import doctor
from lymphinfer.cli.app import app
from tests.predict.conftest import disc_bundle  # noqa: F401


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor", *map(str, arguments)])


def test_a_healthy_machine_has_no_problem(disc_bundle, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(doctor, "list_bundles", lambda: {"he-v2": disc_bundle})
    monkeypatch.setattr(doctor, "MIN_MEMORY_GB", 0.1)
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 0.01)
    done = run("--bundle", disc_bundle, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stdout
    for words in ("OpenSlide", "torchvision", "self-test on cpu", "nuclei in", "keeps locks",
                  "its files are whole", "GB free", "No problem found"):  # fmt: skip
        assert words in done.stdout
    assert not (tmp_path / "out").exists()


def test_each_problem_comes_with_its_fix(disc_bundle, tmp_path, monkeypatch):  # noqa: F811
    damaged = Path(shutil.copytree(disc_bundle, tmp_path / "damaged"))
    (damaged / "stardist.safetensors").write_bytes(b"")
    (tmp_path / "file").touch()
    monkeypatch.setattr(doctor, "list_bundles", lambda: {"damaged": damaged})
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    monkeypatch.setattr(
        doctor, "self_test", lambda device, bundle: doctor.Check("self-test", "x", "other --device")
    )
    done = run("--out", tmp_path / "file" / "out")
    assert done.exit_code == 1
    expected = (
        "he-v2: missing", "stardist.safetensors has sha256", "install it again",
        "writable folder", "free some space", "other --device", "problems found",
    )  # fmt: skip
    for words in expected:
        assert words in done.stdout


def test_a_self_test_that_fails_says_why(disc_bundle, tmp_path):  # noqa: F811
    check = doctor.self_test("cuda:9", str(disc_bundle))
    assert not check.is_ok
    assert "cuda:9" in check.found and "--device" in check.fix
