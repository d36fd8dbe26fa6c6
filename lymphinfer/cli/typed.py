"""The command as it was typed: what every card, report and table names as its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from typer.core import TyperGroup

_ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


class RememberingGroup(TyperGroup):
    """The root command, which remembers the arguments that it is called with."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:
        """See `TyperGroup.main`."""
        _ARGUMENTS.set(tuple(sys.argv[1:] if args is None else args))
        return super().main(args, *more, **named)


def typed_command() -> str:
    """The command that runs, for a shell: ``lymphinfer retrain --out "my bundle"``."""
    from lymphinfer.batch.calls import typed

    return typed(_ARGUMENTS.get())
