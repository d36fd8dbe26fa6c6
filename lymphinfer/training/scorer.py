"""A classifier with all that makes final probabilities of its logits: of a bundle or of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import MANIFEST
from lymphinfer.errors import DataError
from lymphinfer.markers.calibration import Calibration
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.markers.hierarchy import apply_hierarchy
from lymphinfer.panel import Panel, panel_with
from lymphinfer.training.calibrate import Calibrated, final_probabilities
from lymphinfer.training.checkpoint import BEST
from lymphinfer.training.data import StoreSet
from lymphinfer.training.predictions import predict_stores
from lymphinfer.validation import checked

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """Scores of the cells of some stores, in their row order.

    Attributes
    ----------
    stores : StoreSet
        Labels, patients, slides and places.
    logits : ndarray of float32, (N, L)
        Of the learned heads.
    raw : ndarray of float32, (N, M)
        The heads' own probabilities, before calibration; markers in panel order.
    final : ndarray of float32, (N, M)
        What a user sees: calibrated and coherent.
    """

    stores: StoreSet
    logits: Array
    raw: Array
    final: Array


@dataclass(frozen=True)
class Scorer:
    """A patch classifier ready to be measured.

    Attributes
    ----------
    name : str
    net : MarkerClassifier
    panel : Panel
    thresholds : tuple of float
        Of the final probability, by marker; NaN where none was chosen.
    finish : callable
        Logits (N, L) to raw and final probabilities, each (N, M).
    """

    name: str
    net: MarkerClassifier
    panel: Panel
    thresholds: tuple[float, ...]
    finish: Callable[[Array], tuple[Array, Array]]

    def predict(
        self,
        stores: StoreSet,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        batch_size: int = 64,
        advance: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Score every cell of some stores.

        Raises
        ------
        DataError
            The stores' patch size or panel is not the classifier's.
        """
        wanted = self.net.config.patch_px
        if stores.patch_px != wanted or stores.panel != self.panel.names:
            raise DataError(
                f"{self.name} takes patches of {wanted} px with labels of "
                f"{', '.join(self.panel.names)}; these stores have {stores.patch_px} px and "
                f"{', '.join(stores.panel)}"
            )
        net = self.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        logits = predict_stores(
            net, stores, device=device, autocast=autocast, batch_size=batch_size, advance=advance
        )
        return Predictions(stores, logits, *self.finish(logits))


def trained_scorer(
    name: str, net: MarkerClassifier, panel: Panel, hierarchy: str, calibrated: Calibrated | None
) -> Scorer:
    """Scorer of a network whose heads are the panel's markers; uncalibrated for None."""
    known = calibrated or Calibrated((Calibration(),) * len(panel), (math.nan,) * len(panel))

    def finish(logits: Array) -> tuple[Array, Array]:
        raw = Calibration()(logits)
        return raw, final_probabilities(logits, known.calibrations, panel, hierarchy)

    return Scorer(name, net.eval(), panel, known.thresholds, finish)


def bundle_scorer(source: str | Path) -> Scorer:
    """Scorer of a bundle by name or folder.

    Raises
    ------
    BundleError
        It is missing or damaged.
    DataError
        It reads the detector's features, which patches do not have.
    """
    bundle = load_bundle(source)
    model, manifest = bundle.markers, bundle.manifest
    if model.classifier is None:
        raise DataError(
            f"bundle {manifest.name} reads its detector's features, not patches, so it cannot be "
            "evaluated on patch stores; give a bundle with a patch classifier"
        )
    specs = manifest.markers
    conditional = [s.is_conditional for s in specs]

    def finish(logits: Array) -> tuple[Array, Array]:
        heads = model.head_outputs(logits)
        raw = heads.copy()
        for column, name in enumerate(model.learned):
            raw[:, manifest.panel.index(name)] = Calibration()(logits[:, column])
        final = apply_hierarchy(
            heads,
            manifest.panel.parent_indices,
            manifest.hierarchy,
            conditional_heads=conditional,
        )
        return raw, final

    thresholds = tuple(math.nan if at is None else at.threshold for at in manifest.calls_at())
    return Scorer(manifest.name, model.classifier.net, manifest.panel, thresholds, finish)


def run_scorer(folder: Path) -> Scorer:
    """Scorer of the best weights of a training run, uncalibrated and without thresholds.

    Raises
    ------
    DataError
        No finished epoch there.
    """
    path = folder / BEST
    try:
        with safe_open(path, "pt") as file:
            config = checked(
                ClassifierConfig, json.loads(file.metadata()["network"]), DataError, path
            )
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: neither a bundle ({MANIFEST}) nor a training run with a finished epoch "
            f"({BEST})"
        ) from error
    net = MarkerClassifier(config)
    net.load_state_dict(state)
    panel = panel_with(config.markers)
    return trained_scorer(folder.name, net, panel, "none", None)


def open_scorer(source: str | Path) -> Scorer:
    """Scorer of a bundle (name or folder) or of a training run's folder."""
    folder = Path(source)
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        return run_scorer(folder)
    return bundle_scorer(source)
