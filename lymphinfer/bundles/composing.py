"""A bundle whose nuclei are found by another bundle's detector: ``predict --detector``.

What comes out is a manifest of its own: a name that says both, a hash of both hashes. So nucleus
ids, fingerprints, summaries and files tell results by different detectors apart without knowing.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from lymphinfer.bundles.registry import DEFAULT_BUNDLE, find_bundle, list_bundles
from lymphinfer.bundles.schema import MANIFEST, BundleManifest, read_manifest
from lymphinfer.errors import BundleError
from lymphinfer.nuclei.hovernet.tiatoolbox import hovernet_module

HOVERNET = ("hovernet_fast-monusac", "hovernet_fast-pannuke",
            "hovernet_original-consep", "hovernet_original-kumar")  # fmt: skip
"""Published weights; ``--detector hovernet`` takes the first one that is here."""


def find_detector(name: str | Path) -> Path:
    """Folder of the bundle whose detector is meant.

    Parameters
    ----------
    name : str or Path
        ``stardist``, the detector of the default bundle; ``hovernet``, TIAToolbox's published
        weights; or a bundle's name or folder.

    Returns
    -------
    Path

    Raises
    ------
    BundleError
        It is not here; the message says how to get it.
    """
    if (Path(name) / MANIFEST).is_file():
        return Path(name)
    if str(name) == "stardist":
        return find_bundle(DEFAULT_BUNDLE)
    here = list_bundles()
    wanted = HOVERNET if str(name) == "hovernet" else (str(name),)
    for candidate in wanted:
        if candidate in here:
            return here[candidate]
    if str(name) == "hovernet" or str(name) in HOVERNET:
        hovernet_module()
        raise BundleError(
            f"--detector {name}: its weights are not here. Fetch them once with `lymphinfer "
            f"weights pull {wanted[0]}`; without a network, download the file elsewhere and give "
            "it to `lymphinfer weights import hovernet FILE`; or train your own with `lymphinfer "
            "train-detector --arch hovernet` and name its folder."
        )
    return find_bundle(name)


def compose(base: BundleManifest, detector: str | Path) -> tuple[BundleManifest, BundleManifest]:
    """Put another bundle's detector in the place of a bundle's own.

    Parameters
    ----------
    base : BundleManifest
    detector : str or Path
        As `find_detector` takes it.

    Returns
    -------
    composed : BundleManifest
        `base` itself where the detector is its own.
    source : BundleManifest
        Of the bundle that the detector comes from.

    Raises
    ------
    BundleError
        It cannot be found, or `base` reads its markers off its own detector.
    """
    source = read_manifest(find_detector(detector))
    own = base.detector.get("file"), source.detector.get("file")
    if base.detector.get("kind") == source.detector.get("kind") and (
        base.files.get(str(own[0])) == source.files.get(str(own[1]))
    ):
        return base, base
    if base.classifier.get("kind") == "feature":
        raise BundleError(
            f"--detector {detector}: the markers of bundle {base.name} are read off its own "
            "detector's features; choose a --bundle whose markers fit any nuclei, such as "
            f"{DEFAULT_BUNDLE}"
        )
    both = hashlib.sha256(f"{base.sha256}\n{source.sha256}".encode()).hexdigest()
    composed = replace(
        base,
        name=f"{base.name} with the detector of {source.name}",
        summary=f"nuclei by the detector of {source.name}; markers as {base.name}",
        sha256=both,
        detector=source.detector,
        detector_from={
            "name": source.name,
            "version": source.version,
            "licence": source.licence,
            "sha256": source.sha256,
        },
    )
    return composed, source


def used_manifest(bundle: str | Path, detector: str | Path | None = None) -> BundleManifest:
    """Manifest of a bundle as it is used: with its own detector, or another one's.

    Raises
    ------
    BundleError
        As `compose` and `read_manifest`.
    """
    base = read_manifest(find_bundle(bundle))
    return base if detector is None else compose(base, detector)[0]
