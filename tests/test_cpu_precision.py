"""bfloat16 on a CPU: measured once, kept, and one answer for all processes."""

from __future__ import annotations

import json
import sys

import platformdirs
import pytest
import torch

from lymphinfer import cpu_precision
from lymphinfer.cpu_precision import cache_file, cpu, measured, prefers_bf16, prefers_int8

FASTER = {"fp32": 1.0, "bfloat16": 0.6, "int8": 0.3}
SLOWER = {"fp32": 1.0, "bfloat16": 1.5, "int8": 1.7}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or leaves what is measured on this machine."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    monkeypatch.setattr(cpu_precision, "has_bf16", lambda: True)
    return tmp_path / "cache"


def never():
    raise AssertionError("it was measured")


@pytest.mark.parametrize(("seconds", "wanted"), [(FASTER, True), (SLOWER, False)])
def test_what_is_faster_is_measured_once_and_kept(seconds, wanted):
    assert prefers_bf16(lambda: seconds) is wanted
    assert prefers_bf16(never) is wanted
    assert json.loads(cache_file().read_text("utf-8"))["bfloat16"] == seconds["bfloat16"]
    assert [p.name for p in cache_file().parent.iterdir()] == [cache_file().name]


def test_a_little_faster_is_not_worth_less_exact_numbers():
    assert prefers_bf16(lambda: {**FASTER, "bfloat16": 0.95}) is False


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (FASTER, True),
        (SLOWER, False),
        # What bfloat16 takes already is not worth less exact numbers.
        ({"fp32": 1.0, "bfloat16": 0.5, "int8": 0.85}, False),
        # No faster in themselves, but of half the arithmetic.
        ({"fp32": 1.0, "bfloat16": 1.5, "int8": 1.0}, True),
    ],
)
def test_bytes_are_taken_where_they_are_much_faster_than_all_else(monkeypatch, seconds, wanted):
    assert prefers_int8(lambda: seconds) is wanted
    assert prefers_int8(never) is wanted
    # Both questions are answered by one measurement.
    assert prefers_bf16(never) is (seconds["bfloat16"] < 0.9)


@pytest.mark.parametrize(
    ("machine", "wanted"), [("x86_64", True), ("AMD64", True), ("arm64", False)]
)
def test_where_nothing_can_be_kept_bytes_are_taken_on_x86(own_cache, monkeypatch, machine, wanted):
    monkeypatch.setattr(cpu_precision.platform, "machine", lambda: machine)
    own_cache.write_text("a file where the folder should be")
    assert prefers_int8(lambda: SLOWER if wanted else FASTER) is wanted


def test_a_cpu_without_the_instructions_is_not_measured(monkeypatch):
    monkeypatch.setattr(cpu_precision, "has_bf16", lambda: False)
    assert prefers_bf16(never) is False


def test_of_two_processes_that_measure_at_once_the_first_one_s_answer_is_both_s():
    def slow():
        # Another one is done meanwhile.
        assert prefers_bf16(lambda: FASTER) is True
        return SLOWER

    assert prefers_bf16(slow) is True


@pytest.mark.parametrize(
    ("vendor", "instructions", "wanted"),
    [
        ("GenuineIntel", {"amx_bf16", "avx512_bf16"}, True),
        # Its AMX hidden from a virtual machine: slower in bfloat16 than in float32.
        ("GenuineIntel", {"avx512_bf16"}, False),
        ("AuthenticAMD", {"avx512_bf16"}, True),
        # As Windows names it.
        ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", set(), True),
    ],
)
def test_where_nothing_can_be_kept_a_rule_decides_for_all(
    own_cache, monkeypatch, vendor, instructions, wanted
):
    monkeypatch.setattr(cpu_precision, "cpu", lambda: (vendor, frozenset(instructions)))
    own_cache.write_text("a file where the folder should be")
    assert prefers_bf16(lambda: SLOWER if wanted else FASTER) is wanted


def test_a_damaged_answer_is_none(monkeypatch):
    prefers_bf16(lambda: SLOWER)
    cache_file().write_text("{", "utf-8")
    monkeypatch.setattr(cpu_precision, "by_rule", lambda: True)
    assert prefers_bf16(never) is True


def test_another_cpu_or_number_of_threads_is_measured_anew(monkeypatch):
    first = cache_file()
    monkeypatch.setattr(cpu_precision, "threads", lambda: 77)
    second = cache_file()
    monkeypatch.setattr(cpu_precision, "_model", lambda: "another")
    assert len({first, second, cache_file()}) == 3


def test_both_precisions_are_timed_on_this_cpu():
    pytest.importorskip("openvino")
    seconds = measured()
    assert set(seconds) == {"fp32", "bfloat16", "int8"} and min(seconds.values()) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says")
def test_this_cpu_is_known(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.undo()
    vendor, instructions = cpu()
    assert vendor and instructions
    # torch asks the CPU itself.
    assert ("avx512_bf16" in instructions) == torch.cpu._is_avx512_bf16_supported()
    assert cpu_precision.has_bf16() == bool({"avx512_bf16", "amx_bf16"} & instructions)
