"""Running a command and watching what it costs, and on which machine."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping
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


def run_by_steps(
    command: list[str], ends: Mapping[str, str | Path], log: Path, last: str = "end"
) -> dict[str, Cost]:
    """Run a command to its end and part its cost into steps; one that fails ends the benchmark.

    Threads that wait sleep: on a busy machine most of the CPU seconds would else be of waiting.

    Parameters
    ----------
    command : list of str
    ends : mapping of str to str or Path
        By a step's name, in order: what the line that ends it begins with, or the file whose
        appearance does.
    log : Path
        What the command prints.
    last : str
        Name of what comes after the last of them.

    Returns
    -------
    dict of str to Cost
        Peak memory is what the processes have for themselves and their part of what they share.
    """
    lines: list[str] = []
    began, before, peak = time.perf_counter(), 0.0, 0.0
    costs: dict[str, Cost] = {}
    waiting = [*ends.items(), (last, Path())]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                file.write(line)
                file.flush()

        reader = threading.Thread(target=read)
        reader.start()
        tree, cpu, at = psutil.Process(process.pid), 0.0, 0
        while process.poll() is None:
            with suppress(psutil.Error):
                members = [tree, *tree.children(recursive=True)]
                cpu = max(cpu, sum(sum(p.cpu_times()[:4]) for p in members))
                peak = max(peak, sum(_memory(p) for p in members) / 2**20)
            while len(waiting) > 1:
                name, end = waiting[0]
                if isinstance(end, Path):
                    over = end.exists()
                else:
                    found = [i for i, line in enumerate(lines[at:], at) if line.startswith(end)]
                    over, at = bool(found), found[0] + 1 if found else at
                if not over:
                    break
                now = time.perf_counter()
                costs[name] = Cost(now - began, peak, cpu - before)
                began, before, peak = now, cpu, 0.0
                waiting.pop(0)
            time.sleep(0.5)
        reader.join()
    if process.returncode:
        done = "".join(f"{name}: {cost}\n" for name, cost in costs.items())
        raise SystemExit(f"{done}{' '.join(command)}: exit code {process.returncode}, see {log}")
    costs[waiting[0][0]] = Cost(time.perf_counter() - began, peak, cpu - before)
    return costs


def _memory(process: psutil.Process) -> float:
    found = process.memory_full_info() if hasattr(psutil, "LINUX") else process.memory_info()
    return float(getattr(found, "pss", found.rss))


def machine() -> str:
    """Model and number of the CPU cores."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"
