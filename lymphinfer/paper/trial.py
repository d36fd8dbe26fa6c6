"""One trained and tested setting among several, for tables that compare settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lymphinfer.cells.files import atomic_write
from lymphinfer.panel import Panel
from lymphinfer.training.calibrate import Calibrated, calibrate
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.data import StoreSet
from lymphinfer.training.device import AUTOCAST, make_accelerator
from lymphinfer.training.evaluate import measure_predictions
from lymphinfer.training.fingerprint import run_fingerprint
from lymphinfer.training.fit import Trainer
from lymphinfer.training.inputs import Inputs, make_stores, open_split
from lymphinfer.training.plan import parameter_count
from lymphinfer.training.predictions import predict_stores
from lymphinfer.training.scorer import trained_scorer

RESULT = "result.json"


@dataclass(frozen=True)
class TrialMarker:
    """One marker's numbers in a table; None where a class is missing.

    Attributes
    ----------
    marker : str
    auroc, auroc_low, auroc_high : float or None
    balanced_accuracy : float or None
        At 0.5, as the paper's.
    balanced_accuracy_chosen : float or None
        At the threshold chosen on validation data.
    best_possible : float or None
        AUROC that no reader can exceed; known of simulated cells alone.
    """

    marker: str
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    balanced_accuracy: float | None
    balanced_accuracy_chosen: float | None
    best_possible: float | None


@dataclass(frozen=True)
class TrialResult:
    """A setting's numbers on the test patients.

    Attributes
    ----------
    key : str
    parameters : int
        Weights of the network.
    epochs : int
    seconds : float
        Of training.
    start : str
        What the weights began as.
    split : str
        That it was measured on.
    markers : tuple of TrialMarker
    """

    key: str
    parameters: int
    epochs: int
    seconds: float
    start: str
    split: str
    markers: tuple[TrialMarker, ...]


def shared_stores(
    config: RetrainConfig,
    inputs: Inputs,
    out: Path,
    device: str,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, list[Path]]:
    """Make the patch stores (`make_stores`) in the first process, while the others wait."""
    with make_accelerator(config.fit.precision, device).main_process_first():
        return make_stores(inputs, config.data, out, progress=progress)


def run_trial(
    key: str,
    config: RetrainConfig,
    inputs: Inputs,
    stores: dict[str, list[Path]],
    folder: Path,
    *,
    device: str = "auto",
    progress: bool = True,
) -> TrialResult:
    """Train and measure a setting, or go on with it, or read what it came to.

    Heads are measured as they are, without hierarchy, as in the paper; thresholds come from the
    validation patients.

    Parameters
    ----------
    key : str
        Its name, for the folder.
    config : RetrainConfig
    inputs : Inputs
    stores : dict of str to list of Path
        By split.
    folder : Path
        The trial's own is below it.
    device : str
    progress : bool

    Returns
    -------
    TrialResult
    """
    train, val = open_split(stores, "train"), open_split(stores, "val")
    split = "test" if stores.get("test") else "val"
    test = open_split(stores, split)
    mark = run_fingerprint(config, (train, val, test))
    own = folder / f"{key}-{mark[:10]}"
    limits = [config.fit.epochs, config.fit.patience]
    if (found := _read(own / RESULT, limits)) is not None:
        return found
    fitted = Trainer(config, train, val, own, device=device, progress=progress).fit()
    accelerator = make_accelerator(config.fit.precision, device)
    net = fitted.net.to(accelerator.device)
    calibrated = _calibrate(net, val, inputs.panel, accelerator)
    scorer = trained_scorer(key, net, inputs.panel, "none", calibrated)
    autocast = AUTOCAST[accelerator.mixed_precision]
    predictions = scorer.predict(test, device=accelerator.device, autocast=autocast)
    evaluation = measure_predictions(
        scorer, predictions, cohort=inputs.cohort, replicates=config.bundle.bootstrap
    )
    plain = [m.to_dict() for m in evaluation.markers]
    markers = tuple(
        TrialMarker(
            marker=m["marker"],
            auroc=m["auroc"]["value"],
            auroc_low=m["auroc"]["low"],
            auroc_high=m["auroc"]["high"],
            balanced_accuracy=m["balanced_accuracy"]["value"],
            balanced_accuracy_chosen=m["balanced_accuracy_chosen"]["value"],
            best_possible=evaluation.best_possible.get(m["marker"]),
        )
        for m in plain
    )
    state = fitted.state
    result = TrialResult(
        key, parameter_count(net), len(state.history), state.seconds, state.start, split, markers
    )
    if accelerator.is_main_process:
        document = {
            **{k: v for k, v in result.__dict__.items() if k != "markers"},
            "limits": limits,
            "markers": [m.__dict__ for m in markers],
        }
        with atomic_write(own / RESULT) as file:
            file.write(json.dumps(document, indent=1).encode())
    return result


def _calibrate(net: Any, val: StoreSet, panel: Panel, accelerator: Any) -> Calibrated:
    logits = predict_stores(
        net,
        val,
        device=accelerator.device,
        autocast=AUTOCAST[accelerator.mixed_precision],
    )
    return calibrate(logits, val.labels, panel, hierarchy="none")


def _read(path: Path, limits: list[int]) -> TrialResult | None:
    """Read a finished trial; None where there is none, or one that was allowed fewer epochs."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("limits") != limits:
            return None
        markers = tuple(TrialMarker(**m) for m in document.pop("markers"))
        return TrialResult(**document, markers=markers)
    except (OSError, ValueError, KeyError, TypeError):
        return None
