"""How a cohort is laid out: what `cohort.toml` says, checked as a whole.

ORION is one such file, shipped as package data; a cohort without a file of its own is ORION's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

from lymphinfer.errors import DataError
from lymphinfer.orion.cohort_file import (
    FORMAT,
    VERSION,
    CellsTable,
    CohortFile,
    file_problems,
    own_panel,
)
from lymphinfer.panel import PANELS, Panel
from lymphinfer.textfiles import read_toml
from lymphinfer.validation import validated

FILE = "cohort.toml"
AUTOFLUORESCENCE, BLANK = "AF1", "Argo550"
"""ORION's names of the two channels without an antibody; asked for by these in every cohort."""

MEASURED = "measured"
"""Folder below the cohort's for the cell tables that `lymphinfer cohort quantify` makes."""


@dataclass(frozen=True)
class TableFormat:
    """Where a cell table has what is asked for.

    Attributes
    ----------
    id, x, y : str
        Columns; an empty `id` numbers the rows from 1.
    columns : mapping of str to str
        By channel, marker and role, the column.
    channels : tuple of str
        The cohort's channels, in order.
    lacks : frozenset of str
        Roles (`AUTOFLUORESCENCE`, `BLANK`) that no channel of the cohort has.
    scale, shift : float
        Level-0 px are ``scale * value + shift``.
    """

    id: str
    x: str
    y: str
    columns: Mapping[str, str]
    channels: tuple[str, ...]
    lacks: frozenset[str] = frozenset()
    scale: float = 1.0
    shift: float = 0.0

    def column(self, channel: str) -> str:
        """A channel's column."""
        return self.columns.get(channel, channel)


@dataclass(frozen=True)
class Layout:
    """A cohort's layout.

    Attributes
    ----------
    path : Path
        The file that says it.
    file : CohortFile
    """

    path: Path
    file: CohortFile

    @property
    def is_orion(self) -> bool:
        """Whether it is the layout of ORION that ships."""
        return self.path == _SHIPPED

    @property
    def caution(self) -> str:
        """What must be said beside every number; empty where nothing must."""
        if not self.file.one_patient:
            return ""
        about = f" ({self.file.about.rstrip('.')})" if self.file.about else ""
        return f"One patient: the slides are parts of one patient's{about}."

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the immunofluorescence, in order."""
        return self.file.image.channels

    @cached_property
    def panel(self) -> Panel:
        """Markers that are gated and learned."""
        panel, _ = own_panel(self.file)
        assert panel is not None
        return panel

    def panel_named(self, name: str) -> Panel:
        """The panel of that name; the cohort's own for an empty one.

        Raises
        ------
        DataError
            There is no such panel, or the cohort lacks a channel of it.
        """
        if name in ("", self.panel.name):
            return self.panel
        if name not in PANELS:
            known = ", ".join(dict.fromkeys((self.panel.name, *PANELS)))
            raise DataError(f"--panel {name}: no such panel. Known: {known}.")
        lacking = [m for m in PANELS[name].names if self.channel_of(m) not in self.table_channels]
        if lacking:
            raise DataError(
                f"{self.path}: --panel {name} needs channels for {', '.join(lacking)}, and the "
                f"cells have {', '.join(self.table_channels)}. Name them in [[marker]]."
            )
        return PANELS[name]

    def channel_of(self, marker: str) -> str:
        """The channel of a panel's marker."""
        named = {m.name: m.channel for m in self.file.marker if m.channel}
        return named.get(marker, marker)

    @property
    def table_channels(self) -> tuple[str, ...]:
        """Channels of the cell tables."""
        return self.file.cells.channels or self.channels

    def plane_of(self, marker: str) -> int | None:
        """Number of a marker's plane in the immunofluorescence; None where it has none."""
        name = self.channel_of(marker)
        return self.channels.index(name) if name in self.channels else None

    @property
    def nuclei_plane(self) -> int | None:
        """Number of the nuclear stain's plane."""
        nuclei = self.file.image.nuclei
        return self.channels.index(nuclei) if nuclei else None

    def table_format(self, mpp: float) -> TableFormat:
        """How the cell table of a slide is read.

        Parameters
        ----------
        mpp : float
            Level-0 pixel size of the slide's H&E, µm/px.
        """
        cells = self.file.cells
        shift = 0.0 if cells.origin == "pixel-centre" else -0.5
        if cells.source == "measure":
            cells = CellsTable(channels=cells.channels)
            shift = 0.0
        scale = 1.0 if cells.unit == "px" else 1 / mpp
        columns = {c: cells.columns.get(c, cells.intensity.format(c)) for c in self.table_channels}
        names = {m.name: m.channel for m in self.file.marker if m.channel}
        columns |= {m: columns[c] for m, c in names.items() if c in columns}
        image = self.file.image
        roles = {AUTOFLUORESCENCE: image.autofluorescence, BLANK: image.blank}
        columns |= {role: columns[c] for role, c in roles.items() if c in columns}
        lacks = frozenset(role for role, c in roles.items() if c not in columns)
        return TableFormat(
            cells.id, cells.x, cells.y, columns, self.table_channels, lacks, scale, shift
        )


_SHIPPED = Path(str(files("lymphinfer.orion") / "data" / FILE))


def read_layout(path: Path) -> Layout:
    """Read and check a ``cohort.toml``.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Layout

    Raises
    ------
    DataError
        With every problem of the file.
    """
    try:
        document = read_toml(path, DataError, "the cohort's file")
    except OSError as error:
        raise DataError(f"{path}: the cohort's file cannot be read ({error}).") from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise DataError(
            f"{path}: not a cohort's file of this version: format {document.get('format')!r}, "
            f"version {document.get('version')!r}, where {FORMAT!r} and {VERSION} are expected. "
            "Make one with `lymphinfer cohort init`."
        )
    problems: list[str] = []
    found: CohortFile | None = validated(CohortFile, document, problems)
    if found is not None:
        problems += file_problems(found)
    if problems or found is None:
        raise DataError("\n".join(f"{path}: {problem}." for problem in problems))
    return Layout(path, found)


@cache
def orion_layout() -> Layout:
    """ORION's own."""
    return read_layout(_SHIPPED)


def find_layout(root: Path) -> Layout:
    """The layout of a cohort's folder: its ``cohort.toml``, else ORION's; as `read_layout`."""
    path = root / FILE
    return read_layout(path) if path.is_file() else orion_layout()
