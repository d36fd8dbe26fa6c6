"""Every command of README, manual and examples is run, on small inputs; none is passed over.

A page is run from top to bottom in a folder of its own that holds the files it speaks of. What is
run otherwise than written stands in the tables below.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.training.config_file import load_config

from .pages import PAGES, Command, commands, inline_code, name_of
from .prepared import COHORT, MAKERS, Store
from .source_text import ROOT

ROOT_COMMAND = typer.main.get_command(app)
WITH_COMMANDS = [page for page in PAGES if any(commands(page))]

SMALLER: dict[str, tuple[str, ...]] = {
    # Options that are added, or take the place of those on the page.
    "simulate": COHORT,
    "predict": ("--device", "cpu"),
    "teach": ("--device", "cpu"),
    "report": ("--no-figures",),
    "retrain": ("--config", "tiny.toml", "--device", "cpu"),
    "table1": ("--config", "tiny.toml", "--device", "cpu", "--backbone", "test_resnet",
               "--row", "bce-mtl"),
    "patch-size-study": ("--config", "tiny.toml", "--device", "cpu", "--size", "32"),
    "evaluate": ("--device", "cpu", "--bootstrap", "10"),
    "train-detector": ("--steps", "2", "--batch", "1", "--width", "8", "--validate-every", "2"),
    "gate show": ("--slides", "CRC01"),
    "gate serve": ("--no-open", "--port", "0"),
    # The file that `weights pull` stands for below is there already.
    "weights import hovernet": ("--to", "elsewhere"),
}  # fmt: skip
INSTEAD: dict[str, tuple[str, str]] = {
    # What is run in place of the command on the page, and why.
    "lymphinfer weights pull https://host/my-bundle": (
        "lymphinfer weights pull {folder}/host/my-bundle", "network: a file's address",
    ),
    "lymphinfer weights pull hovernet_fast-monusac": (
        "lymphinfer weights import hovernet hovernet_fast-monusac.pth", "network: a made file",
    ),
}  # fmt: skip
ONLY_PARSED: dict[str, str] = {
    # Commands that begin so cannot run here.
    "lymphinfer orion download": "network: a public bucket",
    "lymphinfer cohort register": "needs some millimetres of tissue; tests/cohorts has them",
    "lymphinfer predict slides/ --out results/ --engine dask --scheduler": "a scheduler elsewhere",
    "accelerate launch -m lymphinfer retrain": "several GPUs",
}
NOT_OURS: dict[str, str] = {
    # Other programs' commands, as the pages may give them.
    "make demo": "makes an environment",
    "make test": "runs this",
    "make test-slow": "runs this",
    "make test-base": "makes an environment",
    "pip install .": "network",
    "pip install '.[hovernet]'": "network",
    "pip download . --dest wheels": "network",
    "pip install --no-index --find-links wheels lymphinfer": "needs the folder of the one above",
    "python3 -m venv lymphinfer-env": "makes an environment",
    "lymphinfer-env/bin/python -m pip install .": "network",
    "sbatch examples/cluster/slurm_array.sh slides/ results/": "SLURM",
    "python -m recipes.orion_crc01.cohort --slide orion-crc01/ --out crc01/": "needs the tiles",
    "kubectl apply -f examples/cluster/kubernetes.yaml": "Kubernetes",
    "docker build -t lymphinfer:0.2.0 .": "Docker",
    "docker build -t lymphinfer:0.2.0-cuda --build-arg TORCH=cu128 .": "Docker",
    "docker run --rm --user '$(id -u):$(id -g)' -v '$PWD:/data' lymphinfer:0.2.0 predict slides/ "
    "--out results/": "Docker",
    "docker run --rm --user '$(id -u):$(id -g)' -v '$PWD:/data' --gpus all lymphinfer:0.2.0-cuda "
    "predict slides/ --out results/": "Docker",
    "apptainer build lymphinfer.sif packaging/container/lymphinfer.def": "Apptainer",
    "apptainer run --nv --bind /project lymphinfer.sif predict /project/slides --out "
    "/project/results": "Apptainer",
    "snakemake -s examples/workflow/Snakefile --cores 4 --config slides=slides "
    "out=results": "an engine",
    "recipes/orion_crc01/run.sh orion-crc01/ crc01-run/ crc01-paper": "needs the tiles",
    "dask scheduler": "runs until it is stopped",
    "dask worker tcp://host:8786 --nthreads 1 --resources GPU=1": "a scheduler elsewhere",
}
EXIT_CODES = {"doctor": (0, 1)}  # 1 on a machine that is short of something
OTHER_PROGRAMS = {
    # Options of other programs in the texts.
    "--array", "--gres", "--resources", "--nthreads", "--dest", "--no-index", "--find-links",
    "--upgrade", "--editable", "--build-arg", "--user", "--nv", "--keep-going",
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("prepared"))


def own_words(command: Command) -> list[str] | None:
    """What follows `lymphinfer`; None for another program's command."""
    words = list(command.words)
    if words[0] == "lymphinfer":
        return words[1:]
    if words[:4] == ["accelerate", "launch", "-m", "lymphinfer"]:
        return words[4:]
    return None


def descend(words: list[str]):
    """The command that words name, its name, and its arguments."""
    command, names = ROOT_COMMAND, []
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {' '.join([*names, words[0]])}"
        names.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return command, " ".join(names), words


def parse(words: list[str]) -> str:
    """Check arguments and options as the program does; returns the command's name."""
    command, name, rest = descend(words)
    command.make_context(name, list(rest))
    return name


def options_of(command) -> set[str]:
    found = {"--help", "-h"}
    for parameter in command.params:
        found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def every_option(command=ROOT_COMMAND) -> set[str]:
    """Options of all commands."""
    below = getattr(command, "commands", {}).values()
    return options_of(command).union(*(every_option(child) for child in below))


def replaced(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Words with options in place of those of the same name."""
    names = {o for o in options if o.startswith("--")}
    kept, skip = [], False
    for word in words:
        if skip or word in names:
            skip = word in names and word not in ("--no-open",)
            continue
        kept.append(word)
    return [*kept, *options]


def outputs(words: list[str]) -> set[str]:
    """What a command leaves."""
    made = {b for a, b in pairwise(words) if a in ("--out", "-o")}
    if words[0] == "predict" and not made:
        made = {f"{Path(words[1]).stem}.lymphinfer/"}
    return made | ({words[1]} if words[0] == "simulate" else set())


def is_only_parsed(command: Command) -> bool:
    return any(command.text.startswith(start) for start in ONLY_PARSED)


def prepare(page: Path, folder: Path, store: Store) -> None:
    """Put what the page's commands need, and none of them makes, into the folder."""
    store.put("tiny.toml", folder)
    made: set[str] = set()
    for command in commands(page):
        words = own_words(command)
        if words is None:
            continue
        if command.text in INSTEAD:
            words = INSTEAD[command.text][0].format(folder="").replace("/host", "host").split()[1:]
        leaves = set() if is_only_parsed(command) else outputs(words)
        for name in words:
            if name in MAKERS and name not in made | leaves:
                store.put(name, folder)
                made.add(name)
        made |= leaves


def serve(words: list[str]) -> None:
    """Start the gating page, look at it once, and end it as Ctrl+C does."""
    with subprocess.Popen(
        [sys.executable, "-m", "lymphinfer", *words],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address, process.stdout.read()
            with urllib.request.urlopen(address[0], timeout=600) as answer:
                assert answer.status == 200 and b"<title>Gates" in answer.read()
        finally:
            process.send_signal(signal.SIGINT)


def execute(command: Command, folder: Path) -> None:
    words = own_words(command)
    _, name, _ = descend(words)
    if "--config" in words:
        load_config(ROOT / words[words.index("--config") + 1])
    if command.text in INSTEAD:
        words = INSTEAD[command.text][0].format(folder=folder.as_uri()).split()[1:]
    else:
        words = replaced(words, SMALLER.get(name, ()))
    parse(words)
    if name == "gate serve":
        serve(words)
        return
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    message = f"{command.where}: {' '.join(words)}\n{done.output}\n{done.exception!r}"
    assert done.exit_code in EXIT_CODES.get(name, (0,)), message


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_runs(page, store, tmp_path, monkeypatch):
    prepare(page, tmp_path, store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))
    monkeypatch.delenv("LYMPHINFER_WEIGHTS", raising=False)
    for command in commands(page):
        if command.text in NOT_OURS or is_only_parsed(command):
            continue
        if "hovernet" in command.text and importlib.util.find_spec("tiatoolbox") is None:
            continue
        execute(command, tmp_path)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_is_one_that_the_program_knows(page):
    for command in commands(page):
        words = own_words(command)
        if words is None:
            assert command.text in NOT_OURS, f"{command.where}: {command.text}"
            continue
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{command.where}: {command.text}: {error}")


def test_other_programs_are_given_what_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for text in NOT_OURS:
        if text.startswith("make "):
            assert text.split()[1] in targets
        for names in re.findall(r"\[([\w,]+)\]", text):
            assert set(names.split(",")) <= set(project["optional-dependencies"])
        for path in re.findall(r"examples/\S+", text):
            assert (ROOT / path).is_file()


def test_no_row_of_the_tables_is_left_over():
    found = {command.text for page in PAGES for command in commands(page)}
    assert set(NOT_OURS) <= found
    assert set(INSTEAD) <= found
    for start in ONLY_PARSED:
        assert any(text.startswith(start) for text in found), start


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_in_the_text_exists(page):
    known = every_option() | OTHER_PROGRAMS
    for code in inline_code(page):
        if code.startswith("lymphinfer ") and re.match(r"lymphinfer [a-z]", code):
            words = [w.strip(",;") for w in code.split()[1:]]
            command, name, rest = descend(words)
            wrong = {w for w in rest if w.startswith("--") and len(w) > 2} - options_of(command)
            assert not wrong, f"{name_of(page)}: {name} has no {wrong}"
        script = re.match(r"(?:python )?(\S+\.py)\b", code)
        recipe = re.match(r"python -m (recipes\.[\w.]+)", code)
        source = script_source(script[1]) if script and "--" in code else ""
        if recipe:
            source = (ROOT / f"{recipe[1].replace('.', '/')}.py").read_text("utf-8")
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code):
            assert option in known or f'"{option}"' in source, f"{name_of(page)}: {code}"


def script_source(name: str) -> str:
    """Text of a script that is named with or without its folder."""
    found = [p for top in ("benchmarks", "examples") for p in (ROOT / top).rglob(Path(name).name)]
    assert found, name
    return found[0].read_text("utf-8")
