"""What the training commands print alike."""

from __future__ import annotations

from rich.progress import MofNCompleteColumn, ProgressColumn, TextColumn


def patch_columns() -> tuple[ProgressColumn, ...]:
    """Columns of a bar that counts a slide's patches."""
    return (MofNCompleteColumn(), TextColumn("patches"))
