"""How many cores a process computes on, whoever computes, and work shared out to them."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

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


def in_order(act: Callable[[_T], _R], items: Iterable[_T], count: int) -> Iterator[_R]:
    """Yield what `act` makes of each item, in the order of the items, on `count` threads.

    Items are taken as threads become free: ``count + 1`` of them, or of their results, are held.

    Parameters
    ----------
    act : callable
        Lets go of Python's lock for most of its time, or nothing is won.
    items : iterable
        Used up in the thread of the caller.
    count : int
        With 1 everything happens in the thread of the caller.
    """
    if count <= 1:
        yield from map(act, items)
        return
    waiting: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(count, thread_name_prefix="lymphinfer")
    try:
        for item in items:
            waiting.append(pool.submit(act, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
