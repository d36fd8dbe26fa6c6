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
)
from lymphinfer.errors import BundleError
from lymphinfer.panel import Panel
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
    def patch_mpp(self) -> float:
        """Pixel size of the patches that its classifier sees, µm/px."""
        return float(self.classifier.get("mpp") or self.mpp)

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
    # Not at the top: `lymphinfer --help` needs no pydantic.
    from lymphinfer.bundles.manifest_file import read_file

    problems: list[str] = []
    found, panel, markers = read_file(values, problems)
    if problems or found is None or panel is None:
        raise BundleError(f"{path}: " + "; ".join(problems))
    return BundleManifest(
        name=found.name,
        version=found.version,
        summary=found.summary,
        licence=found.licence,
        panel=panel,
        mpp=float(found.mpp),
        files=found.files,
        detector=values["detector"],
        classifier=values["classifier"],
        markers=markers,
        hierarchy=found.hierarchy,
        folder=folder,
        sha256=hashlib.sha256(content).hexdigest(),
    )
