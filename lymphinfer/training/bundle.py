"""Making the bundle that a training run ends in: weights, detector, evidence and card."""

from __future__ import annotations

import math
from pathlib import Path

from lymphinfer.bundles.composing import lending
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import BundleManifest, Evidence, MarkerSpec, read_manifest
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.cells.files import atomic_write, sweep_temporaries
from lymphinfer.errors import DataError
from lymphinfer.markers.classifier import MarkerClassifier
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.stardist.detector import StarDistDetector
from lymphinfer.slides.pixel_size import MAX_MPP
from lymphinfer.training.calibrate import usable_threshold
from lymphinfer.training.card import write_card
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.inputs import Inputs
from lymphinfer.training.intervals import MarkerMetrics
from lymphinfer.training.trained import Trained

CARD = "CARD.md"
DETECTOR_FILE, CLASSIFIER_FILE = "detector.safetensors", "classifier.safetensors"


def stored_precision(net: MarkerClassifier) -> MarkerClassifier:
    """Round a network to what a bundle stores (float16), so that what is measured is what ships."""
    state = {
        k: (v.half().to(v.dtype) if v.is_floating_point() else v)
        for k, v in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net


def marker_specs(inputs: Inputs, trained: Trained) -> list[MarkerSpec]:
    """Evidence, calibration and threshold of every marker, as ``bundle.toml`` has them."""
    evidence = Evidence.SIMULATED if inputs.simulated else Evidence.STAIN
    patients = {split: len(getattr(inputs.splits, split)) for split in ("train", "val", "test")}
    kind = "simulated cohort" if inputs.simulated else "cohort"
    tested = f"{patients[trained.split]} held-out" if trained.split == "test" else "the validation"
    one = inputs.cohort.layout.file.one_patient
    what = "parts of one patient's slides" if one else "patients"
    source = (
        f"{kind} {inputs.cohort.root.name}, labels by gates {inputs.gates.sha256()[:12]}; trained "
        f"on {patients['train']} {what}, tested on {tested} {'parts' if one else 'patients'}"
    )
    rows = zip(
        trained.evaluation.markers,
        trained.calibrated.calibrations,
        trained.calibrated.thresholds,
        strict=True,
    )
    return [
        MarkerSpec(
            name=m.marker,
            evidence=evidence,
            source=source,
            threshold=usable_threshold(threshold),
            patients=None if inputs.simulated else 1 if one else sum(patients.values()),
            scale=calibration.scale,
            offset=calibration.offset,
            auroc=_number(m.auroc.value),
            auroc_interval=_interval(m),
        )
        for m, calibration, threshold in rows
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _interval(m: MarkerMetrics) -> tuple[float, float] | None:
    if math.isnan(m.auroc.low):
        return None
    return round(m.auroc.low, 4), round(m.auroc.high, 4)


def _int8_of(bundle: str | Path) -> dict[str, bytes]:
    """File that says how a bundle's detector is computed in bytes, where it has one."""
    # Of the bundle that the detector belongs to.
    manifest = lending(read_manifest(find_bundle(bundle)))
    name = manifest.detector.get("int8")
    return {str(name): (manifest.folder / str(name)).read_bytes()} if name else {}


def make_bundle(
    out: Path, inputs: Inputs, config: RetrainConfig, trained: Trained, *, command: str
) -> BundleManifest:
    """Write the bundle with its card.

    Parameters
    ----------
    out : Path
        Its folder; the last part is the bundle's name.
    inputs : Inputs
    config : RetrainConfig
    trained : Trained
    command : str
        What made it, for the card.

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError, DataError
        The bundle whose detector is to be copied is not usable.
    """
    base = load_bundle(config.bundle.detector)
    detector = base.own_detector
    if not isinstance(detector, (StarDistDetector, HoVerNetDetector)):
        raise DataError(f"bundle {base.manifest.name} has no detector that can be copied")
    specs = marker_specs(inputs, trained)
    # Nuclei are not found at such a size: the detector keeps its own, and patches their size.
    coarse = config.data.mpp > MAX_MPP
    kind = "a simulated cohort" if inputs.simulated else "immunofluorescence of the same section"
    manifest = write_bundle(
        out,
        modules={DETECTOR_FILE: detector.net, CLASSIFIER_FILE: trained.net},
        header={
            "name": out.name,
            "version": "1",
            "summary": (
                f"Nuclei by the detector of {base.manifest.name}; "
                f"{', '.join(inputs.panel.names)} learned on {kind} ({inputs.cohort.root.name})"
            ),
            "licence": base.manifest.licence,
            "panel": inputs.panel.name,
            "mpp": base.manifest.mpp if coarse else config.data.mpp,
            "hierarchy": config.bundle.hierarchy,
        },
        detector={**base.manifest.detector, "file": DETECTOR_FILE},
        others=_int8_of(config.bundle.detector),
        classifier={
            "kind": "dense" if config.bundle.dense else "patch",
            "file": CLASSIFIER_FILE,
            **({"mpp": config.data.mpp} if coarse else {}),
            "network": trained.net.config.to_dict(),
        },
        markers=specs,
        panel=inputs.panel,
    )
    text = write_card(manifest, base.manifest, inputs, config, trained, command=command)
    with atomic_write(out / CARD) as file:
        file.write(text.encode())
    sweep_temporaries(out)
    return manifest
