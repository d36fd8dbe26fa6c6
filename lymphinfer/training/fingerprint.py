"""What a training run's result follows from, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lymphinfer.downloading import sha256_of
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.data import StoreSet
from lymphinfer.training.resuming import Begun

# May differ when a run goes on: they change how long or how comfortably it runs, not what it is.
FREE_KEYS = ("workers", "epochs", "patience", "checkpoint_steps")


def model_with_weights(config: RetrainConfig) -> dict[str, Any]:
    """Settings of the model, and the hash of the weights that it begins from."""
    values = asdict(config.model)
    weights = Path(config.model.backbone_weights)
    if config.model.backbone_weights and weights.is_file():
        values["backbone_weights_sha256"] = sha256_of(weights)
    return values


def run_begun(config: RetrainConfig, stores: Sequence[StoreSet]) -> Begun:
    """What a run's result follows from: model, training settings and patches."""
    settings = asdict(config.fit)
    # A cosine reaches zero at the last epoch, so there the number of epochs is part of the curve.
    free = FREE_KEYS if config.fit.schedule == "constant" else FREE_KEYS[:1] + FREE_KEYS[2:]
    return {
        "model": model_with_weights(config),
        "fit": {k: v for k, v in settings.items() if k not in free},
        "stores": [[s.info.fingerprint for s in group.stores] for group in stores],
    }


def run_fingerprint(config: RetrainConfig, stores: Sequence[StoreSet]) -> str:
    """Hash of what a run's result follows from."""
    plain = json.dumps(run_begun(config, stores), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()
