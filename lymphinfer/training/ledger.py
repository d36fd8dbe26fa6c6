"""Which steps of a long command are done, and from which inputs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lymphinfer.cells.files import atomic_write

STEPS = "steps.json"


class Ledger:
    """The steps done in a work folder, in ``steps.json``.

    A step counts as done while the fingerprint of its inputs is the one it was done with. It is
    recorded once its results are on disk, so a killed step is simply run again.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path):
        self.path = folder / STEPS
        self._steps: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                found = json.loads(self.path.read_text("utf-8"))
            # Written whole or not at all; a file that is none of ours only costs doing steps again.
            except ValueError:
                found = {}
            self._steps = found if isinstance(found, dict) else {}

    def is_done(self, step: str, fingerprint: str) -> bool:
        """Whether a step was done from these inputs."""
        return self._steps.get(step, {}).get("fingerprint") == fingerprint

    def seconds(self, step: str) -> float | None:
        """How long a step took, None where it was never done."""
        value = self._steps.get(step, {}).get("seconds")
        return None if value is None else float(value)

    def run(
        self, step: str, fingerprint: str, work: Callable[[], Any], results: list[Path]
    ) -> bool:
        """Do a step unless it is done.

        Parameters
        ----------
        step : str
        fingerprint : str
        work : callable
            Does it and leaves `results`.
        results : list of Path
            Files that must be there for the step to count as done.

        Returns
        -------
        bool
            Whether it was done now.
        """
        if self.is_done(step, fingerprint) and all(path.exists() for path in results):
            return False
        began = time.monotonic()
        work()
        self._steps[step] = {
            "fingerprint": fingerprint,
            "seconds": round(time.monotonic() - began, 1),
        }
        with atomic_write(self.path) as file:
            file.write(json.dumps(self._steps, indent=1).encode())
        return True
