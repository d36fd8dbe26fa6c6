"""Gates: per slide and marker, which intensities are negative, positive or neither."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = ("negative_max", "positive_min", "overexposure_min")
"""Names of a gate's thresholds, lowest first."""


@dataclass(frozen=True)
class AfCorrection:
    """Removal of autofluorescence: ``max(raw - lambda_ * AF1 + beta, 0)``.

    Attributes
    ----------
    lambda_ : float
        Counts in the marker's channel for each count in AF1.
    beta : float
        Counts added.
    """

    lambda_: float
    beta: float

    def apply(
        self, raw: NDArray[np.floating], autofluorescence: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Correct intensities, float64 of the arguments' shape, none below 0."""
        corrected = np.asarray(raw, np.float64) - self.lambda_ * autofluorescence + self.beta
        return np.maximum(corrected, 0.0)


@dataclass(frozen=True)
class Gate:
    """Thresholds of one marker on one slide, in counts of the corrected mean intensity.

    Attributes
    ----------
    negative_max : float
        Below it a cell is negative.
    positive_min : float
        From here on it is positive; between the two it is not labelled.
    overexposure_min : float
        From here on it is over-exposed and not labelled.
    set_by : str
        Who or what set the gate.
    set_at : datetime
        When.
    af : AfCorrection or None
        How intensities are corrected first; None: they are taken raw.
    """

    negative_max: float
    positive_min: float
    overexposure_min: float
    set_by: str = ""
    set_at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    af: AfCorrection | None = None

    def problems(self) -> list[str]:
        """List what is wrong with the thresholds; empty if nothing is."""
        values = (self.negative_max, self.positive_min, self.overexposure_min)
        if not all(math.isfinite(v) for v in values):
            return [f"its thresholds {values} must be finite numbers"]
        wrong = []
        if self.negative_max > self.positive_min:
            wrong.append(
                f"negative_max {self.negative_max:g} and positive_min {self.positive_min:g} "
                "overlap: negative_max must not be the larger"
            )
        if self.positive_min >= self.overexposure_min:
            wrong.append(
                f"positive_min {self.positive_min:g} and overexposure_min "
                f"{self.overexposure_min:g} leave no positive range: overexposure_min must be "
                "the larger"
            )
        return wrong


@dataclass(frozen=True)
class SlideGates:
    """Gates of a slide.

    Attributes
    ----------
    markers : mapping of str to Gate
        By marker name.
    blank_max : float or None
        Cells with more than this in the blank channel are artefacts.
    """

    markers: Mapping[str, Gate]
    blank_max: float | None = None


@dataclass(frozen=True)
class Gates:
    """Gates of a cohort.

    Attributes
    ----------
    slides : mapping of str to SlideGates
        By the slide's folder name.
    """

    slides: Mapping[str, SlideGates]

    def sha256(self) -> str:
        """Hex digest of what decides labels: thresholds and corrections, not who set them when."""
        lines = []
        for slide, gates in sorted(self.slides.items()):
            lines.append(f"{slide} {gates.blank_max!r}")
            for name, gate in sorted(gates.markers.items()):
                af = gate.af and (gate.af.lambda_, gate.af.beta)
                values = [float(getattr(gate, key)) for key in THRESHOLDS]
                lines.append(f"{slide} {name} {values!r} {af!r}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def problems(self, slides: Sequence[str], markers: Sequence[str]) -> list[str]:
        """List missing slides, missing markers and wrong thresholds.

        Parameters
        ----------
        slides : sequence of str
            Slides that must have gates.
        markers : sequence of str
            Markers that each must have.
        """
        wrong = []
        absent = [slide for slide in slides if slide not in self.slides]
        if absent:
            wrong.append(
                f"no gates for slide {', '.join(absent)}: run `lymphinfer gate propose` for them, "
                "or leave them out"
            )
        for slide in slides:
            found = self.slides.get(slide)
            lacking = [m for m in markers if found is not None and m not in found.markers]
            if lacking:
                wrong.append(f"slide {slide}: no gate for {', '.join(lacking)}")
        for slide, gates in self.slides.items():
            for name, gate in gates.markers.items():
                wrong += [f"slide {slide}, {name}: {problem}" for problem in gate.problems()]
        return wrong
