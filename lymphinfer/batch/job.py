"""A slide to be predicted, and what its row of a list says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lymphinfer.errors import LymphinferError
from lymphinfer.predict.settings import PredictSettings


@dataclass(frozen=True)
class Job:
    """A slide and the folder of its results.

    Attributes
    ----------
    slide, folder : Path
    mpp : float or None
        The slide's own pixel size, over the settings' one.
    bundle : str or None
        The slide's own bundle, over the settings' one.
    roi : str or None
        The slide's own file of annotations, over the settings' one.
    tissue : str or None
        The slide's own file of its tissue, over the settings' one.
    series : str or None
        The image to read, over the settings' one.
    nuclei : str or None
        The slide's own file of nuclei, over the settings' one.
    regions : str or None
        The slide's own file of annotations to count by, over the settings' one.
    """

    slide: Path
    folder: Path
    mpp: float | None = None
    bundle: str | None = None
    roi: str | None = None
    tissue: str | None = None
    series: str | None = None
    nuclei: str | None = None
    regions: str | None = None

    def settings(self, common: PredictSettings) -> PredictSettings:
        """Settings of this slide."""
        return replace(
            common,
            mpp=common.mpp if self.mpp is None else self.mpp,
            bundle=self.bundle or common.bundle,
            roi=self.roi or common.roi,
            tissue=self.tissue or common.tissue,
            series=self.series or common.series,
            nuclei=self.nuclei or common.nuclei,
            regions=self.regions or common.regions,
        )


def check_jobs(jobs: Sequence[Job], settings: PredictSettings) -> None:
    """Find what no slide could be done with, before the first is begun.

    Raises
    ------
    LymphinferError
        Classes of annotations are asked for, and there are no annotations; or a detector, and
        nuclei are given.
    """
    if settings.detector is not None and any(job.nuclei for job in jobs):
        raise LymphinferError(
            f"--detector {settings.detector}: none are detected where the list's column `nuclei` "
            "gives nuclei; leave --detector away, or those slides"
        )
    if settings.margins and settings.regions is None and not any(job.regions for job in jobs):
        raise LymphinferError(
            "--margin: needs --regions, the annotations that have classes, or a list with a "
            "column `regions`"
        )
    if settings.within_class and settings.roi is None and not any(job.roi for job in jobs):
        raise LymphinferError(
            "--within-class: needs --roi, the annotations that have classes, or a list with a "
            "column `roi`"
        )
