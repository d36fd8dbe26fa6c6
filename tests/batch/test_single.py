"""One slide is a batch of one: it has a lock, a state, limits and a history."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lymphinfer.batch.calls import find_calls, typed
from lymphinfer.batch.job import Job
from lymphinfer.batch.locks import FolderLock
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.places.here import is_stuck
from lymphinfer.batch.single import predict_slide, run_slide
from lymphinfer.batch.state import Status, read_state
from lymphinfer.bundles import loading
from lymphinfer.cli.app import app
from lymphinfer.errors import LymphinferError, SlideError
from lymphinfer.slides import openslide_reader
from tests.predict.conftest import disc_image, write_svs
from tests.predict.test_roi import CIRCLE, write_annotations

from .made_batch import settings


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    return write_svs(tmp_path_factory.mktemp("one") / "a.svs", disc_image(300, 300)[0])


@pytest.fixture
def hanging(monkeypatch):
    """A reader that hangs until it is let go."""
    go_on = threading.Event()
    original = openslide_reader.OpenSlideSlide._read_level

    def read(self, *arguments):
        go_on.wait(600)
        return original(self, *arguments)

    monkeypatch.setattr(openslide_reader.OpenSlideSlide, "_read_level", read)
    yield
    go_on.set()
    while is_stuck():
        time.sleep(0.05)


def command(slide: Path, out: Path, bundle: Path, *more: object):
    arguments = ["predict", slide, "--out", out, "--bundle", bundle, "--device", "cpu",
                 "--precision", "fp32", "--runtime", "torch", *more]  # fmt: skip
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, arguments)])


def test_it_is_locked_while_it_is_computed_and_has_a_state_after(slide, disc_bundle, tmp_path):
    seen = []

    class Watch:
        def start(self, path, tiles, done):
            seen.append((FolderLock(tmp_path / "a").is_held(), read_state(tmp_path / "a").status))

        def advance(self, nuclei):
            pass

    result = predict_slide(
        slide, tmp_path / "a", settings=settings(disc_bundle, runtime="torch"), progress=Watch()
    )
    assert seen == [(True, Status.RUNNING)]
    state = read_state(tmp_path / "a")
    assert (state.status, state.nuclei, state.attempts) == (Status.DONE, result.n_nuclei, 1)
    assert not (tmp_path / "a" / ".lock").exists()


def test_another_process_is_waited_for(slide, disc_bundle, tmp_path):
    lock = FolderLock(tmp_path / "a")
    assert lock.acquire()
    waited = []

    class Progress:
        def began(self, *_):
            pass

        def advanced(self, *_):
            pass

        def ended(self, *_, **__):
            pass

        def waiting(self, slides, owner):
            waited.append(owner)
            lock.release()

    result = run_slide(
        Job(slide, tmp_path / "a"), settings(disc_bundle, runtime="torch"), progress=Progress()
    )
    assert waited == [f"process {os.getpid()} on {read_state(tmp_path / 'a').host}"]
    assert result.n_nuclei > 10


@pytest.mark.parametrize(
    ("option", "words"),
    [({"stall_timeout": 1.5}, "hung: no tile was finished in 1.5 s"),
     ({"slide_timeout": 1.0}, "took longer than --slide-timeout 1 s"),
     ({"memory_limit_gb": 0.01}, "more than 0.0 GB of memory")],
)  # fmt: skip
def test_it_obeys_the_limits_of_a_batch(slide, disc_bundle, tmp_path, hanging, option, words):
    job = Job(slide, tmp_path / "a")
    with pytest.raises(LymphinferError, match=words):
        run_slide(job, settings(disc_bundle, runtime="torch"), BatchOptions(**option))
    state = read_state(tmp_path / "a")
    assert state.status is Status.FAILED and words in state.reason
    assert not (tmp_path / "a" / ".lock").exists()


def test_the_command_ends_although_its_reader_hangs(disc_bundle, tmp_path):
    slide = write_svs(tmp_path / "hang.svs", disc_image(300, 300)[0])
    code = (
        "from tests.batch.readers_made import all_wrong; all_wrong();"
        "import sys; sys.argv = ['lymphinfer', *sys.argv[1:]];"
        "from lymphinfer.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(slide), "--bundle", str(disc_bundle),
         "--device", "cpu", "--runtime", "torch", "--stall-timeout", "3"],
        capture_output=True, text=True, timeout=1800,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 2 and "hung: no tile" in done.stderr
    (call,) = find_calls(tmp_path / "hang.lymphinfer")
    assert call.exit_code == 2 and call.command.startswith("lymphinfer predict ")


def test_a_failure_stands_until_it_is_to_be_tried_again(disc_bundle, tmp_path):
    (tmp_path / "a.svs").write_text("not a slide")
    job, chosen = Job(tmp_path / "a.svs", tmp_path / "a"), settings(disc_bundle, runtime="torch")
    with pytest.raises(SlideError, match="not a slide"):
        run_slide(job, chosen)
    with pytest.raises(LymphinferError, match=r"not a slide.*--retry-failed tries again"):
        run_slide(job, chosen)
    assert read_state(job.folder).attempts == 1
    with pytest.raises(SlideError):
        run_slide(job, chosen, BatchOptions(retry_failed=True))
    # From Python a call is a wish to try.
    with pytest.raises(SlideError):
        predict_slide(job.slide, job.folder, settings=chosen)
    assert [a.end for a in read_state(job.folder).history] == ["failed"] * 3


def test_a_name_that_was_mistyped_leaves_nothing(disc_bundle, tmp_path):
    done = command(tmp_path / "b.svs", tmp_path / "out", disc_bundle)
    assert isinstance(done.exception, SlideError) and "no such file" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_every_call_and_every_attempt_is_kept_and_shown(slide, disc_bundle, tmp_path):
    (tmp_path / "t.svs").write_text("not a slide")
    out = tmp_path / "out"
    assert command(tmp_path / "t.svs", out, disc_bundle).exception is not None
    assert command(tmp_path / "t.svs", out, disc_bundle, "--retry-failed").exception is not None
    assert command(slide, out, disc_bundle).exit_code == 0
    assert [call.exit_code for call in find_calls(out)] == [2, 2, 0]
    first, second = read_state(out / "t").history
    assert first.began <= second.began and first.seconds is not None and first.pid == os.getpid()
    assert "not a slide" in first.reason
    shown = CliRunner(env={"COLUMNS": "250"}).invoke(app, ["status", str(out)]).stdout
    for words in ("earlier attempts", "calls", "exit code 0", "exit code 2", "not a slide"):
        assert words in shown
    assert shown.count("exit code") == 3


def test_a_call_tells_no_password_of_an_address():
    words = typed(["predict", "https://example.org/a.svs?token=secret", "--out", "my results"])
    assert words == "lymphinfer predict https://example.org/a.svs --out 'my results'"


def test_a_scheduler_without_dask_is_refused(slide, disc_bundle, tmp_path):
    done = command(slide, tmp_path / "out", disc_bundle, "--scheduler", "tcp://10.0.0.1:8786")
    assert isinstance(done.exception, LymphinferError)
    assert "--scheduler tcp://10.0.0.1:8786: needs --engine dask" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", [("--engine", "dask"), ("--devices", "cpu,cpu")])
def test_one_file_of_annotations_does_for_one_slide_in_every_place(
    disc_slide, disc_bundle, tmp_path, place
):
    roi = write_annotations(tmp_path / "a.geojson", (CIRCLE, "Tumor"))
    here = command(disc_slide[0], tmp_path / "here", disc_bundle, "--roi", roi)
    there = command(disc_slide[0], tmp_path / "there", disc_bundle, "--roi", roi, *place)
    assert (here.exit_code, there.exit_code) == (0, 0), there.exception
    nuclei = [
        json.loads((tmp_path / name / "discs" / "summary.json").read_text())["nuclei"]
        for name in ("here", "there")
    ]
    assert nuclei[0] == nuclei[1] > 100


def test_an_interrupted_slide_is_given_back(slide, disc_bundle, tmp_path):
    class Interrupt:
        def start(self, *_):
            raise KeyboardInterrupt

        def advance(self, nuclei):
            pass

    with pytest.raises(KeyboardInterrupt):
        predict_slide(
            slide, tmp_path / "a", settings=settings(disc_bundle, runtime="torch"),
            progress=Interrupt(),
        )  # fmt: skip
    state = read_state(tmp_path / "a")
    assert (state.status, state.attempts) == (Status.QUEUED, 0)
    assert [attempt.end for attempt in state.history] == ["put back"]
    assert not (tmp_path / "a" / ".lock").exists()


def test_nothing_of_a_slide_stays_in_memory(slide, disc_bundle, tmp_path):
    loaded = []
    original = loading.Bundle.__init__

    def init(self, *arguments, **options):
        original(self, *arguments, **options)
        loaded.append(weakref.ref(self.markers))

    loading.Bundle.__init__, kept = init, original
    try:
        predict_slide(slide, tmp_path / "a", settings=settings(disc_bundle, runtime="torch"))
    finally:
        loading.Bundle.__init__ = kept
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None
