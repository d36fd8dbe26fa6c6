"""``bundle.toml``: what a bundle holds and what its probabilities rest on."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lymphinfer.bundles.evidence import (
    DEFAULT_POINT,
    OPERATING_POINTS,
    Evidence,
    MarkerSpec,
    OperatingPoint,
    read_marker,
)
from lymphinfer.errors import BundleError
from lymphinfer.panel import PANELS, Panel
from lymphinfer.textfiles import decode, encoding_problem

__all__ = [
    "MANIFEST",
    "BundleManifest",
    "Evidence",
    "MarkerSpec",
    "OperatingPoint",
    "read_manifest",
]

SCHEMA_VERSION = 1
MANIFEST = "bundle.toml"


@dataclass(frozen=True)
class BundleManifest:
    """A parsed and checked ``bundle.toml``.

    Attributes
    ----------
    name, version, summary, licence : str
    panel : Panel
    mpp : float
        Working pixel size, µm/px.
    files : dict of str to str
        File name to sha256.
    detector, classifier : dict
        Their tables as written; read by `lymphinfer.bundles.loading`.
    markers : tuple of MarkerSpec
        In panel order.
    hierarchy : str
        Default mode of the hierarchy.
    folder : Path
    sha256 : str
        Of ``bundle.toml``, which holds the hashes of all other files.
    detector_from : dict of str to str
        ``name``, ``version``, ``licence`` and ``sha256`` of the bundle whose detector is used in
        place of its own; empty otherwise.
    """

    name: str
    version: str
    summary: str
    licence: str
    panel: Panel
    mpp: float
    files: dict[str, str]
    detector: dict[str, Any]
    classifier: dict[str, Any]
    markers: tuple[MarkerSpec, ...]
    hierarchy: str
    folder: Path
    sha256: str = field(repr=False)
    detector_from: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What names it in a result."""
        own: dict[str, Any] = {"name": self.name, "version": self.version, "sha256": self.sha256}
        return {**own, "detector": self.detector_from} if self.detector_from else own

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """By marker: evidence, statement, source, and the numbers behind it."""
        return {m.name: m.to_dict() for m in self.markers}

    def calls_at(self, point: str = DEFAULT_POINT) -> tuple[OperatingPoint | None, ...]:
        """From where each marker is called at an operating point.

        Parameters
        ----------
        point : str
            Of `OPERATING_POINTS`. A bundle that states none has its thresholds at the default one.

        Returns
        -------
        tuple of OperatingPoint or None
            In panel order; None for a marker that is not called at it.

        Raises
        ------
        BundleError
            No marker has a point of that name.
        """
        found = tuple(m.at(point) for m in self.markers)
        if point == DEFAULT_POINT or any(found):
            return found
        stated = [n for n in OPERATING_POINTS if any(n in m.points for m in self.markers)]
        has = f"its points are {', '.join(stated)}"
        if not stated:
            has = "it states thresholds alone, which it calls from without this option"
        raise BundleError(f"--operating-point {point}: bundle {self.name} has none; {has}")

    def calling(self, point: str = DEFAULT_POINT) -> dict[str, Any]:
        """What a result says of its calls at an operating point.

        Returns
        -------
        dict
            ``name`` (``threshold`` where the bundle states no points), ``statement``, and
            ``markers``: threshold and, where measured, precision and recall of each that is called.

        Raises
        ------
        BundleError
            As `calls_at`.
        """
        rows = {
            m.name: at
            for m, at in zip(self.markers, self.calls_at(point), strict=True)
            if at is not None
        }
        stated = any(m.points for m in self.markers)
        name = point if stated else "threshold"
        told = "; ".join(f"{marker} {at.statement}" for marker, at in rows.items())
        if not stated:
            told += "; this bundle states no operating points, only thresholds"
        return {
            "name": name,
            "statement": f"{name}: {told}" if rows else f"{name}: no marker is called",
            "markers": {marker: at.to_dict() for marker, at in rows.items()},
        }

    @property
    def is_simulated(self) -> bool:
        """Whether any marker was learned on simulated slides."""
        return any(m.evidence is Evidence.SIMULATED for m in self.markers)


def read_manifest(folder: Path) -> BundleManifest:
    """Read and check a bundle's manifest, all problems at once.

    Parameters
    ----------
    folder : Path
        Holds ``bundle.toml``.

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError
        No manifest, not TOML, another schema, or values missing or wrong.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder}: no readable {MANIFEST}; a bundle is a folder with {MANIFEST} and weights"
        ) from error
    try:
        values = tomllib.loads(decode(content))
    except UnicodeDecodeError as error:
        raise BundleError(
            f"{path}: the manifest cannot be read: {encoding_problem(content, error)}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise BundleError(f"{path}: not valid TOML ({error})") from error
    if values.get("schema") != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {values.get('schema')!r}, this version reads {SCHEMA_VERSION}; "
            "update LymphInfer or fetch a bundle made for it"
        )
    problems = [
        f"{key} is missing"
        for key in ("name", "version", "panel", "mpp", "files", "detector", "classifier", "marker")
        if key not in values
    ]
    panel = PANELS.get(values.get("panel", ""))
    if panel is None and "panel" in values:
        problems.append(f"panel {values['panel']!r} is unknown; known: {', '.join(PANELS)}")
    for name in values.get("files", {}):
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            problems.append(f"file {name!r}: weights are safetensors in the bundle's own folder")
    by_name = {m.get("name"): m for m in values.get("marker", [])}
    specs: list[MarkerSpec] = []
    for marker in panel.names if panel else ():
        if marker not in by_name:
            problems.append(f"no [[marker]] named {marker}")
            continue
        try:
            specs.append(read_marker(by_name[marker]))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"[[marker]] {marker}: {error}")
    problems += _never_reached(specs, panel) if panel else []
    if problems or panel is None:
        raise BundleError(f"{path}: " + "; ".join(problems))
    return BundleManifest(
        name=values["name"],
        version=values["version"],
        summary=values.get("summary", ""),
        licence=values.get("licence", ""),
        panel=panel,
        mpp=float(values["mpp"]),
        files=dict(values["files"]),
        detector=values["detector"],
        classifier=values["classifier"],
        markers=tuple(specs),
        hierarchy=values.get("hierarchy", "conditional"),
        folder=folder,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _never_reached(specs: list[MarkerSpec], panel: Panel) -> list[str]:
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
