"""The gates file, `gates.toml`: written for people, read with every problem reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.orion.gates import THRESHOLDS, AfCorrection, Gate, Gates, SlideGates
from lymphinfer.textfiles import read_toml
from lymphinfer.validation import place, table, validated

FORMAT, VERSION = "lymphinfer-gates", 1
_HEADER = """\
# Gates of LymphInfer: per slide and marker four ranges of a cell's mean intensity v.
#   v < negative_max                       negative
#   negative_max <= v < positive_min       uncertain, not labelled
#   positive_min <= v < overexposure_min   positive
#   v >= overexposure_min                  over-exposed, not labelled
# With [slides.<slide>.<marker>.af] v is max(raw - lambda * AF1 + beta, 0), else the raw mean.
# A slide's blank_max: cells with more in the blank channel (Argo550) are artefacts, not labelled.
# Edit freely; set_by says who or what set a gate. `lymphinfer gate show` draws it.

"""


_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_NOBODY_KNOWS_WHEN = datetime.fromtimestamp(0, UTC)


@table
@dataclass(frozen=True)
class _AfTable:
    """``[slides.SLIDE.MARKER.af]``."""

    lambda_: Annotated[float, Field(alias="lambda")]
    beta: float


@table
@dataclass(frozen=True)
class _GateTable:
    """``[slides.SLIDE.MARKER]``."""

    negative_max: float
    positive_min: float
    overexposure_min: float
    set_by: str = ""
    set_at: datetime = _NOBODY_KNOWS_WHEN
    af: _AfTable | None = None

    def gate(self) -> Gate:
        af = None if self.af is None else AfCorrection(**vars(self.af))
        return Gate(**{**vars(self), "af": af})


def read_gates(
    path: Path, slides: Sequence[str] | None = None, markers: Sequence[str] = ()
) -> Gates:
    """Read and check a gates file.

    Parameters
    ----------
    path : Path
        The ``gates.toml``.
    slides : sequence of str, optional
        Slides that must have gates; None: those in the file.
    markers : sequence of str
        Markers that each of these slides must have.

    Returns
    -------
    Gates

    Raises
    ------
    DataError
        With every problem of the file.
    """
    try:
        document = read_toml(path, DataError, "the gates file")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such gates file. Make one with `lymphinfer gate propose`."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: the gates file cannot be read ({error}).") from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise DataError(
            f"{path}: not a gates file of this version: format {document.get('format')!r}, version "
            f"{document.get('version')!r}, where {FORMAT!r} and {VERSION} are expected. "
            "Make one with `lymphinfer gate propose`."
        )
    problems: list[str] = []
    tables = document.get("slides", {})
    if not isinstance(tables, dict):
        raise DataError(f"{path}: `slides` must be a table, such as [slides.CRC01.CD45].")
    gates = Gates({slide: _slide(slide, table, problems) for slide, table in tables.items()})
    needed = list(gates.slides) if slides is None else slides
    problems += gates.problems(needed, ())
    for slide in needed:
        table = tables.get(slide)
        lacking = [m for m in markers if isinstance(table, dict) and m not in table]
        if lacking:
            problems.append(f"slide {slide}: no gate for {', '.join(lacking)}")
    if problems:
        raise DataError("\n".join(f"{path}: {problem}." for problem in problems))
    return gates


def write_gates(path: Path, gates: Gates) -> None:
    """Write a gates file, whole or not at all; ResultError if it cannot be."""
    with atomic_write(path) as file:
        file.write(gates_bytes(gates))


def gates_bytes(gates: Gates) -> bytes:
    """Content of the gates file of these gates: the same gates give the same bytes."""
    import tomli_w

    slides: dict[str, Any] = {}
    for slide, found in gates.slides.items():
        table: dict[str, Any] = {}
        if found.blank_max is not None:
            table["blank_max"] = found.blank_max
        for name, gate in found.markers.items():
            entry: dict[str, Any] = {key: getattr(gate, key) for key in THRESHOLDS}
            entry |= {"set_by": gate.set_by, "set_at": gate.set_at}
            if gate.af is not None:
                entry["af"] = {"lambda": gate.af.lambda_, "beta": gate.af.beta}
            table[name] = entry
        slides[slide] = table
    document = {"format": FORMAT, "version": VERSION, "slides": slides}
    return (_HEADER + tomli_w.dumps(document)).encode()


def _slide(slide: str, table: Any, problems: list[str]) -> SlideGates:
    """Gates of a slide: those that could be read."""
    at = ("slides", slide)
    if not isinstance(table, dict):
        problems.append(f"{place(at)} = {table!r}: expected a table of markers")
        return SlideGates({})
    found = {
        name: validated(_GateTable, entry, problems, (*at, name))
        for name, entry in table.items()
        if name != "blank_max"
    }
    gates = {name: gate.gate() for name, gate in found.items() if gate is not None}
    blank_max = None
    if "blank_max" in table:
        blank_max = validated(_Number, table["blank_max"], problems, (*at, "blank_max"))
    return SlideGates(gates, blank_max)
