"""A command's cost is parted where it says, and where a file appears."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil")
SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "process.py"
WORK = """
import sys, time
from pathlib import Path
print("first: done")
data = bytearray(300_000_000)
for i in range(0, len(data), 4096):
    data[i] = 1
time.sleep(1.5)
Path(sys.argv[1]).touch()
time.sleep(1.5)
print("more")
"""


@pytest.fixture(scope="module")
def process():
    spec = importlib.util.spec_from_file_location("process", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["process"] = module
    spec.loader.exec_module(module)
    return module


def test_steps_end_with_a_line_or_a_file(process, tmp_path):
    mark, log = tmp_path / "there", tmp_path / "log"
    costs = process.run_by_steps(
        [sys.executable, "-c", WORK, str(mark)], {"a": "first: ", "b": mark}, log, "c"
    )
    assert list(costs) == ["a", "b", "c"]
    assert max(cost.peak_mb for cost in costs.values()) > 280
    assert log.read_text() == "first: done\nmore\n"


def test_a_command_that_fails_ends_it_and_names_what_it_printed(process, tmp_path):
    with pytest.raises(SystemExit, match=r"exit code 3, see .*log"):
        process.run_by_steps([sys.executable, "-c", "exit(3)"], {}, tmp_path / "log")
