"""Where a slide's nuclei are looked for, and what its results say of that."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import shapely
from shapely.geometry.base import BaseGeometry

from lymphinfer.annotations import OUT_OF_FOCUS, Roi, find_roi, read_roi
from lymphinfer.cells.areas import Areas
from lymphinfer.cells.given import GivenNuclei, read_given
from lymphinfer.cells.parts import list_parts, open_parquet
from lymphinfer.errors import AnnotationError
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.regions.areas import map_regions
from lymphinfer.regions.asking import read_margins
from lymphinfer.slides import Slide, TissueMask
from lymphinfer.slides.focus import BlurredField, read_fields
from lymphinfer.slides.outline import polygons
from lymphinfer.textfiles import shown

_TISSUE_SHARE = 0.25
"""A field with less tissue is not judged: what it has may be a faint edge."""
_TOLD_SHARE = 0.01


@dataclass(frozen=True)
class Limits:
    """What annotations say of a slide.

    Attributes
    ----------
    roi : Roi or None
        Where nuclei are looked for; the whole slide without it.
    tissue : Roi or None
        What is tissue; it is found without.
    nuclei : GivenNuclei or None
        Nuclei within both, in place of those that would be detected.
    """

    roi: Roi | None = None
    tissue: Roi | None = None
    nuclei: GivenNuclei | None = None

    @property
    def within(self) -> Roi | None:
        """Where a nucleus must lie; anywhere without one."""
        if self.roi is None or self.tissue is None:
            return self.roi or self.tissue
        both = shapely.intersection(self.roi.area, self.tissue.area)
        return replace(self.roi, area=polygons(both))

    @property
    def hashes(self) -> dict[str, str | None]:
        """Arguments of `lymphinfer.predict.settings.fingerprint`."""
        return {
            "roi_sha256": None if self.roi is None else self.roi.sha256,
            "tissue_sha256": None if self.tissue is None else self.tissue.sha256,
            "nuclei_sha256": None if self.nuclei is None else self.nuclei.sha256,
        }


def read_limits(slide: Slide, settings: PredictSettings) -> Limits:
    """Read a slide's annotations, in the frame in which QuPath has drawn them.

    Raises
    ------
    AnnotationError
        They cannot be used.
    """
    offset = slide.bounds_offset if settings.crop_to_bounds else (0, 0)
    if settings.within_class and settings.roi is None:
        raise AnnotationError(
            f"{slide.path}: --within-class needs annotations that have classes: give --roi, or a "
            "list with a column `roi` that names a file for this slide"
        )

    def read(source: str | None, **options: tuple[str, ...]) -> Roi | None:
        if source is None:
            return None
        path = find_roi(Path(source), slide.path)
        return read_roi(path, dimensions=slide.dimensions, offset=offset, **options)

    limits = Limits(
        read(settings.roi, within_class=settings.within_class),
        read(settings.tissue, without_class=(OUT_OF_FOCUS,)),
    )
    if settings.nuclei is None:
        return limits
    path = find_roi(Path(settings.nuclei), slide.path, what="nuclei")
    given = read_given(path, dimensions=slide.dimensions, mpp=slide.mpp, offset=offset)
    return replace(limits, nuclei=given.inside(limits.within))


def find_regions(slide: Slide, settings: PredictSettings) -> tuple[Path, str] | None:
    """File of the regions that a slide is counted by, and its hash; None where none are asked for.

    They are looked at before the work, which a mistyped class would cost.

    Raises
    ------
    AnnotationError
        They cannot be used.
    """
    if settings.regions is None:
        if settings.margins:
            raise AnnotationError(
                f"{slide.path}: --margin needs annotations that have classes: give --regions, or a "
                "list with a column `regions` that names a file for this slide"
            )
        return None
    path = find_roi(Path(settings.regions), slide.path)
    offset = slide.bounds_offset if settings.crop_to_bounds else (0, 0)
    map_regions(path, dimensions=slide.dimensions, mpp=slide.mpp, offset=offset,
                margins=read_margins(settings.margins))  # fmt: skip
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def area_warnings(limits: Limits, tissue: TissueMask) -> list[str]:
    """What the reader of the numbers must know of the areas that they rest on."""
    given = [each for each in (limits.roi, limits.tissue, limits.nuclei) if each is not None]
    found = [f"{shown(each.path.name)}: {note}." for each in given for note in each.notes]
    if limits.nuclei is not None:
        found.append(
            f"{len(limits.nuclei):,} nuclei were taken from {shown(limits.nuclei.path.name)}, none "
            "were detected: what is stated of the markers was measured on LymphInfer's own nuclei."
        )
    if tissue.area_mm2 == 0:
        if limits.roi is None:
            found.append("No tissue was found on the slide. Draw it in QuPath and give --tissue.")
        else:
            name = shown(limits.roi.path.name)
            found.append(f"No tissue was found inside the annotations of {name}.")
    elif not tissue.glass:
        found.append(
            "No glass was found beside the tissue: all that the picture shows counts as tissue. "
            "If there is glass on it, densities are too low; draw the tissue in QuPath and give "
            "--tissue."
        )
    elif tissue.steep:
        found.append(
            "The glass shades steeply, as in camera fields that are lit unevenly: some of it may "
            "count as tissue, and densities be too low. Look at the tissue in the report, or draw "
            "it in QuPath and give --tissue."
        )
    return found


def blurred_areas(
    parts: Path, outline: BaseGeometry, given: bool, mpp: float
) -> tuple[Areas, dict[str, Any], list[str]]:
    """Judge the focus of a slide's tissue.

    Parameters
    ----------
    parts : Path
        Folder of the slide's parts.
    outline : BaseGeometry
        The tissue, level-0 px.
    given : bool
        Whether it was given.
    mpp : float
        Level-0 pixel size, µm/px.

    Returns
    -------
    areas : Areas
    focus : dict
        Of ``summary.json``.
    warnings : list of str
    """
    fields: list[BlurredField] = []
    for part in list_parts(parts):
        with (
            suppress(OSError, ValueError, TypeError, pa.ArrowException),
            open_parquet(part) as file,
        ):
            fields += read_fields(file.metadata.metadata)
    boxes = shapely.box(*zip(*(field.box for field in fields), strict=True)) if fields else []
    shapely.prepare(outline)
    on_tissue = shapely.intersection(boxes, outline)
    judged = [
        (field, cut)
        for field, box, cut in zip(fields, boxes, on_tissue, strict=True)
        if cut.area >= _TISSUE_SHARE * box.area
    ]
    area = shapely.union_all([cut for _, cut in judged])
    mm2 = float(area.area) * mpp**2 / 1e6
    nuclei = sum(field.nuclei for field, _ in judged)
    summary = {"blurred_fields": len(judged), "blurred_mm2": round(mm2, 6),
               "blurred_nuclei": nuclei}  # fmt: skip
    warnings = []
    if judged and area.area >= _TOLD_SHARE * outline.area:
        warnings.append(
            f"{mm2:.2f} mm² of tissue ({area.area / outline.area:.0%}) is out of focus: its "
            f"{nuclei:,} nuclei are counted, but many may be missed and their markers wrong. Scan "
            "it again, or leave it out with --roi; the report shows where it is."
        )
    return Areas(outline, area, given), summary, warnings
