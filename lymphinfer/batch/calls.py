"""Every call of the command that works on a folder of results: one small file in its ``runs/``."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import orjson

from lymphinfer.batch.platform import machine
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import RUNS, safe_name, slide_words
from lymphinfer.errors import LymphinferError
from lymphinfer.textfiles import json_bytes, shown
from lymphinfer.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """One call of the command.

    Attributes
    ----------
    command : str
        As it was typed; an address without its query, which may hold a password.
    software : str
    began : float
        Seconds since the epoch.
    host : str
    pid : int
    seconds : float or None
        How long it took; None while it runs, and where it was killed.
    exit_code : int or None
    error : str
        Why it ended early.
    slides : int
        That were to be done.
    """

    command: str
    software: str = f"lymphinfer {__version__}"
    began: float = 0.0
    host: str = ""
    pid: int = 0
    seconds: float | None = None
    exit_code: int | None = None
    error: str = ""
    slides: int = 0


class CallFile:
    """Writes down one call; what cannot be written is a warning, never the end of the work.

    Parameters
    ----------
    root : Path
        Root of the results.
    arguments : sequence of str
        What was typed behind the command's name.
    """

    def __init__(self, root: Path, arguments: Sequence[str]):
        self.root = root
        self.call = Call(typed(arguments), host=machine().split("/")[0], pid=os.getpid())
        self.path: Path | None = None
        self.exit_code = 0

    def begin(self, slides: int) -> None:
        """Work begins: a call that comes to nothing before leaves no file."""
        self.call = replace(self.call, began=time.time(), slides=slides)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.call.began))
        name = f"{stamp}-{safe_name(self.call.host)}-{self.call.pid}-{secrets.token_hex(2)}.json"
        self.path = self.root / RUNS / name
        self._write(self.path)

    def end(self, error: str = "") -> None:
        """The call is over, with `exit_code`."""
        if self.path is not None:
            seconds = round(time.time() - self.call.began, 3)
            self.call = replace(
                self.call, seconds=seconds, exit_code=self.exit_code, error=shown(error)
            )
            self._write(self.path)

    def _write(self, path: Path) -> None:
        option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        try:
            with atomic_write(path) as file:
                file.write(json_bytes(asdict(self.call), option))
        except LymphinferError as error:
            log.warning("%s", error)


@contextmanager
def written_down(call: CallFile) -> Iterator[CallFile]:
    """Write down how a call ends, however it does."""
    try:
        yield call
    except LymphinferError as error:
        call.exit_code = 2
        call.end(str(error))
        raise
    except KeyboardInterrupt:
        call.exit_code = 130
        call.end("interrupted")
        raise
    except SystemExit as error:
        call.exit_code = error.code if isinstance(error.code, int) else 1
        call.end("terminated")
        raise
    except BaseException as error:
        call.exit_code = 1
        call.end(f"{type(error).__name__}: {error}")
        raise
    call.end()


def typed(arguments: Sequence[str]) -> str:
    """A command line as it was typed; an address without what may tell of passwords."""
    return shown(shlex.join(["lymphinfer", *(slide_words(Path(a)) if "://" in a else a
                                             for a in arguments)]))  # fmt: skip


def find_calls(root: Path) -> list[Call]:
    """Calls on a folder of results, in the order in which they began; none that is unreadable."""
    known = {field.name for field in fields(Call)}
    found = []
    for path in (root / RUNS).glob("*.json"):
        try:
            values: dict[str, Any] = json.loads(path.read_text("utf-8"))
            found.append(Call(**{k: v for k, v in values.items() if k in known}))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return sorted(found, key=lambda call: call.began)
