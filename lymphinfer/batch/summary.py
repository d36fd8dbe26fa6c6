"""What became of a batch: a row a slide, as ``batch.csv`` and ``batch.json``."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from lymphinfer.batch.job import Job
from lymphinfer.batch.state import SlideState, Status, read_state
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import (
    BATCH_CSV,
    BATCH_JSON,
    REGIONS_CSV,
    REPORT,
    SUMMARY,
    slide_words,
)
from lymphinfer.errors import ResultError
from lymphinfer.export.regions import flat_rows, record_of, write_csv
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.textfiles import json_bytes, shown
from lymphinfer.version import __version__

# Between the warnings of a slide, in a table.
_BETWEEN = " | "
_PAGE_HEAD = 4096
_PER_MARKER = ("evidence", "positive", "expected", "positive_per_mm2", "expected_per_mm2")


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide.

    Attributes
    ----------
    slide, folder : Path
    status : Status
        ``queued`` for a slide that the batch did not come to.
    reason : str
        Why it failed.
    file : Path or None
        What to drop on the image in QuPath.
    nuclei : int or None
    tissue_mm2 : float or None
    markers : dict
        For each marker ``positive``, ``expected``, both per mm², and ``evidence``.
    seconds : float
        Of the attempt that ended it.
    attempts, shards, shards_retried : int
    numbers : str
        Number type and runtime in which it was computed.
    warnings : tuple of str
        What the reader of the slide's numbers must know.
    """

    slide: Path
    folder: Path
    status: Status
    reason: str = ""
    file: Path | None = None
    nuclei: int | None = None
    tissue_mm2: float | None = None
    markers: dict[str, dict[str, float | str | None]] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 0
    shards: int = 0
    shards_retried: int = 0
    numbers: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def seconds_per_mm2(self) -> float | None:
        """Pace; None without tissue."""
        return round(self.seconds / self.tissue_mm2, 3) if self.tissue_mm2 else None

    def row(self) -> dict[str, Any]:
        """Flat values, for a table."""
        flat = {
            f"{marker} {name}": values.get(name)
            for marker, values in self.markers.items()
            for name in _PER_MARKER
        }
        return {
            "slide": shown(slide_words(self.slide)),
            "status": self.status.value,
            "reason": shown(self.reason),
            "warnings": shown(_BETWEEN.join(" ".join(text.split()) for text in self.warnings)),
            "nuclei": self.nuclei,
            "tissue_mm2": self.tissue_mm2,
            **flat,
            "seconds": self.seconds,
            "seconds_per_mm2": self.seconds_per_mm2,
            "attempts": self.attempts,
            "shards": self.shards,
            "shards_retried": self.shards_retried,
            "folder": shown(self.folder),
        }


@dataclass(frozen=True)
class BatchResult:
    """A batch that has ended.

    Attributes
    ----------
    root : Path
        Holds ``batch.csv`` and ``batch.json``.
    outcomes : tuple of SlideOutcome
        In the order of the slides.
    seconds : float
        Wall time of this run.
    stopped : str
        Why the batch ended before its last slide; empty if it did not.
    """

    root: Path
    outcomes: tuple[SlideOutcome, ...]
    seconds: float
    stopped: str = ""

    @property
    def done(self) -> list[SlideOutcome]:
        """Slides with results."""
        return [o for o in self.outcomes if o.status is Status.DONE]

    @property
    def notes(self) -> list[str]:
        """What the reader of the numbers of several slides must know."""
        kinds = Counter(outcome.numbers for outcome in self.done if outcome.numbers)
        if len(kinds) < 2:
            return []
        words = ", ".join(f"{count} in {kind}" for kind, count in kinds.most_common())
        return [
            f"Slides were computed in different number types: {words}. Their numbers differ, in "
            "int8 by one or two nuclei in a hundred, else in the last digits; give --precision and "
            "--runtime for the same on every machine."
        ]

    @property
    def failed(self) -> list[SlideOutcome]:
        """Slides with a reason instead."""
        return [o for o in self.outcomes if o.status is Status.FAILED]

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some slides failed or were not come to, 2 nothing could be done."""
        if not self.done:
            return 2
        return 0 if len(self.done) == len(self.outcomes) and not self.stopped else 1


def outcome(job: Job, error: str = "") -> SlideOutcome:
    """What became of a slide, as its result folder tells it.

    Parameters
    ----------
    job : Job
    error : str
        Why it failed where not even its state could be written.

    Returns
    -------
    SlideOutcome
    """
    if error:
        return SlideOutcome(job.slide, job.folder, Status.FAILED, error)
    state = read_state(job.folder) or SlideState(str(job.slide))
    plain = SlideOutcome(
        job.slide,
        job.folder,
        state.status,
        state.reason,
        seconds=state.seconds,
        attempts=state.attempts,
        shards_retried=state.shards_retried,
    )
    if state.status is not Status.DONE:
        return plain
    try:
        summary: dict[str, Any] = json.loads((job.folder / SUMMARY).read_text("utf-8"))
        return SlideOutcome(
            **{
                **vars(plain),
                "file": job.folder / summary["file"],
                "nuclei": int(summary["nuclei"]),
                "tissue_mm2": summary["tissue_mm2"],
                "markers": {
                    name: {key: values[key] for key in _PER_MARKER} | {"evidence": _word(values)}
                    for name, values in summary["markers"].items()
                },
                "shards": int(summary["shards"]["total"]),
                "numbers": _numbers(summary["arguments"]),
                "warnings": tuple(str(text) for text in summary.get("warnings", ())),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as problem:
        reason = f"{job.folder / SUMMARY} cannot be read ({problem}): run the batch again"
        return SlideOutcome(job.slide, job.folder, Status.FAILED, reason)


def _numbers(arguments: Mapping[str, Any]) -> str:
    return f"{arguments['precision']} by {arguments['runtime']}"


def _word(values: Mapping[str, Any]) -> str | None:
    """The evidence of a marker in one word."""
    word = (values["evidence"] or {}).get("evidence")
    return None if word is None else str(word)


def write_batch(result: BatchResult, settings: PredictSettings) -> None:
    """Write ``batch.csv`` and ``batch.json`` into the root of the results.

    With ``regions.csv``, a row a slide and region, where slides were counted by regions.

    Raises
    ------
    ResultError
        They cannot be written.
    """
    rows = [o.row() for o in result.outcomes]
    with atomic_write(result.root / BATCH_CSV) as file:
        file.write(_csv(rows).encode())
    regions = [row for o in result.done for row in _regions(o.folder)]
    if regions:
        write_csv(result.root / REGIONS_CSV, regions)
    content = {
        "software": f"lymphinfer {__version__}",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "done": len(result.done),
        "failed": len(result.failed),
        "not_done": len(rows) - len(result.done) - len(result.failed),
        "stopped": result.stopped,
        "notes": result.notes,
        "seconds": round(result.seconds, 3),
        "nuclei": sum(o.nuclei or 0 for o in result.outcomes),
        "tissue_mm2": round(sum(o.tissue_mm2 or 0 for o in result.outcomes), 6),
        "shards_retried": sum(o.shards_retried for o in result.outcomes),
        "arguments": settings.to_dict(),
        "slides": rows,
    }
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    with atomic_write(result.root / BATCH_JSON) as file:
        file.write(json_bytes(content, option, str))


def _regions(folder: Path) -> list[dict[str, Any]]:
    """A row a region of a slide, where it was counted by regions in this result."""
    try:
        result = open_result(folder)
        record = record_of(result) if "regions" in result.summary else None
    except ResultError:
        return []
    return [] if record is None else flat_rows(record)


def remove_report(root: Path) -> None:
    """Delete the page of all slides that an earlier batch has: it shows other results."""
    page = root / REPORT
    with suppress(OSError):
        # At the root of the results there may be a page of the user's own.
        if b'name="generator" content="lymphinfer' in page.read_bytes()[:_PAGE_HEAD]:
            page.unlink()


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every column that any row has: a failed slide knows no marker."""
    widest = max(rows, key=len, default={})
    names = [*widest, *dict.fromkeys(n for row in rows for n in row if n not in widest)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
