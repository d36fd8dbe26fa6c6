"""Who is told how a batch advances."""

from __future__ import annotations

from typing import Protocol

from lymphinfer.batch.job import Job
from lymphinfer.batch.summary import SlideOutcome


class BatchProgress(Protocol):
    """Told how a batch advances, from one thread."""

    def began(self, job: Job, device: str, tiles: int, done: int) -> None:
        """Work on a slide begins: its tiles, and how many an earlier run has done."""

    def advanced(self, job: Job, nuclei: int) -> None:
        """Another tile of a slide is done, with that many nuclei."""

    def ended(self, outcome: SlideOutcome, *, again: bool = False) -> None:
        """A slide is done or has failed; `again` for a failure of an earlier run that stands."""

    def waiting(self, slides: int, owner: str) -> None:
        """All that is left is in the hands of other processes."""


class SilentBatch:
    """A `BatchProgress` that tells nobody."""

    def began(self, job: Job, device: str, tiles: int, done: int) -> None:
        """See `BatchProgress`."""

    def advanced(self, job: Job, nuclei: int) -> None:
        """See `BatchProgress`."""

    def ended(self, outcome: SlideOutcome, *, again: bool = False) -> None:
        """See `BatchProgress`."""

    def waiting(self, slides: int, owner: str) -> None:
        """See `BatchProgress`."""
