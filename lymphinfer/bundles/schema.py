"""``bundle.toml``: what a bundle holds and what its probabilities rest on."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lymphinfer.errors import BundleError
from lymphinfer.panel import PANELS, Panel
from lymphinfer.textfiles import decode, encoding_problem

SCHEMA_VERSION = 1
MANIFEST = "bundle.toml"


class Evidence(StrEnum):
    """What stands behind a marker's probability.

    ``measured``: trained and tested on real labels. ``base-rate``: nothing learned; the parent's
    probability times a published cohort frequency. ``simulated``: learned on simulated slides.
    """

    MEASURED = "measured"
    BASE_RATE = "base-rate"
    SIMULATED = "simulated"


@dataclass(frozen=True)
class MarkerSpec:
    """How one marker's probability is made, and why it may be believed.

    Attributes
    ----------
    name : str
    evidence : Evidence
    source : str
        On which labels it was trained and tested, or where the rate comes from.
    threshold : float
        Probability from which a nucleus is called positive (never for a base rate).
    scale, offset : float
        Calibration of the logit.
    rate : float or None
        P(marker | parent) of a base-rate marker.
    rate_range : tuple of float or None
        5th and 95th percentile of the rate over the slides behind it.
    auroc, auroc_interval : float, tuple of float, or None
        On held-out test data, with its 95 % interval.
    """

    name: str
    evidence: Evidence
    source: str
    threshold: float = 0.5
    scale: float = 1.0
    offset: float = 0.0
    rate: float | None = None
    rate_range: tuple[float, float] | None = None
    auroc: float | None = None
    auroc_interval: tuple[float, float] | None = None

    @property
    def statement(self) -> str:
        """One line for people: what the probability rests on."""
        if self.evidence is Evidence.BASE_RATE:
            return f"base rate {self.rate:.2f} of its parent; nothing learned; never called"
        auroc = "" if self.auroc is None else f", AUROC {self.auroc:.3f}"
        if self.auroc_interval:
            auroc += f" ({self.auroc_interval[0]:.3f}-{self.auroc_interval[1]:.3f})"
        return f"{self.evidence.value}{auroc}: {self.source}"


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
        table: dict[str, dict[str, Any]] = {}
        for m in self.markers:
            row: dict[str, Any] = {
                "evidence": m.evidence.value,
                "statement": m.statement,
                "source": m.source,
            }
            if m.evidence is Evidence.BASE_RATE:
                row |= {"rate": m.rate, "rate_range": list(m.rate_range or ())}
            elif m.auroc is not None:
                row |= {"auroc": m.auroc, "auroc_interval": list(m.auroc_interval or ())}
            table[m.name] = row
        return table

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
            specs.append(_marker_spec(by_name[marker]))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"[[marker]] {marker}: {error}")
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


def _marker_spec(values: dict[str, Any]) -> MarkerSpec:
    spec = MarkerSpec(
        **{
            **values,
            "evidence": Evidence(values["evidence"]),
            "rate_range": tuple(values["rate_range"]) if "rate_range" in values else None,
            "auroc_interval": (
                tuple(values["auroc_interval"]) if "auroc_interval" in values else None
            ),
        }
    )
    if spec.evidence is Evidence.BASE_RATE and not (spec.rate is not None and 0 <= spec.rate <= 1):
        raise ValueError("a base-rate marker needs a rate within [0, 1]")
    return spec
