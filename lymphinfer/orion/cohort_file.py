"""What ``cohort.toml`` may say: one type a table, and what must fit between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from lymphinfer.panel import Panel, panel_of
from lymphinfer.slides.pixel_size import MAX_PATCH_MPP, MIN_MPP
from lymphinfer.validation import table

FORMAT, VERSION = "lymphinfer-cohort", 1

Text = Annotated[str, Field(min_length=1)]
Mpp = Annotated[float, Field(ge=0.05, le=10)]
HeMpp = Annotated[float, Field(ge=MIN_MPP, le=MAX_PATCH_MPP)]
Level = Annotated[int, Field(ge=0, le=255)]


@table
@dataclass(frozen=True)
class FilesTable:
    """``[files]``: patterns, exactly one file of a slide's folder each; empty for none."""

    he: str = ""
    cells: str = ""
    mask: str = ""
    if_: Annotated[str, Field(alias="if")] = ""
    markers: str = ""

    def patterns(self) -> dict[str, str]:
        """By kind of file, those that there are."""
        found = {**vars(self), "if": self.if_}
        return {kind: text for kind, text in found.items() if kind != "if_" and text}


@table
@dataclass(frozen=True)
class ImageTable:
    """``[image]``: the channels of the immunofluorescence, in order, and what some are for.

    Attributes
    ----------
    channels : tuple of str
    nuclei : str
        The nuclear stain; empty where there is none.
    autofluorescence, blank : str
        Channels without an antibody; empty where there are none.
    blank_max : float or None
        Above it in `blank` a cell is an artefact.
    saturation : float
        Where the camera's, or the file's, range ends.
    """

    channels: Annotated[tuple[Text, ...], Field(min_length=1)]
    nuclei: str = ""
    autofluorescence: str = ""
    blank: str = ""
    blank_max: float | None = None
    saturation: Annotated[float, Field(gt=0)] = 65535.0


@table
@dataclass(frozen=True)
class CellsTable:
    """``[cells]``: how the cell tables are written.

    Attributes
    ----------
    source : str
        ``"table"``: each slide has one; ``"measure"``: `lymphinfer cohort quantify` makes them.
    id, x, y : str
        Columns of the cell's number (empty: the row's) and of its centroid.
    unit : str
        Of `x` and `y`: px of the H&E's level 0, or µm.
    origin : str
        Whether (0, 0) is the centre or the corner of the first pixel.
    intensity : str
        A channel's column, ``{}`` stands for its name.
    columns : mapping of str to str
        Columns of channels that are called otherwise.
    channels : tuple of str
        Channels in the table; empty for those of the image.
    """

    source: Literal["table", "measure"] = "table"
    id: str = "CellID"
    x: Text = "X_centroid"
    y: Text = "Y_centroid"
    unit: Literal["px", "um"] = "px"
    origin: Literal["pixel-centre", "pixel-corner"] = "pixel-centre"
    intensity: Text = "{}"
    columns: dict[str, Text] = field(default_factory=dict)
    channels: tuple[Text, ...] = ()


@table
@dataclass(frozen=True)
class MarkerEntry:
    """``[[marker]]``: the channel of a panel's marker, or a marker of a panel of one's own."""

    name: Text
    channel: str = ""
    parent: str = ""
    color: tuple[Level, Level, Level] | None = None


@table
@dataclass(frozen=True)
class SlideEntry:
    """``[[slide]]``: one slide's files, relative to ``cohort.toml``.

    Attributes
    ----------
    name : str
    patient : str
        Empty: the slide's name.
    he, if_, mask, cells : str
    mpp : float or None
        Pixel size of the H&E where its file states none or a wrong one; the cohort's else.
    if_mpp : float or None
        Of the immunofluorescence where its frame is not the H&E's.
    transform : str
        File of `lymphinfer cohort register`; empty where both images share one frame.
    """

    name: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    he: Text
    patient: str = ""
    if_: Annotated[str, Field(alias="if")] = ""
    mask: str = ""
    cells: str = ""
    mpp: HeMpp | None = None
    if_mpp: Mpp | None = None
    transform: str = ""


@table
@dataclass(frozen=True)
class AfEntry:
    """``[autofluorescence]``: ``max(raw - lambda * autofluorescence + beta, 0)``."""

    lambda_: Annotated[float, Field(alias="lambda")]
    beta: float


@table
@dataclass(frozen=True)
class CohortFile:
    """``cohort.toml`` whole.

    Attributes
    ----------
    mpp : float
        Level-0 pixel size of the H&E, µm/px.
    image : ImageTable
    about : str
        One sentence that goes wherever the cohort is named, such as into a bundle's card.
    one_patient : bool
        The slides are parts of one patient's: "patients" are stand-ins, and evidence says so.
    panel : str
        A panel of LymphInfer, or the name of one that `marker` defines.
    """

    mpp: HeMpp
    image: ImageTable
    format: str = FORMAT
    version: int = VERSION
    about: str = ""
    one_patient: bool = False
    panel: Text = "t-cell"
    files: FilesTable = field(default_factory=FilesTable)
    cells: CellsTable = field(default_factory=CellsTable)
    marker: tuple[MarkerEntry, ...] = ()
    slide: tuple[SlideEntry, ...] = ()
    autofluorescence: dict[str, AfEntry] = field(default_factory=dict)


def own_panel(file: CohortFile) -> tuple[Panel | None, list[str]]:
    """The cohort's panel, and what is wrong with it."""
    return panel_of(file.panel, [vars(m) for m in file.marker])


def file_problems(file: CohortFile) -> list[str]:
    """What is wrong between the entries of a file."""
    image, cells = file.image, file.cells
    problems = _twice("[image] channels", image.channels)
    for role in ("nuclei", "autofluorescence", "blank"):
        name = getattr(image, role)
        if name and name not in image.channels and name not in cells.channels:
            problems.append(f"[image] {role} = {name!r}: not one of the channels")
    if image.blank_max is not None and not image.blank:
        problems.append("[image] blank_max: needs the blank channel's name, [image] blank")
    known = cells.channels or image.channels
    if cells.source == "measure" and set(known) - set(image.channels):
        problems.append("[cells] channels: what is measured must stand in [image] channels")
    panel, wrong = own_panel(file)
    problems += wrong
    problems += _twice("[[marker]]", [m.name for m in file.marker])
    named = {m.name: m.channel or m.name for m in file.marker}
    for name in panel.names if panel is not None else ():
        channel = named.get(name, name)
        if channel not in known:
            problems.append(
                f"[[marker]] {name}: its channel {channel!r} is none of {', '.join(known)}; name "
                "it with channel"
            )
    problems += [
        f"[cells.columns] {name}: not one of the channels"
        for name in cells.columns
        if name not in known
    ]
    if "{}" not in cells.intensity and not cells.columns:
        problems.append(f"[cells] intensity = {cells.intensity!r}: {{}} must stand for the channel")
    if not file.slide and not file.files.he:
        problems.append("no slides: give [[slide]] tables, or patterns in [files]")
    problems += _twice("[[slide]]", [s.name for s in file.slide])
    for s in file.slide:
        if cells.source == "table" and not s.cells:
            problems.append(f"[[slide]] {s.name}: no cells, though [cells] source is 'table'")
        if cells.source == "measure" and not s.if_:
            problems.append(f"[[slide]] {s.name}: no if, which is to be measured")
    return problems


def _twice(where: str, names: tuple[str, ...] | list[str]) -> list[str]:
    return [f"{where}: {name} is there {n} times" for name, n in Counter(names).items() if n > 1]
