"""What stands behind a marker's probability, and from where on a nucleus is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

OPERATING_POINTS = ("precise", "balanced", "sensitive")
"""Names of operating points, the highest threshold first."""
DEFAULT_POINT = "balanced"


class Evidence(StrEnum):
    """What stands behind a marker's probability.

    ``stain``: trained and tested against the marker's own stain. ``morphology``: an annotation on
    H&E stands in for the stain. ``base-rate``: nothing learned; the parent's probability times a
    published cohort frequency. ``simulated``: learned on simulated slides.
    """

    STAIN = "stain"
    MORPHOLOGY = "morphology"
    BASE_RATE = "base-rate"
    SIMULATED = "simulated"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it was worth on validation data at the stain's real frequency.

    Attributes
    ----------
    threshold : float
        Final probability from which a nucleus is positive, in [0, 1].
    precision, recall : float or None
        Of the calls there; None where they were not measured.
    """

    threshold: float
    precision: float | None = None
    recall: float | None = None

    @property
    def statement(self) -> str:
        """Threshold, precision and recall for people."""
        text = f"from {self.threshold:.2f}"
        if self.precision is None or self.recall is None:
            return text
        return f"{text} (precision {self.precision:.2f}, recall {self.recall:.2f})"

    def to_dict(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class MarkerSpec:
    """How one marker's probability is made, and why it may be believed.

    Attributes
    ----------
    name : str
    evidence : Evidence
    source : str
        On which labels it was trained and tested, or where the rate comes from.
    threshold : float or None
        Final probability from which a nucleus is called positive where there are no `points`.
        Without either the evidence does not carry a call: the marker is only expected.
    points : dict of str to OperatingPoint
        By the names in `OPERATING_POINTS`. A marker without a point is not called at it.
    conditional : bool
        The head's output is P(marker | parent), not P(marker). A base rate is always conditional.
    patients : int or None
        Patients behind a ``stain``.
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
    threshold: float | None = None
    points: Mapping[str, OperatingPoint] = field(default_factory=dict)
    conditional: bool = False
    patients: int | None = None
    scale: float = 1.0
    offset: float = 0.0
    rate: float | None = None
    rate_range: tuple[float, float] | None = None
    auroc: float | None = None
    auroc_interval: tuple[float, float] | None = None

    @property
    def called(self) -> bool:
        """Whether a nucleus is ever called positive for it."""
        learned = self.evidence is not Evidence.BASE_RATE
        return learned and (self.threshold is not None or bool(self.points))

    @property
    def is_conditional(self) -> bool:
        """Whether the head's output is P(marker | parent)."""
        return self.conditional or self.evidence is Evidence.BASE_RATE

    def at(self, point: str) -> OperatingPoint | None:
        """Operating point of a name; None where the marker is not called at it.

        A marker that states a threshold and no points has that one, at the default name.
        """
        if not self.called:
            return None
        if self.points:
            return self.points.get(point)
        return OperatingPoint(self.threshold or 0.0) if point == DEFAULT_POINT else None

    @property
    def statement(self) -> str:
        """One line for people: what the probability rests on."""
        word = self.evidence.value
        if self.evidence is Evidence.BASE_RATE:
            times = f"its parent's times a base rate of {self.rate:.2f}"
            return f"{word}: {times}; nothing learned; never called"
        if self.evidence is Evidence.STAIN:
            word += f", {_patients(self.patients)}"
        if self.auroc is not None:
            word += f", AUROC {self.auroc:.3f}"
        if self.auroc_interval:
            word += f" ({self.auroc_interval[0]:.3f}-{self.auroc_interval[1]:.3f})"
        never = "" if self.called else "; never called: the evidence does not carry a call"
        return f"{word}: {self.source}{never}"

    def to_dict(self) -> dict[str, Any]:
        """What a result says of the marker: evidence, statement, source, and the numbers behind."""
        row: dict[str, Any] = {
            "evidence": self.evidence.value,
            "statement": self.statement,
            "source": self.source,
            "called": self.called,
        }
        if self.evidence is Evidence.BASE_RATE:
            return row | {"rate": self.rate, "rate_range": list(self.rate_range or ())}
        if self.patients is not None:
            row["patients"] = self.patients
        if self.auroc is not None:
            row |= {"auroc": self.auroc, "auroc_interval": list(self.auroc_interval or ())}
        if self.points:
            row["points"] = {name: point.to_dict() for name, point in self.points.items()}
        return row


def _patients(number: int | None) -> str:
    if number is None:
        return "number of patients not stated"
    return "one patient" if number == 1 else f"{number} patients"


def evidence_of(word: object) -> Evidence:
    """Evidence of its word; ValueError for another one, with what to write."""
    if isinstance(word, str) and word in set(Evidence):
        return Evidence(word)
    known = ", ".join(Evidence)
    if word == "measured":
        raise ValueError(
            'does not say on what: write "stain" and patients = N where the '
            "labels come from the marker's own stain, as `lymphinfer retrain` takes them from "
            'immunofluorescence, or "morphology" where an annotation on H&E stands in for it'
        )
    raise ValueError(f"expected one of {known}")
