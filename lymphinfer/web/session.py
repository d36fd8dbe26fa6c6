"""What the page can ask for and do, as plain values: no HTTP here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import Cohort
from lymphinfer.orion.figure import RANGE_COLORS
from lymphinfer.orion.gates import THRESHOLDS, Gate, SlideGates
from lymphinfer.panel import Panel
from lymphinfer.web.slide_cache import SlideCache
from lymphinfer.web.slide_view import SlideView
from lymphinfer.web.store import Change, GatesStore

MAX_EXAMPLES, MAX_DRAW = 48, 999
Reply = dict[str, Any]


class UnknownError(DataError):
    """The page asked for a slide, marker or cell that is not there."""


class GatingSession:
    """A cohort whose gates are being set. Threads may share it.

    Every count comes from the functions that `lymphinfer gate apply` uses. Replies hold what JSON
    can: gates and counts with their fields' names, by marker.

    Parameters
    ----------
    cohort : Cohort
    gates_path : Path
        The ``gates.toml``, with gates for every slide and marker.
    panel : Panel
    who : str
        Who sets gates.

    Raises
    ------
    DataError
        The gates file is missing or wrong, with every problem.
    """

    def __init__(self, cohort: Cohort, gates_path: Path, panel: Panel, who: str) -> None:
        self.cohort, self.panel = cohort, panel
        self.store = GatesStore(gates_path, cohort.folders, panel.names, who)
        self.slides = SlideCache(cohort, panel)

    def cohort_reply(self) -> Reply:
        """Everything but the slides' cells."""
        return self._situation() | {
            "cohort": str(self.cohort.root),
            "gates_file": str(self.store.path),
            "changed_on_disk": self.store.changed_on_disk(),
            "markers": [{"name": m.name, "parent": m.parent} for m in self.panel.markers],
            "ranges": [{"name": name, "color": color} for name, color in RANGE_COLORS.items()],
            "slides": [
                {"folder": s.folder, "patient": s.patient, "has_if": s.if_ is not None}
                for s in self.cohort.slides
            ],
        }

    def slide_reply(self, folder: str) -> Reply:
        """A slide's gates and counts, as saved."""
        view = self._view(folder)
        own = self.store.gates.slides[folder]
        counts = {c.marker: asdict(c) for c in view.counts(own)}
        return {
            "folder": folder,
            "cells": len(view.cells),
            "blank_max": own.blank_max,
            "gates": {name: _gate_reply(own.markers[name]) for name in self.panel.names},
            "counts": counts,
        }

    def histogram_reply(self, folder: str, marker: str) -> Reply:
        """Histogram of a marker, see `SlideView.histogram`."""
        view = self._view(folder)
        found = view.histogram(self.store.gates.slides[folder], self._marker(marker))
        return {"log_low": found.log_low, "log_high": found.log_high, "bins": found.bins.tolist()}

    def preview(self, folder: str, marker: str, body: Mapping[str, Any]) -> Reply:
        """Counts of all markers under thresholds that are not saved."""
        view = self._view(folder)
        gates = self._with_thresholds(folder, marker, body)
        return {"counts": {c.marker: asdict(c) for c in view.counts(gates)}}

    def examples_reply(self, folder: str, marker: str, query: Mapping[str, str]) -> Reply:
        """Cells of each range under given thresholds; see `SlideView.examples`."""
        view = self._view(folder)
        number = min(max(_whole(query, "number", 8), 1), MAX_EXAMPLES)
        draw = min(max(_whole(query, "draw", 0), 0), MAX_DRAW)
        gates = self._with_thresholds(folder, marker, query)
        found = view.examples(gates, marker, number, draw)
        return {"examples": {name: [asdict(e) for e in cells] for name, cells in found.items()}}

    def picture(self, folder: str, row: int, kind: str) -> bytes:
        """JPEG of a cell: H&E (``"he"``) or a marker's fluorescence."""
        view = self._view(folder)
        if not 0 <= row < len(view.cells):
            raise UnknownError(f"{folder} has no cell in row {row}; it has {len(view.cells):,}.")
        x, y = float(view.cells.x[row]), float(view.cells.y[row])
        pictures = self.slides.pictures(folder)
        if kind == "he":
            return pictures.he(x, y)
        return pictures.fluorescence(x, y, self._marker(kind), view.window(kind))

    def set_thresholds(self, folder: str, marker: str, body: Mapping[str, Any]) -> Reply:
        """Save thresholds."""
        self._view(folder)
        gate = self._with_thresholds(folder, marker, body).markers[marker]
        return self._saved(folder, marker, {marker: self.store.signed(gate)}, body)

    def accept(self, folder: str, marker: str, body: Mapping[str, Any]) -> Reply:
        """Put the user's name under a gate as it is."""
        self._view(folder)
        gate = self.store.gates.slides[folder].markers[self._marker(marker)]
        return self._saved(folder, marker, {marker: self.store.signed(gate)}, body)

    def copy(self, folder: str, marker: str, body: Mapping[str, Any]) -> Reply:
        """Take over another slide's gate, or with ``all`` its gates of every marker."""
        self._view(folder)
        source = str(body.get("source", ""))
        self._known(source)
        if source == folder:
            raise DataError(f"{folder}: gates are copied from another slide; choose one.")
        names = self.panel.names if body.get("all") is True else (self._marker(marker),)
        own = self.store.gates.slides[source].markers
        copied = {name: self.store.signed(own[name], source) for name in names}
        return self._saved(folder, marker, copied, body)

    def propose(self, folder: str, marker: str, body: Mapping[str, Any]) -> Reply:
        """Go back to what `lymphinfer gate propose` says of this marker."""
        view = self._view(folder)
        gate = view.propose(self.store.gates.slides[folder], self._marker(marker))
        return self._saved(folder, marker, {marker: gate}, body)

    def correct(self, folder: str, marker: str, body: Mapping[str, Any]) -> Reply:
        """Gate raw intensities, or those without autofluorescence."""
        view = self._view(folder)
        gates = self.store.gates.slides[folder]
        gate = view.recorrected(
            gates, self._marker(marker), corrected=body.get("corrected") is True
        )
        return self._saved(folder, marker, {marker: self.store.signed(gate)}, body)

    def undo(self, body: Mapping[str, Any]) -> Reply:
        """Take the last change back and say where it was."""
        return self._stepped(self.store.undo(_revision(body)))

    def redo(self, body: Mapping[str, Any]) -> Reply:
        """Make the last undone change again and say where it was."""
        return self._stepped(self.store.redo(_revision(body)))

    def reload(self) -> Reply:
        """Take the gates file as it is now."""
        changed = self.store.reload()
        return self._situation() | {"changed": list(changed)}

    def rename(self, body: Mapping[str, Any]) -> Reply:
        """Set who sets gates from now on."""
        self.store.who = str(body.get("who", ""))
        return self._situation()

    def next_folder(self, folder: str) -> str | None:
        """Name of the slide after one, None after the last."""
        folders = self.cohort.folders
        place = folders.index(folder) + 1
        return folders[place] if place < len(folders) else None

    def close(self) -> None:
        """Release every file."""
        self.slides.close()

    def _situation(self) -> Reply:
        store = self.store
        return {
            "who": store.who,
            "revision": store.revision,
            "can_undo": store.can_undo,
            "can_redo": store.can_redo,
            "states": store.states(),
        }

    def _saved(
        self, folder: str, marker: str, new: Mapping[str, Gate], body: Mapping[str, Any]
    ) -> Reply:
        self.store.save(folder, marker, new, _revision(body))
        return self._situation() | {"slide": self.slide_reply(folder), "marker": marker}

    def _stepped(self, change: Change | None) -> Reply:
        if change is None:
            return self._situation()
        return self._situation() | {
            "slide": self.slide_reply(change.slide),
            "marker": change.marker,
            "moved": True,
        }

    def _known(self, folder: str) -> str:
        if folder not in self.cohort.folders:
            raise UnknownError(f"{self.cohort.root}: no slide {folder!r}.")
        return folder

    def _view(self, folder: str) -> SlideView:
        return self.slides.view(self._known(folder))

    def _marker(self, name: str) -> str:
        if name not in self.panel.names:
            raise UnknownError(f"{name!r} is no marker; there are {', '.join(self.panel.names)}.")
        return name

    def _with_thresholds(self, folder: str, marker: str, given: Mapping[str, Any]) -> SlideGates:
        """Put thresholds on a gate as it is saved; absent ones stand."""
        own = self.store.gates.slides[folder]
        gate = own.markers[self._marker(marker)]
        values: dict[str, Any] = {
            key: _number(given[key], key) for key in THRESHOLDS if key in given
        }
        gate = replace(gate, **values)
        problems = gate.problems()
        if problems:
            raise DataError("\n".join(f"{folder}, {marker}: {p}." for p in problems))
        return SlideGates({**own.markers, marker: gate}, own.blank_max)


def _gate_reply(gate: Gate) -> Reply:
    return {key: getattr(gate, key) for key in THRESHOLDS} | {
        "set_by": gate.set_by,
        "set_at": gate.set_at.isoformat(),
        "af": None if gate.af is None else {"lambda": gate.af.lambda_, "beta": gate.af.beta},
    }


def _revision(body: Mapping[str, Any]) -> str:
    return str(body.get("revision", ""))


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise DataError(f"{name} {value!r} is no number.")
    return number


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(query.get(name, default))
    except ValueError as error:
        raise DataError(f"{name} {query[name]!r} is no whole number.") from error
