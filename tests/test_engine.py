"""What computes networks on a machine: device, number type, library and threads."""

from __future__ import annotations

import sys

import pytest
import torch

from lymphinfer import engine
from lymphinfer import threads as threading
from lymphinfer.compute import half_type
from lymphinfer.engine import (
    choose_device,
    choose_engine,
    choose_precision,
    choose_runtime,
)
from lymphinfer.errors import LymphinferError
from lymphinfer.threads import set_threads, threads
from lymphinfer.training.device import choose_precision as choose_for_training

CPU = torch.device("cpu")


@pytest.mark.parametrize(("faster", "wanted"), [(True, "bfloat16"), (False, "fp32")])
def test_a_cpu_computes_in_what_it_is_faster_in(monkeypatch, faster, wanted):
    monkeypatch.setattr(engine, "prefers_bf16", lambda: faster)
    assert choose_precision("cpu") == wanted
    assert half_type(CPU) is {"bfloat16": torch.bfloat16, "fp32": None}[wanted]
    assert choose_for_training("auto", CPU) == {"bfloat16": "bf16", "fp32": "no"}[wanted]


def test_a_precision_that_is_asked_for_is_taken():
    assert half_type(CPU, "bf16") is torch.bfloat16
    assert half_type(CPU, "fp32") is None
    assert choose_precision("cpu", "bf16") == "bfloat16"
    assert choose_for_training("bf16", CPU) == "bf16"
    with pytest.raises(LymphinferError, match="choose one of auto, fp32, bf16, fp16, int8"):
        choose_precision("cpu", "int3")


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, native, wanted):
    def supported(including_emulation=True):
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("cuda") == {"bf16": "bfloat16", "fp16": "float16"}[wanted]
    assert choose_for_training("auto", torch.device("cuda")) == wanted


def test_a_runtime_that_cannot_be_had_is_refused_with_the_fix(monkeypatch):
    with pytest.raises(LymphinferError, match="choose one of auto, torch, openvino"):
        choose_runtime("cpu", "tensorrt")
    with pytest.raises(LymphinferError, match="leave --runtime out"):
        choose_runtime("cuda:0", "openvino")
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "openvino" else True)
    with pytest.raises(LymphinferError, match="pip install openvino"):
        choose_runtime("cpu", "openvino")
    assert choose_runtime("cpu") == "torch"


def test_bfloat16_is_refused_where_it_would_be_float32_in_its_name(monkeypatch):
    monkeypatch.setattr(engine, "has_bf16", lambda: False)
    with pytest.raises(LymphinferError, match="bf16: this CPU has no instructions for it"):
        choose_engine("cpu", "bf16", "openvino")
    assert choose_engine("cpu", "bf16", "torch").precision == "bfloat16"
    monkeypatch.setattr(engine, "has_bf16", lambda: True)
    assert choose_engine("cpu", "bf16", "openvino").precision == "bfloat16"


def test_without_torch_there_is_the_cpu(monkeypatch):
    monkeypatch.setattr(engine, "has_torch", lambda: False)
    found = choose_engine()
    assert (found.device, found.runtime) == ("cpu", "openvino")
    assert choose_device("cpu") == "cpu"
    fix = r"pip install 'lymphinfer\[torch\]'"
    with pytest.raises(LymphinferError, match=fix):
        choose_device("cuda:0")
    with pytest.raises(LymphinferError, match=fix):
        choose_runtime("cpu", "torch")


def test_torch_is_not_asked_for_a_gpu_where_no_driver_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(engine, "may_have_gpu", lambda: False)
    assert choose_device() == "cpu"
    monkeypatch.setattr(engine, "may_have_gpu", lambda: True)
    assert choose_device() == "cuda:0"
    with pytest.raises(LymphinferError, match=r"cuda:7.*not on this machine.*cuda:0, cpu"):
        choose_device("cuda:7")
    with pytest.raises(LymphinferError, match="is unknown"):
        choose_device("gpu")


def test_threads_are_torch_s_where_it_is_loaded_and_this_process_own_otherwise(monkeypatch):
    before = torch.get_num_threads()
    assert threads() == before
    monkeypatch.setattr(threading, "_asked", None)
    set_threads(1)
    assert torch.get_num_threads() == threads() == 1
    torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    assert threads() == 1
    monkeypatch.setattr(threading, "_asked", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert threads() >= 1
