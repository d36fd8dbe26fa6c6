"""What ``bundle.toml`` may say: one type a table, checked by `lymphinfer.validation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lymphinfer.bundles.evidence import (
    OPERATING_POINTS,
    Evidence,
    MarkerSpec,
    OperatingPoint,
    evidence_of,
)
from lymphinfer.panel import Panel, panel_of
from lymphinfer.slides.pixel_size import MAX_MPP, MAX_PATCH_MPP, MIN_MPP
from lymphinfer.validation import Place, place, table, validated


def _folder_name(name: str) -> str:
    if Path(name).name != name or name == "..":
        raise ValueError("a bundle's name is that of its folder, not a path")
    return name


def _weights(name: str) -> str:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ValueError("weights are safetensors in the bundle's own folder")
    return name


def _point(name: str) -> str:
    if name not in OPERATING_POINTS:
        raise ValueError(f"operating point {name!r} is none of {', '.join(OPERATING_POINTS)}")
    return name


Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[int, Field(ge=0, le=255)]
Mpp = Annotated[float, Field(ge=MIN_MPP, le=MAX_MPP)]
Weights = Annotated[Text, AfterValidator(_weights)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Network = dict[str, Any]
"""Read by the network's own configuration when it is built."""


@table
@dataclass(frozen=True)
class StarDistTable:
    """``[detector]`` of a StarDist."""

    kind: Literal["stardist"]
    file: Weights
    mpp: Mpp
    prob_threshold: Share
    nms_threshold: Share
    network: Network
    refine_at: tuple[Share, ...] = ()
    int8: Weights | None = None
    """How it is computed in bytes, see `lymphinfer.layers.Layers`."""


@table
@dataclass(frozen=True)
class HoVerNetTable:
    """``[detector]`` of a HoVer-Net; ``source`` and its hash say where its weights come from."""

    kind: Literal["hovernet"]
    file: Weights
    mpp: Mpp
    network: Network
    source: str = ""
    source_sha256: str = ""


@table
@dataclass(frozen=True)
class LentTable:
    """``[detector]`` of another bundle, by its name: this one has markers alone."""

    kind: Literal["bundle"]
    bundle: Annotated[Text, AfterValidator(_folder_name)]


@table
@dataclass(frozen=True)
class PatchTable:
    """``[classifier]`` that reads patches, one by one or (``dense``) a tile at once.

    A patch may be of another pixel size than what the detector sees: ``mpp``.
    """

    kind: Literal["patch", "dense"]
    file: Weights
    network: Network
    mpp: Annotated[float, Field(ge=MIN_MPP, le=MAX_PATCH_MPP)] | None = None


@table
@dataclass(frozen=True)
class FeatureTable:
    """``[classifier]`` that the detector's own marker head is."""

    kind: Literal["feature"]
    markers: tuple[Text, ...]


@table
@dataclass(frozen=True)
class NearTable:
    """``[classifier.near]``: the network whose features are read near."""

    file: Weights
    mpp: Mpp
    network: Network


@table
@dataclass(frozen=True)
class FarTable:
    """``[classifier.far]``: the network that sees the neighbourhood."""

    file: Weights
    network: Network
    int8: Weights | None = None
    """How it is computed in bytes, see `lymphinfer.layers.Layers`."""


@table
@dataclass(frozen=True)
class TwoScaleTable:
    """``[classifier]`` of two scales."""

    kind: Literal["two-scale"]
    file: Weights
    head: Network
    near: NearTable
    far: FarTable


@table
@dataclass(frozen=True)
class PointTable:
    """``[marker.points.NAME]``."""

    threshold: Share
    precision: Share | None = None
    recall: Share | None = None


@table
@dataclass(frozen=True)
class MarkerTable:
    """``[[marker]]``, see `MarkerSpec`."""

    name: Text
    evidence: Annotated[Evidence, BeforeValidator(evidence_of)]
    source: str
    threshold: Share | None = None
    points: dict[Annotated[str, AfterValidator(_point)], PointTable] = field(default_factory=dict)
    conditional: bool = False
    patients: Annotated[int, Field(ge=1)] | None = None
    scale: float = 1.0
    offset: float = 0.0
    rate: Share | None = None
    rate_range: tuple[Share, Share] | None = None
    auroc: Share | None = None
    auroc_interval: tuple[Share, Share] | None = None
    parent: str = ""
    color: tuple[Level, Level, Level] | None = None

    def spec(self) -> MarkerSpec:
        """As the rest of the program knows it."""
        points = {
            name: OperatingPoint(**vars(self.points[name]))
            for name in OPERATING_POINTS
            if name in self.points
        }
        values = {k: v for k, v in vars(self).items() if k not in ("parent", "color")}
        return MarkerSpec(**{**values, "points": points})


@table
@dataclass(frozen=True)
class BundleFile:
    """``bundle.toml`` whole; its markers are read one by one."""

    schema: int
    name: Annotated[Text, AfterValidator(_folder_name)]
    version: Text
    panel: Text
    mpp: Mpp
    files: dict[Weights, Sha256]
    detector: Annotated[
        StarDistTable | HoVerNetTable | LentTable, Field(discriminator="kind")
    ]  # fmt: skip
    classifier: Annotated[
        PatchTable | FeatureTable | TwoScaleTable, Field(discriminator="kind")
    ]  # fmt: skip
    marker: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    summary: str = ""
    licence: str = ""
    hierarchy: Literal["none", "clip", "conditional"] = "conditional"


def read_file(
    values: Mapping[str, Any], problems: list[str]
) -> tuple[BundleFile | None, Panel | None, tuple[MarkerSpec, ...]]:
    """Check the values of a ``bundle.toml``.

    Parameters
    ----------
    values : mapping
        As TOML gives them.
    problems : list of str
        Everything that is wrong is added.

    Returns
    -------
    file : BundleFile or None
    panel : Panel or None
        A known one, or that of the bundle's own markers.
    markers : tuple of MarkerSpec
        Those of the panel that could be read, in its order.
    """
    file = validated(BundleFile, dict(values), problems)
    problems += _not_hashed(values)
    if file and isinstance(file.detector, LentTable) and isinstance(file.classifier, FeatureTable):
        problems.append(
            'detector.kind = "bundle": the markers of a classifier of kind "feature" are read off '
            "the bundle's own detector; add that"
        )
    tables = values.get("marker")
    if "panel" not in values or not isinstance(tables, list):
        return file, None, ()
    panel, wrong = _panel(str(values["panel"]), tables)
    problems += wrong
    if panel is None:
        return file, None, ()
    named = [(str(t.get("name")), t) for t in tables if isinstance(t, dict)]
    by_name = dict(named)
    twice = Counter(name for name, _ in named).items()
    problems += [f"[[marker]] {name}: is there {n} times" for name, n in twice if n > 1]
    read = [read_marker(by_name[n], problems) for n in panel.names if n in by_name]
    specs = tuple(spec for spec in read if spec is not None)
    problems += [f"no [[marker]] named {name}" for name in panel.names if name not in by_name]
    problems += [
        f"[[marker]] {name}: not in panel {values['panel']}, which has {', '.join(panel.names)}"
        for name in by_name
        if name not in panel.names
    ]
    problems += _never_reached(specs, panel)
    return file, panel, specs


def _panel(name: str, tables: list[Any]) -> tuple[Panel | None, list[str]]:
    """The bundle's panel, and what is wrong with it."""
    whole = all(isinstance(t, dict) and "name" in t for t in tables)
    own = whole and any("color" in t for t in tables)
    found, problems = panel_of(name, tables if own else [])
    return found, problems


def read_marker(values: Mapping[str, Any], problems: list[str]) -> MarkerSpec | None:
    """Read one marker's table; None where it has problems, which are added."""
    found = validated(MarkerTable, dict(values), problems, ("marker", str(values.get("name"))))
    if found is None:
        return None
    spec: MarkerSpec = found.spec()
    wrong = []
    if spec.evidence is Evidence.BASE_RATE and spec.rate is None:
        wrong.append("a base-rate marker needs a rate within [0, 1]")
    thresholds = [point.threshold for point in spec.points.values()]
    if thresholds != sorted(thresholds, reverse=True):
        wrong.append(f"the thresholds of {' >= '.join(spec.points)} must not rise")
    problems += [f"[[marker]] {spec.name}: {text}" for text in wrong]
    return None if wrong else spec


def _files_named(values: Any, at: Place) -> Iterator[tuple[Place, str]]:
    """Every entry ``file`` of a table and the tables in it."""
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if key == "file" and isinstance(value, str):
            yield (*at, key), value
        yield from _files_named(value, (*at, key))


def _not_hashed(values: Mapping[str, Any]) -> list[str]:
    """Weights that nobody could verify."""
    files = values.get("files")
    hashed = files if isinstance(files, dict) else {}
    return [
        f"{place(at)} = {name!r}: not in [files], so that it cannot be verified: add its sha256"
        for part in ("detector", "classifier")
        for at, name in _files_named(values.get(part), (part,))
        if name not in hashed
    ]


def _never_reached(specs: tuple[MarkerSpec, ...], panel: Panel) -> list[str]:
    """Calls that cannot be, since a nucleus is called down its whole lineage."""
    by_name = {spec.name: spec for spec in specs}
    problems = []
    for marker in panel.markers:
        child, parent = by_name.get(marker.name), by_name.get(marker.parent or "")
        if child is None or parent is None:
            continue
        lost = [n for n in OPERATING_POINTS if child.at(n) is not None and parent.at(n) is None]
        if lost:
            problems.append(
                f"[[marker]] {child.name}: called at {', '.join(lost)}, but its parent "
                f"{parent.name} is not, so that no nucleus could be"
            )
    return problems
