"""What a training run tells while it runs: a bar on the terminal, and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter:
    """Bar and TensorBoard events of one run; a context manager.

    Parameters
    ----------
    folder : Path
        Events go to its ``events`` folder, where the package ``tensorboard`` is installed.
    step, total : int
        Optimiser steps done, and at most.
    show : bool
        False in all processes but the first, and in tests: neither bar nor events.
    """

    def __init__(self, folder: Path, step: int, total: int, *, show: bool = True):
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f} · best AUROC {task.fields[best]:.3f}"),
            disable=not show,
        )
        self._task = self._bar.add_task("training", total=total, completed=step, loss=0.0, best=0.0)
        self._best = 0.0
        self._events = _tensorboard(folder / "events", step) if show else None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._events is not None:
            self._events.close()

    def step(self, row: dict[str, Any]) -> None:
        """Show one optimiser step: ``step``, ``loss`` and ``rate``."""
        self._bar.update(self._task, completed=row["step"], loss=row["loss"])
        if self._events is not None:
            self._events.add_scalar("train/loss", row["loss"], row["step"])
            self._events.add_scalar("train/learning_rate", row["rate"], row["step"])

    def epoch(self, row: dict[str, Any]) -> None:
        """Show one epoch's validation: ``step``, ``auroc`` and ``aurocs``."""
        self._best = max(self._best, row["auroc"])
        self._bar.update(self._task, best=self._best)
        aurocs = ", ".join(f"{k} {v:.3f}" for k, v in row["aurocs"].items() if v is not None)
        self._bar.console.print(
            f"epoch {row['epoch'] + 1}: loss {row['train_loss']:.4f}, validation AUROC "
            f"{row['auroc']:.4f} ({aurocs})"
        ) if not self._bar.disable else None
        if self._events is not None:
            self._events.add_scalar("validation/mean_auroc", row["auroc"], row["step"])
            for name, value in row["aurocs"].items():
                if value is not None:
                    self._events.add_scalar(f"validation/auroc_{name}", value, row["step"])


def _tensorboard(folder: Path, step: int) -> Any:
    """Return a writer that hides what an interrupted run wrote after its checkpoint, or None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)
