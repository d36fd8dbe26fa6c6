"""What a person at the terminal sees: messages, files and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.errors import LymphinferError
from tests.predict.conftest import disc_bundle, disc_image, disc_slide, write_svs  # noqa: F401


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lymphinfer", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.fixture(scope="module")
def options(disc_bundle) -> list[str]:  # noqa: F811
    return ["--bundle", str(disc_bundle), "--device", "cpu", "--precision", "fp32"]


def invoke(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command without an interpreter of its own."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, arguments)])
    error = str(done.exception) if isinstance(done.exception, LymphinferError) else ""
    code = 2 if error else done.exit_code
    return subprocess.CompletedProcess(arguments, code, done.stdout, done.stderr + error)


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory) -> Path:
    return write_svs(tmp_path_factory.mktemp("small") / "a.svs", disc_image(300, 300)[0])


def assert_clear(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_one_slide_ends_with_a_table_the_file_and_what_to_do_with_it(
    disc_slide, options, tmp_path  # noqa: F811
):  # fmt: skip
    slide = shutil.copy(disc_slide[0], tmp_path / "a.svs")
    done = run("predict", slide, *options)
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    assert file == tmp_path / "a.lymphinfer" / "a" / "a.zip"
    assert file.is_file() and (file.parent / "summary.json").is_file()
    assert_clear(done, "In QuPath", "CD8a", "base rate", "never", "mm²")


def test_a_folder_with_a_broken_slide_does_the_others_and_exits_with_1(
    small_slide, options, tmp_path
):
    slides = tmp_path / "slides"
    (slides / "sub").mkdir(parents=True)
    shutil.copy(small_slide, slides / "good.svs")
    shutil.copy(small_slide, slides / "sub" / "good.svs")
    (slides / "text.svs").write_text("not a slide")
    (slides / "empty.svs").touch()
    (slides / "folder.svs").mkdir()
    (slides / ".hidden.svs").write_text("")
    done = run("predict", slides, "--out", tmp_path / "out", *options)
    assert done.returncode == 1, done.stderr
    assert_clear(done, "text.svs", "empty.svs", "folder.svs", "2 slides done, 3 failed")
    assert sorted(p.relative_to(tmp_path / "out") for p in tmp_path.rglob("*.zip")) == [
        Path("good/good.zip"),
        Path("sub/good/good.zip"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.svs", None, ["missing.svs", "no such file"]),
        ("text.svs", b"some text", ["text.svs"]),
        ("empty.svs", b"", ["empty.svs"]),
    ],
)
def test_a_slide_that_is_none_exits_with_2_and_names_it(name, content, words, options, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = (run if content is None else invoke)("predict", path, *options)
    assert done.returncode == 2
    assert_clear(done, *words, *(["Error"] if content is None else []))
    assert not list(tmp_path.rglob("*.zip"))


def test_a_folder_without_slides_says_what_it_looked_for(options, tmp_path):
    done = invoke("predict", tmp_path, *options)
    assert done.returncode == 2
    assert_clear(done, "no slide found", ".svs")


def test_every_wrong_option_is_named_at_once(options, tmp_path):
    done = invoke("predict", tmp_path, *options, "--tile", 100, "--workers", 0)
    assert done.returncode == 2
    assert_clear(done, "--tile 100", "--workers 0")


def test_an_unknown_bundle_or_device_exits_with_2(disc_slide, options, tmp_path):  # noqa: F811
    done = invoke("predict", disc_slide[0], "--bundle", "nobody", "--out", tmp_path)
    assert done.returncode == 2
    assert_clear(done, "nobody", "known bundles")
    done = invoke("predict", disc_slide[0], *options[:2], "--device", "cuda:9", "--out", tmp_path)
    assert done.returncode == 2
    assert_clear(done, "cuda:9", "cpu")


@pytest.mark.parametrize("fmt", ["geojson", "geojson.gz"])
def test_other_formats_hold_the_same_collection(disc_slide, options, tmp_path, fmt):  # noqa: F811
    done = invoke("predict", disc_slide[0], "--out", tmp_path, "--format", fmt, *options)
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    assert file.name == f"discs.{fmt}"
    if fmt == "geojson":
        collection = json.loads(file.read_text())
        summary = json.loads((file.parent / "summary.json").read_text())
        assert len(collection["features"]) == summary["nuclei"] > 100


def test_a_dry_run_lists_what_would_be_done_and_does_nothing(small_slide, options, tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    shutil.copy(small_slide, slides / "good.svs")
    (slides / "text.svs").write_text("not a slide")
    done = invoke("predict", slides, "--out", out, "--dry-run", *options)
    assert done.returncode == 0, done.stderr
    assert sorted(line.split("\t")[0] for line in done.stdout.splitlines()) == ["predict"] * 2
    assert not out.exists()
    assert invoke("predict", slides, "--out", out, *options).returncode == 1
    done = invoke("predict", slides, "--out", out, "--dry-run", *options)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["done", "failed before"]
    assert_clear(done, "1 done, 1 failed before", "Nothing was done")
    done = invoke("predict", slides, "--out", out, *options)
    assert_clear(done, "Failed before, --retry-failed tries again", "text.svs")
    assert done.stdout.splitlines() == [str(out / "good" / "good.zip")]


def test_a_pattern_and_a_list_are_taken(small_slide, options, tmp_path):
    shutil.copy(small_slide, tmp_path / "a.svs")
    done = invoke("predict", tmp_path / "*.svs", "--out", tmp_path / "one", *options)
    assert done.returncode == 0, done.stderr
    (tmp_path / "list.csv").write_text("slide,mpp\na.svs,often\n")
    done = invoke("predict", tmp_path / "list.csv", "--out", tmp_path / "two", *options)
    assert done.returncode == 2
    assert_clear(done, "line 2", "often")


def test_wrong_batch_options_and_a_missing_device_are_named(options, tmp_path):
    done = invoke("predict", tmp_path, "--slide-timeout", 0, "--memory-limit", -1, *options)
    assert done.returncode == 2
    assert_clear(done, "--slide-timeout 0", "--memory-limit -1")
    (tmp_path / "a.svs").write_text("")
    done = invoke("predict", tmp_path, "--devices", "cpu,cuda:9", "--bundle", options[1])
    assert done.returncode == 2
    assert_clear(done, "cuda:9", "cpu")


def test_the_package_offers_its_functions_without_loading_torch():
    code = (
        "import sys, lymphinfer; assert 'torch' not in sys.modules; "
        "assert {'predict_slide', 'predict_folder', 'BatchResult'} <= set(dir(lymphinfer)); "
        "print(lymphinfer.predict_folder.__name__, lymphinfer.BatchOptions().slide_timeout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.stdout.split() == ["predict_folder", "None"], done.stderr


def test_help_names_every_command_without_loading_torch():
    done = run("--help")
    assert done.returncode == 0
    for command in ("predict", "status", "doctor", "simulate", "orion", "gate"):
        assert command in done.stdout
    probe = subprocess.run(
        [sys.executable, "-c", "import sys, lymphinfer.cli.app; print('torch' in sys.modules)"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert probe.stdout.strip() == "False", probe.stderr
