"""The number that early stopping goes by: mean AUROC over the markers on validation cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lymphinfer.errors import DataError
from lymphinfer.markers.classifier import MarkerClassifier
from lymphinfer.training import metrics
from lymphinfer.training.data import StoreSet
from lymphinfer.training.device import AUTOCAST
from lymphinfer.training.predictions import predict_stores

if TYPE_CHECKING:
    from accelerate import Accelerator


def validate(
    net: MarkerClassifier, val: StoreSet, accelerator: Accelerator, *, batch_size: int
) -> tuple[float, dict[str, float | None]]:
    """Score the validation cells.

    Parameters
    ----------
    net : MarkerClassifier
    val : StoreSet
    accelerator : accelerate.Accelerator
        Its processes share the work.
    batch_size : int

    Returns
    -------
    mean : float
        Over the markers that have both classes.
    aurocs : dict of str to float or None
        By marker; None where a class is missing.

    Raises
    ------
    DataError
        No marker has both classes.
    """
    logits = predict_stores(
        net,
        val,
        device=accelerator.device,
        autocast=AUTOCAST[accelerator.mixed_precision],
        batch_size=batch_size,
        accelerator=accelerator,
    )
    values = {
        name: metrics.auroc(val.labels[:, i], logits[:, i]) for i, name in enumerate(val.panel)
    }
    known = {name: (None if math.isnan(v) else v) for name, v in values.items()}
    if not any(v is not None for v in known.values()):
        raise DataError(
            "no marker has both positive and negative cells among the validation patients; "
            "assign other patients to validation ([data] splits) or look at the gates"
        )
    return float(np.mean([v for v in known.values() if v is not None])), known
