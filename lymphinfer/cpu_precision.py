"""What a CPU computes faster in, bfloat16 or bytes: measured once a machine, and kept.

CPUs that have instructions for bfloat16 are not all faster with them: Intel's without AMX are half
again as slow as in float32, AMD's take 0.6 of the time (`benchmarks/README.md`). In bytes an AMD
with AVX2 alone takes 0.6 of float32's time; others were not at hand. So all are tried on layers
like the detector's, and the answer is kept in the user's cache folder. All processes of a batch
have to give one answer: where it cannot be kept, a rule decides.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lymphinfer.threads import threads

WORTH = 0.9
"""Share of float32's time from which on bfloat16 is taken: its numbers are less exact."""
INT8_WORTH = 0.8
"""Share of the faster of the others' time from which on bytes are taken."""
LEAN = 0.5
"""Share of its arithmetic that the shipped detector takes in bytes: a leaner network is computed
(`benchmarks/network_cost.py`)."""
ROUNDS, SIDE_PX = 3, 160
MEASURED = ("fp32", "bfloat16", "int8")

Seconds = dict[str, float]


def prefers_bf16(measure: Callable[[], Seconds] | None = None) -> bool:
    """Whether bfloat16 is faster than float32 on this CPU.

    Parameters
    ----------
    measure : callable, optional
        Gives the seconds of each of `MEASURED`; `measured` by default.

    Returns
    -------
    bool
        False where the CPU has no instructions for it.
    """
    if not has_bf16():
        return False
    known = _known(cache_file(), measure or measured)
    return by_rule() if known is None else known["bfloat16"] < WORTH * known["fp32"]


def prefers_int8(measure: Callable[[], Seconds] | None = None) -> bool:
    """Whether bytes are faster than what is taken otherwise on this CPU.

    Parameters
    ----------
    measure : callable, optional
        As for `prefers_bf16`.
    """
    known = _known(cache_file(), measure or measured)
    if known is None:
        return int8_by_rule()
    return LEAN * known["int8"] < INT8_WORTH * min(known["fp32"], known["bfloat16"])


def has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16, by AVX-512 or by AMX."""
    if find_spec("openvino") is None:
        return bool({"avx512_bf16", "amx_bf16"} & cpu()[1])
    from lymphinfer.runtime import core

    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def by_rule() -> bool:
    """What was found on the CPUs at hand: faster with AMX, and on AMD."""
    vendor, instructions = cpu()
    return "amx_bf16" in instructions or "AuthenticAMD" in vendor


def int8_by_rule() -> bool:
    """Faster on the one CPU at hand, an x86; elsewhere OpenVINO may have no kernels for it."""
    return platform.machine().lower() in ("x86_64", "amd64")


def cache_file() -> Path:
    """Where what was measured on this kind of CPU is kept, one file a kind."""
    import hashlib

    import platformdirs

    kind = json.dumps([_model(), threads(), _openvino(), MEASURED])
    name = f"precision-{hashlib.sha256(kind.encode()).hexdigest()[:12]}.json"
    return Path(platformdirs.user_cache_dir("lymphinfer")) / name


def _known(file: Path, measure: Callable[[], Seconds]) -> Seconds | None:
    """What is kept, or is measured and kept now; None where nothing can be kept."""
    for _ in range(2):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(file.read_text("utf-8"))
            return {name: float(found[name]) for name in MEASURED}
        if file.exists() or find_spec("openvino") is None:
            # Damaged, or nothing to measure with.
            return None
        made = json.dumps({**measure(), "cpu": _model(), "threads": threads()})
        part = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(made, "utf-8")
            # Of several processes that begin together the first one's answer is all's.
            with suppress(FileExistsError):
                os.link(part, file)
        except OSError:
            return None
        finally:
            with suppress(OSError):
                part.unlink()
    return None


def measured() -> Seconds:
    """Seconds of a few layers in each of `MEASURED`, the best of some turns.

    Without instructions for bfloat16 its time is float32's: it is not tried.
    """
    from lymphinfer.layers import Layers
    from lymphinfer.runtime import CpuGraph

    rng = np.random.default_rng(0)
    widths = (32, 64, 128, 64, 32)
    weights = {}
    for i, (c_in, c_out) in enumerate(zip((3, *widths), widths, strict=False)):
        weights[f"{i}.weight"] = rng.normal(0, 0.05, (c_out, c_in, 3, 3)).astype(np.float32)
        weights[f"{i}.bias"] = np.zeros(c_out, np.float32)
    rounded = {"pixels.top": np.ones(1, np.float32)}
    for i, width in enumerate(widths):
        rounded |= {f"{i}.top": np.ones(1, np.float32), f"{i}.scale": np.full(width, 0.003)}
    graphs = {}
    for name in MEASURED:
        if name == "bfloat16" and not has_bf16():
            continue
        net = Layers(weights, rounded if name == "int8" else None)
        given, x = net.pixels()
        for i, width in enumerate(widths):
            x = net.conv(x, str(i), width, relu=True)
        graphs[name] = CpuGraph(net.model(given, [x]), name)
    pixels = rng.integers(0, 256, (1, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    best = dict.fromkeys(graphs, float("inf"))
    for turn in range(ROUNDS + 1):
        for name, graph in graphs.items():
            began = time.perf_counter()
            graph(pixels)
            if turn:
                best[name] = min(best[name], time.perf_counter() - began)
    return {"bfloat16": best["fp32"], **best}


@cache
def cpu() -> tuple[str, frozenset[str]]:
    """Vendor and instruction sets of the CPU, as far as the system tells them."""
    facts = _cpuinfo()
    flags = frozenset(facts.get("flags", "").split())
    return facts.get("vendor_id") or platform.processor(), flags


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _model() -> str:
    facts = _cpuinfo()
    name = facts.get("model name") or platform.processor()
    # Virtual machines of one name may have different instructions.
    return f"{name}; {' '.join(sorted(f for f in cpu()[1] if '512' in f or 'amx' in f))}"


def _openvino() -> str:
    return version("openvino") if find_spec("openvino") is not None else ""
