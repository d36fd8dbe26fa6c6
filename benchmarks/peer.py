"""What a peer's measured run tells of itself. Needs psutil alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil

FILE = "told.json"


class PeerRun:
    """Seconds of this process up to where it begins with the slide, and what it found.

    Parameters
    ----------
    out : Path
        The folder of its results, made where it is missing; `FILE` is written into it.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.start_s = self.start_cpu_s = 0.0

    def ready(self) -> None:
        """Interpreter, imports and weights are there; the slide was not read yet."""
        self.start_s = time.time() - psutil.Process().create_time()
        self.start_cpu_s = time.process_time()

    def done(self, nuclei: int | None, mm2: float | None = None) -> None:
        """The result is on disk.

        Parameters
        ----------
        nuclei : int or None
            How many it found, or looked at; None for what looks for none.
        mm2 : float, optional
            Area, where it is not the whole slide's.
        """
        told = {"start_s": self.start_s, "start_cpu_s": self.start_cpu_s, "nuclei": nuclei}
        (self.out / FILE).write_text(json.dumps(told | ({"mm2": mm2} if mm2 else {})))
