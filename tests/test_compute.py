"""Which number type `auto` computes in."""

from __future__ import annotations

import pytest
import torch

from lymphinfer.compute import half_type, precision_name
from lymphinfer.training.device import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "amx", "avx512", "wanted"),
    [
        ("Intel Xeon", True, True, "bfloat16"),
        # Its AMX hidden from a virtual machine: slower in bfloat16 than in float32.
        ("Intel Xeon", False, True, "fp32"),
        ("AMD EPYC", False, True, "bfloat16"),
        ("AMD EPYC", False, False, "fp32"),
        (None, False, True, "bfloat16"),
    ],
)
def test_a_cpu_computes_in_what_it_is_faster_in(monkeypatch, name, amx, avx512, wanted):
    known = {} if name is None else {"cpu_name": name}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert precision_name(half_type(CPU)) == wanted
    assert choose_precision("auto", CPU) == {"bfloat16": "bf16", "fp32": "no"}[wanted]


def test_a_precision_that_is_asked_for_is_taken():
    assert half_type(CPU, "bf16") is torch.bfloat16
    assert half_type(CPU, "fp32") is None
    assert choose_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, native, wanted):
    def supported(including_emulation=True):
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    gpu = torch.device("cuda")
    assert precision_name(half_type(gpu)) == {"bf16": "bfloat16", "fp16": "float16"}[wanted]
    assert choose_precision("auto", gpu) == wanted
