"""How far a batch is, as a table."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lymphinfer.batch.calls import find_calls
from lymphinfer.batch.locks import FolderLock
from lymphinfer.batch.state import SlideState, Status
from lymphinfer.textfiles import shown

MAX_ROWS = 20


def overview(root: Path, states: list[tuple[Path, SlideState]]) -> RenderableType:
    """Counts of each status, the slides at work, and the failed ones with their reasons.

    Parameters
    ----------
    root : Path
    states : list of (Path, SlideState)
        From `find_states`.

    Returns
    -------
    rich renderable
    """
    by_status = {status: [(f, s) for f, s in states if s.status is status] for status in Status}
    parts: list[RenderableType] = [
        Text(f"{len(states)} slides: " + ", ".join(f"{len(v)} {k}" for k, v in by_status.items()))
    ]
    if by_status[Status.RUNNING]:
        table = Table("running", "tiles", "nuclei", "for", "attempt", "where")
        for folder, state in by_status[Status.RUNNING]:
            alive = FolderLock(folder).is_held()
            table.add_row(
                escape(_name(root, folder)),
                f"{state.tiles_done:,} / {state.tiles:,}" if state.tiles else "",
                f"{state.nuclei:,}",
                duration(time.time() - state.since),
                str(state.attempts),
                escape(f"{state.host} {state.device} (pid {state.pid})")
                if alive
                else "[yellow]interrupted: the same predict command goes on[/]",
            )
        parts.append(table)
    if by_status[Status.FAILED]:
        table = Table("failed", "attempt", "reason")
        for folder, state in by_status[Status.FAILED]:
            reason = state.reason.removeprefix(f"{state.slide}: ")
            table.add_row(escape(_name(root, folder)), str(state.attempts), escape(reason))
        parts.append(table)
    parts += [table for table in (_attempts(root, states), _calls(root)) if table is not None]
    return Group(*parts)


def _attempts(root: Path, states: list[tuple[Path, SlideState]]) -> Table | None:
    """What was tried before the last attempt, and every attempt that came to nothing."""
    tried = [
        (folder, attempt)
        for folder, state in states
        for attempt in state.history
        if attempt is not state.history[-1] or attempt.end not in ("", "done", "failed")
    ]
    if not tried:
        return None
    table = Table("earlier attempts", "began", "for", "where", "end", "reason")
    for folder, attempt in sorted(tried, key=lambda pair: pair[1].began)[-MAX_ROWS:]:
        table.add_row(
            escape(_name(root, folder)),
            moment(attempt.began),
            "" if attempt.seconds is None else duration(attempt.seconds),
            escape(f"{attempt.host} {attempt.device} (pid {attempt.pid})"),
            attempt.end,
            escape(attempt.reason),
        )
    return table


def _calls(root: Path) -> Table | None:
    calls = find_calls(root)
    if not calls:
        return None
    table = Table("calls", "slides", "for", "where", "end")
    for call in calls[-MAX_ROWS:]:
        running = "" if call.exit_code is None else f"exit code {call.exit_code}"
        table.add_row(
            escape(f"{moment(call.began)}  {call.command}"),
            str(call.slides),
            "" if call.seconds is None else duration(call.seconds),
            escape(f"{call.host} (pid {call.pid})"),
            escape(f"{running}  {call.error}".strip()),
        )
    return table


def moment(seconds: float) -> str:
    """A time since the epoch as the clock on the wall had it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _name(root: Path, folder: Path) -> str:
    return shown(folder.relative_to(root) if folder != root else folder.name)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as ``1:02:03``."""
    hours, rest = divmod(max(0, int(seconds)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
