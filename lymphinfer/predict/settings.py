"""What a user may choose for a prediction, and what it yields."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lymphinfer.bundles.evidence import DEFAULT_POINT, OPERATING_POINTS
from lymphinfer.bundles.registry import DEFAULT_BUNDLE
from lymphinfer.errors import AnnotationError, LymphinferError
from lymphinfer.export.geojson import FORMATS
from lymphinfer.markers.hierarchy import HierarchyMode
from lymphinfer.regions.asking import read_margins
from lymphinfer.slides import Slide, open_slide

MIN_TILE_PX, MAX_TILE_PX = 256, 8192


@dataclass(frozen=True)
class PredictSettings:
    """Options of a prediction.

    Attributes
    ----------
    bundle : str
        Name or folder; empty for the default one, or with `detector` the one whose markers come
        from patches.
    detector : str or None
        Another bundle's detector in place of its own: ``stardist``, ``hovernet``, name or folder.
    mpp : float or None
        Level-0 pixel size, µm/px, over what the file says.
    format : str
        ``zip``, ``geojson.gz`` or ``geojson``.
    hierarchy : str or None
        ``none``, ``clip`` or ``conditional``; the bundle's own by default.
    device, precision, runtime : str
        As `lymphinfer.compute` and `lymphinfer.runtime` take them.
    workers : int
        Threads that read and decode beside the device.
    tile_px : int
        Side of a tile's core, working px.
    crop_to_bounds : bool
        Subtract ``openslide.bounds-*`` as QuPath does; False for QuPath's ``--no-crop``.
    redo : bool
        Compute again what is there.
    roi : str or None
        File of QuPath annotations that limit the work, or a folder with one a slide.
    within_class : tuple of str
        Only annotations of these classes; needs the `roi` of the settings or of the slide.
    tissue : str or None
        File of annotations that are the tissue, or a folder with one a slide; it is found without.
    operating_point : str
        ``precise``, ``balanced`` or ``sensitive``: from where on nuclei are called. A bundle
        without points is called from its thresholds, and knows the default name alone.
    series : str or None
        Number or name of the image to read, of a file that holds several; by default the largest.
    force : bool
        Go on with what does not look like an H&E slide.
    nuclei : str or None
        File of nuclei to classify in place of detecting some, or a folder with one a slide.
    regions : str or None
        File of annotations to count by, or a folder with one a slide.
    margins : tuple of str
        Bands along borders of their classes, see `lymphinfer.regions.asking.read_margins`.

    Raises
    ------
    LymphinferError
        A value is out of its range; every one that is, is named.
    """

    bundle: str = ""
    mpp: float | None = None
    format: str = "zip"
    hierarchy: str | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int = 4
    tile_px: int = 2048
    crop_to_bounds: bool = True
    redo: bool = False
    roi: str | None = None
    within_class: tuple[str, ...] = ()
    detector: str | None = None
    runtime: str = "auto"
    tissue: str | None = None
    operating_point: str = DEFAULT_POINT
    series: str | None = None
    force: bool = False
    nuclei: str | None = None
    regions: str | None = None
    margins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.bundle:
            object.__setattr__(self, "bundle", DEFAULT_BUNDLE)
        problems = []
        if self.format not in FORMATS:
            problems.append(f"--format {self.format}: choose one of {', '.join(FORMATS)}")
        if self.hierarchy is not None and self.hierarchy not in set(HierarchyMode):
            problems.append(f"--hierarchy {self.hierarchy}: choose {', '.join(HierarchyMode)}")
        if self.operating_point not in OPERATING_POINTS:
            known = ", ".join(OPERATING_POINTS)
            problems.append(f"--operating-point {self.operating_point}: choose one of {known}")
        if not MIN_TILE_PX <= self.tile_px <= MAX_TILE_PX or self.tile_px % 16:
            problems.append(
                f"--tile {self.tile_px}: a multiple of 16 from {MIN_TILE_PX} to {MAX_TILE_PX}"
            )
        if not 1 <= self.workers <= 256:
            problems.append(f"--workers {self.workers}: 1 to 256")
        if self.nuclei is not None and self.detector is not None:
            problems.append(
                f"--detector {self.detector}: none are detected where --nuclei gives nuclei; leave "
                "one of the two away"
            )
        try:
            read_margins(self.margins)
        except AnnotationError as error:
            problems.append(str(error))
        if problems:
            raise LymphinferError("; ".join(problems))

    def open(self, path: Path) -> Slide:
        """Open a slide as the settings say, see `lymphinfer.slides.open_slide`."""
        return open_slide(path, self.mpp, series=self.series, force=self.force)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a summary."""
        return asdict(self)


RESULT_VERSION = 3
"""Raised whenever the code can give another nucleus, or other numbers of one, than before."""

IDLE = frozenset(("device", "force", "redo", "workers"))
"""Settings on which no byte of a result depends: a device shows in its precision and runtime, and
what `force` lets through is computed as anything else."""

VIEWED = frozenset(("crop_to_bounds", "format", "margins", "regions"))
"""Settings on which a view depends, and no nucleus."""

RESOLVED = frozenset(("bundle", "detector", "hierarchy", "mpp", "nuclei", "precision", "roi",
                      "runtime", "series", "tissue"))  # fmt: skip
"""Settings that count as what they come to: a bundle by its sha256, annotations by their area."""


def fingerprint(
    settings: PredictSettings,
    *,
    slide_identity: str,
    mpp: float,
    bundle_sha256: str,
    hierarchy: str,
    precision: str,
    runtime: str,
    halo_px: int,
    roi_sha256: str | None = None,
    tissue_sha256: str | None = None,
    nuclei_sha256: str | None = None,
) -> str:
    """Sha256 (hex) of all that a nucleus depends on: equal fingerprints, equal nuclei.

    Every setting counts that is not `IDLE` or `VIEWED`, a new one from its first day.

    Parameters
    ----------
    settings : PredictSettings
    slide_identity : str
        ``Slide.identity()``, which knows the series.
    mpp : float
        Level-0 pixel size in use.
    bundle_sha256 : str
        Of the bundle with the detector in use.
    hierarchy, precision, runtime : str
        In use.
    halo_px : int
    roi_sha256 : str, optional
        ``Roi.sha256`` of the region of interest, where there is one.
    tissue_sha256 : str, optional
        The same of the tissue, where it was given.
    nuclei_sha256 : str, optional
        ``GivenNuclei.sha256`` of the nuclei, where they were given.

    Returns
    -------
    str
    """
    asked = {
        name: value
        for name, value in settings.to_dict().items()
        if name not in IDLE | VIEWED | RESOLVED
    }
    asked["within_class"] = sorted(set(settings.within_class))
    content = {
        "result_version": RESULT_VERSION,
        "slide": slide_identity,
        "mpp": mpp,
        "bundle": bundle_sha256,
        "hierarchy": hierarchy,
        "precision": precision,
        "runtime": runtime,
        "halo_px": halo_px,
        "roi": roi_sha256,
        "tissue": tissue_sha256,
        "asked": asked,
    }
    if nuclei_sha256 is not None:
        # Only there: results from before nuclei could be given are as good as ever.
        content["nuclei"] = nuclei_sha256
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
