"""Running a command and watching what it costs, and on which machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes
    ----------
    seconds : float
        Wall time.
    peak_mb : float
        Peak resident memory of its process tree.
    cpu_seconds : float
        Of all its processes.
    """

    seconds: float
    peak_mb: float
    cpu_seconds: float


def run(command: list[str], env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end; one that fails ends the benchmark."""
    began, peak, cpu = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            members = [tree, *tree.children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in members) / 2**20)
            cpu = max(cpu, sum(sum(p.cpu_times()[:2]) for p in members))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Cost(time.perf_counter() - began, peak, cpu)


def machine() -> str:
    """Model and number of the CPU cores."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"
