"""The gates file behind the page: every change is saved at once, recorded, and can be undone."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lymphinfer.errors import DataError, LymphinferError
from lymphinfer.orion.gates import Gate, Gates, SlideGates
from lymphinfer.orion.gates_file import gates_bytes, read_gates, write_gates
from lymphinfer.orion.gating import PROPOSED_BY

MAX_WHO = 80
_COPIED = re.compile(r" \(copied from [^()]+\)$")


class ConflictError(LymphinferError):
    """The gates file is no longer the one that a change was made to; nothing was written.

    Attributes
    ----------
    changed : tuple of str
        Gates that now differ, ``"CRC01 CD45"``; empty where only remarks or order do.
    """

    def __init__(self, message: str, changed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.changed = changed


@dataclass(frozen=True)
class Change:
    """One step of the history.

    Attributes
    ----------
    slide, marker : str
        Where the page was.
    before, after : SlideGates
        The slide's gates.
    """

    slide: str
    marker: str
    before: SlideGates
    after: SlideGates


def review_state(gate: Gate) -> str:
    """How far a gate is: ``"proposed"``, ``"copied"`` from another slide, or ``"reviewed"``.

    Examples
    --------
    >>> review_state(Gate(1, 2, 3, "lymphinfer gate propose (mixture, all cells, seed 0)"))
    'proposed'
    >>> review_state(Gate(1, 2, 3, "A. Pathologist (copied from CRC02)"))
    'copied'
    >>> review_state(Gate(1, 2, 3, "A. Pathologist"))
    'reviewed'
    """
    if gate.set_by.startswith(PROPOSED_BY):
        return "proposed"
    return "copied" if _COPIED.search(gate.set_by) else "reviewed"


def checked_name(who: str) -> str:
    """Name for the file's ``set_by``; DataError where it cannot be one."""
    name = " ".join(who.split())
    if not name or len(name) > MAX_WHO or not name.isprintable():
        raise DataError(
            f"the name {who[:MAX_WHO]!r} cannot stand in the gates file: give 1 to {MAX_WHO} "
            "characters, such as your name or initials."
        )
    if name.startswith(PROPOSED_BY) or _COPIED.search(name):
        raise DataError(f"the name {name!r} is kept for gates that no person has looked at.")
    return name


class GatesStore:
    """Gates in memory and on disk. Threads may share it.

    A change names the revision that it was made to. Where that is not the file's any more, because
    an editor, `lymphinfer gate propose` or another window wrote it, nothing is written and
    `ConflictError` says what differs. The file is compared right before it is replaced; it is not
    locked against other programs.

    Parameters
    ----------
    path : Path
        The ``gates.toml``.
    slides, markers : sequence of str
        Slides that must have gates, and the markers that each must have.
    who : str
        Who sets gates from now on.

    Raises
    ------
    DataError
        The file is missing or wrong, with every problem, or `who` is no name.
    """

    def __init__(self, path: Path, slides: Sequence[str], markers: Sequence[str], who: str) -> None:
        self.path = path
        self._slides, self._markers = tuple(slides), tuple(markers)
        self._who = checked_name(who)
        self._lock = threading.RLock()
        self._done: list[Change] = []
        self._undone: list[Change] = []
        self._gates = Gates({})
        self._load()

    @property
    def gates(self) -> Gates:
        """Gates as last read or written."""
        return self._gates

    @property
    def revision(self) -> str:
        """Digest of the file as last read or written."""
        return self._revision

    @property
    def who(self) -> str:
        """Who sets gates."""
        return self._who

    @who.setter
    def who(self, name: str) -> None:
        self._who = checked_name(name)

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to make again."""
        return bool(self._undone)

    def states(self) -> dict[str, dict[str, str]]:
        """`review_state` of every gate, by slide and marker."""
        return {
            slide: {m: review_state(self._gates.slides[slide].markers[m]) for m in self._markers}
            for slide in self._slides
        }

    def signed(self, gate: Gate, copied_from: str | None = None) -> Gate:
        """Put who and when on a gate."""
        note = "" if copied_from is None else f" (copied from {copied_from})"
        now = datetime.now(UTC).replace(microsecond=0)
        return replace(gate, set_by=self._who + note, set_at=now)

    def save(self, slide: str, marker: str, new: Mapping[str, Gate], revision: str) -> SlideGates:
        """Save gates of a slide.

        Parameters
        ----------
        slide : str
        marker : str
            Where the page is; `undo` comes back to it.
        new : mapping of str to Gate
            Gates by marker; the slide's others stand.
        revision : str
            What the change was made to.

        Returns
        -------
        SlideGates
            The slide's gates, saved.

        Raises
        ------
        DataError
            Thresholds are wrong.
        ConflictError
            The file has changed; nothing is written.
        ResultError
            It cannot be written.
        """
        problems = [f"{slide}, {m}: {p}" for m, gate in new.items() for p in gate.problems()]
        if problems:
            raise DataError("\n".join(f"{self.path}: not saved: {p}." for p in problems))
        with self._lock:
            self._check(revision)
            before = self._gates.slides[slide]
            after = SlideGates({**before.markers, **new}, before.blank_max)
            self._write(slide, after)
            self._done.append(Change(slide, marker, before, after))
            self._undone.clear()
            return after

    def undo(self, revision: str) -> Change | None:
        """Take the last change back, with who and when; None if there is none; raises as `save`."""
        with self._lock:
            return self._step(self._done, self._undone, revision, back=True)

    def redo(self, revision: str) -> Change | None:
        """Make the last undone change again; None if there is none; raises as `save`."""
        with self._lock:
            return self._step(self._undone, self._done, revision, back=False)

    def reload(self) -> tuple[str, ...]:
        """Take the file as it is now; the history ends.

        Returns
        -------
        tuple of str
            Gates that differ from before, ``"CRC01 CD45"``.

        Raises
        ------
        DataError
            The file is missing or wrong; the gates in memory stand.
        """
        with self._lock:
            before = self._gates
            self._load()
            self._done.clear()
            self._undone.clear()
            return _differences(before, self._gates)

    def changed_on_disk(self) -> bool:
        """Whether the file is another than was last read or written."""
        return self._digest() != self._revision

    def _step(
        self, source: list[Change], target: list[Change], revision: str, *, back: bool
    ) -> Change | None:
        if not source:
            return None
        self._check(revision)
        change = source[-1]
        self._write(change.slide, change.before if back else change.after)
        target.append(source.pop())
        return change

    def _check(self, revision: str) -> None:
        if revision != self._revision:
            raise ConflictError(
                f"{self.path}: another window of this page has saved gates since. Nothing was "
                "written: load the file as it is now, then make the change again."
            )
        if not self.changed_on_disk():
            return
        changed: tuple[str, ...] = ()
        found = "it cannot be read any more"
        try:
            now = read_gates(self.path, self._slides, self._markers)
        except DataError as error:
            found = str(error)
        else:
            changed = _differences(self._gates, now)
            found = ", ".join(changed) or "no gate differs, but remarks or order do"
        raise ConflictError(
            f"{self.path}: something else has changed the file ({found}). Nothing was written: "
            "load the file as it is now, or put your change on top of it.",
            changed,
        )

    def _write(self, slide: str, after: SlideGates) -> None:
        gates = Gates({**self._gates.slides, slide: after})
        write_gates(self.path, gates)
        self._gates, self._revision = gates, hashlib.sha256(gates_bytes(gates)).hexdigest()

    def _load(self) -> None:
        # The digest first: what is written between the two is a conflict later, never lost.
        digest = self._digest()
        self._gates = read_gates(self.path, self._slides, self._markers)
        self._revision = digest

    def _digest(self) -> str:
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError:
            return ""


def _differences(before: Gates, now: Gates) -> tuple[str, ...]:
    pairs = {
        (slide, marker)
        for gates in (before, now)
        for slide, own in gates.slides.items()
        for marker in own.markers
    }

    def gate(gates: Gates, slide: str, marker: str) -> Gate | None:
        own = gates.slides.get(slide)
        return None if own is None else own.markers.get(marker)

    return tuple(f"{s} {m}" for s, m in sorted(pairs) if gate(before, s, m) != gate(now, s, m))
