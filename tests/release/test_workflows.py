"""Workflow and container files: their commands are those of the repository."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def jobs():
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
            yield f"{path.stem}/{name}", job


def scripts():
    for name, job in jobs():
        for step in job["steps"]:
            if "run" in step:
                yield name, step["run"]


def test_every_system_and_python_of_the_package_is_tried():
    tried = set()
    for _, job in jobs():
        matrix = job.get("strategy", {}).get("matrix", {})
        systems = matrix.get("os", [job["runs-on"]])
        tried |= set(itertools.product(systems, matrix.get("python", [])))
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    wanted = {f"{system}-latest" for system in ("ubuntu", "macos", "windows")}
    assert tried == set(itertools.product(wanted, named))
    assert all("timeout-minutes" in job for _, job in jobs())


def test_make_is_asked_for_targets_that_there_are():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    asked = {word for _, run in scripts() for word in re.findall(r"\bmake ([a-z-]+)", run)}
    assert asked == {"demo", "test", "test-slow", "docs", "test-base"} and asked <= targets
    # What `make` runs are shell scripts for POSIX systems.
    assert not [run for name, run in scripts() if name.endswith("/windows") and "make" in run]


def test_nothing_is_run_that_is_not_there():
    for _, run in scripts():
        for extra in re.findall(r"\.\[(\w+)\]", run):
            assert extra in PROJECT["optional-dependencies"]
        for script in re.findall(r"python ([\w/]+\.py)", run):
            assert (ROOT / script).is_file()


def test_actionlint_finds_nothing():
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed")
    done = subprocess.run([program, *WORKFLOWS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_what_its_ignore_file_lets_in():
    text = (ROOT / "Dockerfile").read_text("utf-8")
    ignore = (ROOT / ".dockerignore").read_text("utf-8").split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore or source.startswith("packaging/container")
    definition = (ROOT / "packaging" / "container" / "lymphinfer.def").read_text("utf-8")
    sources = re.findall(r"^    (\S+) /src/\S+$", definition, re.MULTILINE)
    assert sources and all((ROOT / source).exists() for source in sources)


def test_both_images_hold_the_same_extras_and_they_exist():
    found = {
        re.search(r"EXTRAS=([\w,]+)", (ROOT / name).read_text("utf-8"))[1]
        for name in ("Dockerfile", "packaging/container/lymphinfer.def")
    }
    (extras,) = found
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    page = (ROOT / "docs" / "containers.md").read_text("utf-8").partition("## Docker")[0]
    assert set(extras.split(",")) == set(re.findall(r"`([a-z]+)`", page))


def test_the_kubernetes_job_says_what_the_program_knows():
    from lymphinfer.cli.app import app

    volume, job = yaml.safe_load_all(
        (ROOT / "examples" / "cluster" / "kubernetes.yaml").read_text("utf-8")
    )
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]]
    assert claims == [volume["metadata"]["name"]]
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert set(mounts) == {v["name"] for v in pod["volumes"]}
    words = container["args"][0].partition("||")[0].split()
    assert words[:2] == ["lymphinfer", "predict"] and words[2].startswith(mounts["data"])
    import typer.main

    command = typer.main.get_command(app).commands["predict"]
    command.make_context("predict", words[2:])
    rule = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (rule["containerName"], rule["values"]) == (container["name"], [2])
