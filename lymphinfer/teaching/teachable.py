"""The last layer of a bundle's markers: what it reads, and how to change what it says.

Both kinds of head that can be taught end in a linear layer over features of the nucleus, so that a
logistic regression on those features, and on the logit that the head has now, is a head of the same
form: the bundle stays what `predict` loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lymphinfer.bundles.loading import Bundle
from lymphinfer.bundles.networks import choose_networks
from lymphinfer.bundles.weight_files import read_weights
from lymphinfer.engine import INT8
from lymphinfer.errors import BundleError
from lymphinfer.markers.two_scale import HeadWeights, NearMarkers
from lymphinfer.nuclei.detector import Detection
from lymphinfer.nuclei.stardist.detector import StarDistDetector

F32 = NDArray[np.float32]
LAST_LAYER = WEIGHT, BIAS = "marker.1.weight", "marker.1.bias"
"""The last layer of a residual StarDist's marker head."""


@dataclass(frozen=True)
class Change:
    """What a marker says instead: ``keep`` times its logit, plus ``weights`` · features + ``bias``.

    Attributes
    ----------
    keep : float
    weights : ndarray of float64, (F,)
    bias : float
    """

    keep: float
    weights: NDArray[np.float64]
    bias: float

    def __call__(self, features: F32, logits: F32) -> NDArray[np.float64]:
        """Logits (N,) instead of those that there are, by features (N, F)."""
        found: NDArray[np.float64] = (
            self.keep * np.asarray(logits, np.float64)
            + np.asarray(features, np.float64) @ self.weights
            + self.bias
        )
        return found


@dataclass(frozen=True)
class Teachable:
    """A bundle's last layer.

    Attributes
    ----------
    bundle : Bundle
        Loaded so that its detections bring the features.
    file : str
        Of the bundle: where the layer is stored.
    read : callable
        Near features (N, F) of a detection.
    logits : callable
        Logits (N, learned) that features have now.
    changed : callable
        State of `file` under a change of each marker.
    """

    bundle: Bundle
    file: str
    read: Callable[[Detection], F32]
    logits: Callable[[F32], F32]
    changed: Callable[[Mapping[str, Change]], dict[str, F32]]

    @property
    def learned(self) -> tuple[str, ...]:
        """Markers that have a logit."""
        return self.bundle.markers.learned


def teachable(bundle: Bundle) -> Teachable:
    """The last layer of a bundle's markers.

    Parameters
    ----------
    bundle : Bundle
        Its own detector is replaced by one that gives features, where its markers are read there.

    Raises
    ------
    BundleError
        Its markers come from patches, or from another bundle's detector.
    """
    markers, name = bundle.markers, bundle.manifest.name
    if markers.head is not None and isinstance(bundle.detector, NearMarkers):
        return _two_scale(bundle, markers.head)
    detector = bundle.detector
    reads_features = bundle.manifest.classifier["kind"] == "feature"
    if (
        reads_features
        and isinstance(detector, StarDistDetector)
        and detector.config.encoder == "resnet"
    ):
        return _feature(bundle, detector)
    raise BundleError(
        f"bundle {name}: its markers are read off patches, whose network `teach` cannot change; "
        "begin --from he-v2 or he-v1-fast, or use lymphinfer retrain"
    )


def _two_scale(bundle: Bundle, head: HeadWeights) -> Teachable:
    near_width = head.config.near

    def read(detection: Detection) -> F32:
        assert detection.near is not None
        return detection.near

    def logits(features: F32) -> F32:
        return head(features[:, :near_width], features[:, near_width:])

    def changed(changes: Mapping[str, Change]) -> dict[str, F32]:
        state = {name: values.copy() for name, values in head.weights.items()}
        for marker, change in changes.items():
            row = head.config.markers.index(marker)
            weights = change.weights.astype(np.float32)
            for name in ("out.weight", "out.bias", "near_out.weight", "far_out.weight"):
                state[name][row] *= change.keep
            state["near_out.weight"][row] += weights[:near_width]
            state["far_out.weight"][row] += weights[near_width:]
            state["out.bias"][row] += change.bias
        return state

    return Teachable(bundle, bundle.manifest.classifier["file"], read, logits, changed)


def _feature(bundle: Bundle, detector: StarDistDetector) -> Teachable:
    """Of a detector's marker head: its last layer passes its input on, pooled as its logits are."""
    file = str(bundle.manifest.detector["file"])
    folder, int8 = bundle.manifest.folder, bundle.manifest.detector.get("int8")
    weights = read_weights(folder / file)
    rounded = None
    if int8 and bundle.engine.precision == INT8:
        rounded = read_weights(folder / str(int8))
        # Its own last layer, which is the one that is taught.
        weights |= {name: rounded.pop(name) for name in LAST_LAYER if name in rounded}
    rows, offsets = (np.asarray(weights[name], np.float32) for name in LAST_LAYER)
    rows = rows[:, :, 0, 0]
    width = rows.shape[1]
    open_ = {WEIGHT: np.eye(width)[:, :, None, None], BIAS: np.zeros(width)}
    networks = choose_networks(bundle.engine, trainable=False)
    fresh = StarDistDetector(
        networks.stardist_of(
            replace(detector.config, n_markers=width), {**weights, **open_}, rounded
        ),
        mpp=1.0, working_mpp=detector.scale,
        prob_threshold=detector.prob_threshold, nms_threshold=detector.nms_threshold,
        refine_at=detector.refine_at,
    )  # fmt: skip

    def read(detection: Detection) -> F32:
        assert detection.marker_logits is not None
        return detection.marker_logits

    def logits(features: F32) -> F32:
        found: F32 = features @ rows.T + offsets
        return found

    def changed(changes: Mapping[str, Change]) -> dict[str, F32]:
        weight, bias = rows.astype(np.float64), offsets.astype(np.float64)
        for marker, change in changes.items():
            i = bundle.markers.learned.index(marker)
            weight[i] = change.keep * weight[i] + change.weights
            bias[i] = change.keep * bias[i] + change.bias
        return {
            WEIGHT: weight.astype(np.float32)[:, :, None, None],
            BIAS: bias.astype(np.float32),
        }

    return Teachable(replace(bundle, detector=fresh), file, read, logits, changed)
