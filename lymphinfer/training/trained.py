"""What a training run hands over to its bundle and card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lymphinfer.markers.classifier import MarkerClassifier
from lymphinfer.training.calibrate import Calibrated
from lymphinfer.training.results import Evaluation


@dataclass(frozen=True)
class Trained:
    """What training, calibration and evaluation have left.

    Attributes
    ----------
    net : MarkerClassifier
        At the precision that the bundle stores (`stored_precision`).
    calibrated : Calibrated
    evaluation : Evaluation
    split : str
        That it was measured on.
    start : str
        What the weights began as.
    history : list of dict
        A row an epoch.
    cells : dict of str to int
        Cells by split.
    """

    net: MarkerClassifier
    calibrated: Calibrated
    evaluation: Evaluation
    split: str
    start: str
    history: list[dict[str, Any]]
    cells: dict[str, int]
