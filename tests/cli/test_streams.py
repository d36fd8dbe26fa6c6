"""What a command does where its output goes nowhere, or memory ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from lymphinfer.errors import is_memory_short
from tests.predict.conftest import disc_bundle as disc_bundle
from tests.predict.conftest import disc_image

COMMAND = (sys.executable, "-m", "lymphinfer")


def close_output():
    os.close(1)


@pytest.mark.skipif(os.name == "nt", reason="no preexec_fn there")
def test_a_closed_standard_output_ends_in_0(tmp_path):
    done = subprocess.run(
        [*COMMAND, "weights", "list"], preexec_fn=close_output, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_leaves_exit_code_0():
    with subprocess.Popen(
        [*COMMAND, "weights", "info", "he-v2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        # Gone before the first line is written.
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


@pytest.mark.skipif(os.name == "nt", reason="no preexec_fn there")
@pytest.mark.parametrize("bound", ["stdout", "both"])
def test_a_slide_is_done_where_nobody_listens(disc_bundle, tmp_path, bound):
    from PIL import Image

    Image.fromarray(disc_image(120, 120, seed=0)[0]).save(tmp_path / "s.png")

    def close():
        os.close(1)
        if bound == "both":
            os.close(2)

    done = subprocess.run(
        [*COMMAND, "predict", "s.png", "--mpp", "0.5", "--bundle", disc_bundle, "--out", "out"],
        cwd=tmp_path,
        preexec_fn=close,
    )
    assert done.returncode == 0
    assert list((tmp_path / "out").rglob("*.zip"))


@pytest.mark.skipif(sys.platform != "linux", reason="an address space has no limit elsewhere")
@pytest.mark.slow
def test_memory_that_ends_is_told_and_no_traceback(tmp_path):
    import resource

    from PIL import Image

    Image.fromarray(disc_image(700, 600, seed=1)[0]).save(tmp_path / "s.png")
    limit = 4_000_000 << 10
    done = subprocess.run(
        [*COMMAND, "predict", "s.png", "--mpp", "0.325", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    if done.returncode:
        assert done.returncode in (1, 2), done.stderr
        assert "not enough memory" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[CPU] Check 'ptr' failed\nFailed to allocate 92897280 bytes of memory"),
        RuntimeError("can't start new thread"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_what_engines_say_of_memory_is_understood(error):
    assert is_memory_short(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), OSError(errno.ENOSPC, "No space left"), ValueError()]
)
def test_other_errors_are_no_lack_of_memory(error):
    assert not is_memory_short(error)
