"""What a prediction yields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SlideResult:
    """A finished slide.

    Attributes
    ----------
    slide : Path
    folder : Path
        The slide's result folder.
    file : Path
        What to drop on the image in QuPath.
    summary : dict
        Content of ``summary.json``.
    resumed_shards, shards : int
        Shards that were there already, and all of them.
    seconds : float
        Wall time of this run.
    """

    slide: Path
    folder: Path
    file: Path
    summary: dict[str, Any]
    resumed_shards: int
    shards: int
    seconds: float

    @property
    def n_nuclei(self) -> int:
        """Nuclei in the file."""
        return int(self.summary["nuclei"])
