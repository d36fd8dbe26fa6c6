"""A bundle whose nuclei are found by another bundle's detector.

``predict --detector`` names it, or the bundle itself does, which then has markers alone.

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


LENT = "bundle"
"""Kind of the detector of a bundle that names another one's."""


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


def lending(manifest: BundleManifest) -> BundleManifest:
    """Manifest of the bundle that a bundle's detector belongs to: mostly its own.

    Raises
    ------
    BundleError
        The bundle that it names is not here, or has no detector of its own either.
    """
    if manifest.detector.get("kind") != LENT:
        return manifest
    name = str(manifest.detector["bundle"])
    try:
        found = read_manifest(find_bundle(name))
    except BundleError as error:
        raise BundleError(
            f"bundle {manifest.name} has markers alone and takes its nuclei from bundle {name}, "
            f"which cannot be had: {error} Or name a detector that is here with --detector."
        ) from error
    if found.detector.get("kind") == LENT:
        raise BundleError(
            f"bundle {manifest.name} takes its nuclei from bundle {name}, which has no detector of "
            "its own; name one that has with --detector"
        )
    return found


def compose(
    base: BundleManifest, detector: str | Path | None = None
) -> tuple[BundleManifest, BundleManifest]:
    """Put another bundle's detector in the place of a bundle's own, or where it has none.

    Parameters
    ----------
    base : BundleManifest
    detector : str or Path, optional
        As `find_detector` takes it; None: the one that the bundle names, or its own.

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
    lent = base.detector.get("kind") == LENT
    if detector is None:
        source = lending(base)
        return (_with(base, source, base.name, base.summary), source) if lent else (base, base)
    source = lending(read_manifest(find_detector(detector)))
    if lent and source.name == base.detector["bundle"]:
        return _with(base, source, base.name, base.summary), source
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
    name = f"{base.name} with the detector of {source.name}"
    summary = f"nuclei by the detector of {source.name}; markers as {base.name}"
    return _with(base, source, name, summary), source


def _with(base: BundleManifest, source: BundleManifest, name: str, summary: str) -> BundleManifest:
    """A bundle's markers with another's detector."""
    return replace(
        base,
        name=name,
        summary=summary,
        sha256=hashlib.sha256(f"{base.sha256}\n{source.sha256}".encode()).hexdigest(),
        detector=source.detector,
        detector_from={
            "name": source.name,
            "version": source.version,
            "licence": source.licence,
            "sha256": source.sha256,
        },
    )


def used_manifest(bundle: str | Path, detector: str | Path | None = None) -> BundleManifest:
    """Manifest of a bundle as it is used: with its own detector, or another one's.

    Raises
    ------
    BundleError
        As `compose` and `read_manifest`.
    """
    return compose(read_manifest(find_bundle(bundle)), detector)[0]
