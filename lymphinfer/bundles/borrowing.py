"""Bundles of a new detector and the marker model of another bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.bundles.schema import BundleManifest, Evidence
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.errors import BundleError
from lymphinfer.markers.two_scale import NearMarkers
from lymphinfer.markers.two_scale_head import head_module

CLASSIFIER_FILE = "classifier.safetensors"
NEAR_FILE = "near.safetensors"


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
    """Write a detector with another bundle's marker model, its evidence and calibration.

    Parameters
    ----------
    markers_from : str or Path
        A bundle whose markers fit nuclei of any detector: of two scales, or from patches.
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
    manifest = base.manifest
    modules, table = _marker_model(base)
    made = write_bundle(
        out,
        modules={str(detector["file"]): net, **modules},
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
        classifier=table,
        markers=[
            spec
            if spec.evidence is Evidence.BASE_RATE
            else replace(spec, source=f"{spec.source}; by the marker model of {manifest.name}")
            for spec in manifest.markers
        ],
        panel=manifest.panel,
        half=False,
    )
    (out / "CARD.md").write_text(card, "utf-8")
    return made


def _marker_model(base: Bundle) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Networks by file name, and the table ``[classifier]``, of a bundle's marker model."""
    markers, name = base.markers, base.manifest.name
    if markers.classifier is not None:
        network = markers.classifier.config.to_dict()
        table = {"kind": "patch", "file": CLASSIFIER_FILE, "network": network}
        return {CLASSIFIER_FILE: markers.classifier.net}, table
    if markers.head is None or markers.far is None or not isinstance(base.detector, NearMarkers):
        raise BundleError(
            f"bundle {name}: its markers are read off its own detector; choose one of two scales "
            "or with a patch classifier in --markers-from"
        )
    old = base.manifest.classifier
    modules = {
        old["file"]: head_module(markers.head),
        NEAR_FILE: base.detector.reader.net,
        old["far"]["file"]: markers.far.engine.net,
    }
    return modules, {**old, "near": {**old["near"], "file": NEAR_FILE}}
