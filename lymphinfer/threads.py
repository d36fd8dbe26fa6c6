"""How many cores a process' networks run on, whoever computes them."""

from __future__ import annotations

import os
import sys

_asked: int | None = None


def set_threads(count: int) -> None:
    """Let this process' networks run on so many cores of the CPU."""
    global _asked
    _asked = count
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)


def threads() -> int:
    """Cores that networks run on: as set, as torch has it, or all that this process may use."""
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    if _asked is not None:
        return _asked
    if (told := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(told):
        return int(told)
    import psutil

    # Macs tell no affinity.
    affinity: list[int] = getattr(psutil.Process(), "cpu_affinity", list)()
    allowed = len(affinity) or os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)
