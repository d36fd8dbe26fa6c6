"""Bundles of a new detector and the marker model of another bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import BundleManifest, Evidence
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.errors import BundleError

CLASSIFIER_FILE = "classifier.safetensors"


def write_with_markers_of(
    markers_from: str | Path,
    out: Path,
    *,
    net: nn.Module,
    detector: Mapping[str, Any],
    name: str,
    licence: str,
    card: str,
) -> BundleManifest:
    """Write a detector with another bundle's patch classifier, its evidence and calibration.

    Parameters
    ----------
    markers_from : str or Path
        A bundle with a patch classifier.
    out : Path
        Folder of the new bundle; its name is the bundle's.
    net : nn.Module
        The detector's network.
    detector : mapping
        The table ``[detector]``; ``file`` is where `net` goes.
    name : str
        Of the detector, for the summary.
    licence : str
        Of the detector.
    card : str
        Text of ``CARD.md``.

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError
        The other bundle reads its own detector's features and cannot work with another.
    """
    base = load_bundle(markers_from)
    classifier, manifest = base.markers.classifier, base.manifest
    if classifier is None:
        raise BundleError(
            f"bundle {manifest.name}: its markers are read off its own detector; choose one with a "
            "patch classifier in --markers-from"
        )
    made = write_bundle(
        out,
        modules={str(detector["file"]): net, CLASSIFIER_FILE: classifier},
        header={
            "name": out.name,
            "version": manifest.version,
            "summary": f"nuclei by {name}; markers as {manifest.name}",
            "licence": f"detector: {licence}; marker model: {manifest.licence}",
            "panel": manifest.panel.name,
            "mpp": manifest.mpp,
            "hierarchy": manifest.hierarchy,
        },
        detector=detector,
        classifier={
            "kind": "patch",
            "file": CLASSIFIER_FILE,
            "network": classifier.config.to_dict(),
        },
        markers=[
            spec
            if spec.evidence is Evidence.BASE_RATE
            else replace(spec, source=f"{spec.source}; by the classifier of {manifest.name}")
            for spec in manifest.markers
        ],
        half=False,
    )
    (out / "CARD.md").write_text(card, "utf-8")
    return made
