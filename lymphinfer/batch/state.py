"""The state of a slide in a batch: one small file in its result folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from lymphinfer.batch.platform import create_exclusive
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import PARTS, STATE
from lymphinfer.textfiles import json_bytes


class Status(StrEnum):
    """How far a slide is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One try to do a slide.

    Attributes
    ----------
    began : float
        Seconds since the epoch.
    host : str
    pid : int
    device : str
        Of the worker last heard of.
    seconds : float or None
        How long it took; None while it runs, and where its process was killed.
    end : str
        ``done``, ``failed``, ``put back`` or ``interrupted``; empty while it runs.
    reason : str
        Why it failed.
    """

    began: float
    host: str = ""
    pid: int = 0
    device: str = ""
    seconds: float | None = None
    end: str = ""
    reason: str = ""


@dataclass(frozen=True)
class SlideState:
    """How far a slide is, and who works on it.

    Attributes
    ----------
    slide : str
        Path of the slide as the batch was given it.
    path : str
        The same from the root, by which the slide is known again.
    status : Status
    since : float
        When this status began, seconds since the epoch.
    reason : str
        Why it failed.
    attempts : int
        How often work on it began.
    seconds : float
        Wall time of the last attempt.
    tiles, tiles_done, nuclei : int
        Progress of the attempt at work.
    shards_retried : int
        Shards computed again since a worker was lost.
    host : str
    pid : int
        The process that is or was responsible.
    device : str
    stamp : str
        Size and modification time of the slide when it was tried.
    request : str
        What was asked for: another request tries a failed slide again.
    history : tuple of Attempt
        Every attempt, the last one last.
    """

    slide: str
    status: Status = Status.QUEUED
    since: float = 0.0
    reason: str = ""
    attempts: int = 0
    seconds: float = 0.0
    tiles: int = 0
    tiles_done: int = 0
    nuclei: int = 0
    shards_retried: int = 0
    host: str = ""
    pid: int = 0
    device: str = ""
    stamp: str = ""
    request: str = ""
    path: str = ""
    history: tuple[Attempt, ...] = ()

    def begun(self, attempt: Attempt) -> SlideState:
        """The state with another attempt; one that has no end was interrupted."""
        before = tuple(a if a.end else replace(a, end="interrupted") for a in self.history)
        return replace(self, history=(*before, attempt))

    def ended(self, **changes: Any) -> SlideState:
        """The state with changes of its last attempt."""
        if not self.history:
            return self
        *before, last = self.history
        return replace(self, history=(*before, replace(last, **changes)))


def slide_stamp(slide: Path) -> str:
    """Size and modification time of a file; empty if it cannot be seen."""
    try:
        stat = slide.stat()
    except OSError:
        return ""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def write_state(folder: Path, state: SlideState) -> None:
    """Write a slide's state, whole or not at all.

    Raises
    ------
    ResultError
        It cannot be written.
    """
    with atomic_write(folder / STATE) as file:
        file.write(_encoded(state))


def enqueue(folder: Path, state: SlideState) -> None:
    """Write the state of a slide that has none; another process's is left alone.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    if not (folder / STATE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        create_exclusive(folder / STATE, _encoded(state))


def read_state(folder: Path) -> SlideState | None:
    """State of the slide whose results stand in a folder; None if there is no readable one."""
    try:
        values: dict[str, Any] = orjson.loads((folder / STATE).read_bytes())
        known = {field.name for field in fields(SlideState)}
        state = {name: value for name, value in values.items() if name in known}
        history = tuple(Attempt(**attempt) for attempt in state.get("history", ()))
        return SlideState(**{**state, "status": Status(state["status"]), "history": history})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def find_states(root: Path) -> Iterator[tuple[Path, SlideState]]:
    """Every result folder below a root with its state, in the order of their paths."""
    for place, folders, files in os.walk(root):
        folders.sort()
        if STATE in files:
            # Half of a large batch's files lie there.
            folders[:] = [name for name in folders if name != PARTS]
            state = read_state(Path(place))
            if state is not None:
                yield Path(place), state


def _encoded(state: SlideState) -> bytes:
    return json_bytes(asdict(state), orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
