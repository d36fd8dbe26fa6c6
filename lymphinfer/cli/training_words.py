"""What the training commands print alike."""

from __future__ import annotations

import shlex

from rich.progress import MofNCompleteColumn, ProgressColumn, TextColumn


def patch_columns() -> tuple[ProgressColumn, ...]:
    """Columns of a bar that counts a slide's patches."""
    return (MofNCompleteColumn(), TextColumn("patches"))


def command_line(name: str, **options: object) -> str:
    """Spell a command for a card: ``lymphinfer retrain --cohort ORION``; None leaves one out."""
    words = ["lymphinfer", name]
    for key, value in options.items():
        if value is True:
            words.append(f"--{key}")
        elif value is not None and value is not False:
            words += [f"--{key}", shlex.quote(str(value))]
    return " ".join(words)
