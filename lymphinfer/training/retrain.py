"""`lymphinfer retrain`: from a gated cohort to a bundle, every step that is not done yet."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.schema import MANIFEST, BundleManifest, read_manifest
from lymphinfer.training.bundle import CARD, make_bundle, stored_precision
from lymphinfer.training.calibrate import calibrate, read_calibration, write_calibration
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.device import AUTOCAST, make_accelerator
from lymphinfer.training.evaluate import measure_predictions
from lymphinfer.training.fingerprint import model_with_weights, run_fingerprint
from lymphinfer.training.fit import FitResult, Trainer
from lymphinfer.training.inputs import Inputs, make_stores, open_inputs, open_split, population_of
from lymphinfer.training.ledger import Ledger
from lymphinfer.training.predictions import predict_stores
from lymphinfer.training.results import METRICS_JSON, Evaluation, write_evaluation
from lymphinfer.training.scorer import trained_scorer
from lymphinfer.training.trained import Trained

CALIBRATION = "calibration.json"
Say = Callable[[str], None]
SlideProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RetrainResult:
    """What a run ended in.

    Attributes
    ----------
    bundle : BundleManifest
    evaluation : Evaluation or None
        None where everything had been done before.
    work : Path
        Patches, checkpoints and evaluation.
    """

    bundle: BundleManifest
    evaluation: Evaluation | None
    work: Path


def work_folder(out: Path) -> Path:
    """Where a run keeps what is not the bundle: ``<out>.work`` beside it."""
    return out.with_name(out.name + ".work")


def digest(*parts: Any) -> str:
    """Hash of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def fit_stores(
    config: RetrainConfig,
    stores: dict[str, list[Path]],
    work: Path,
    *,
    device: str,
    progress: bool,
) -> FitResult:
    """Train on prepared stores; each setting has a folder of its own, so none is lost."""
    train, val = open_split(stores, "train"), open_split(stores, "val")
    folder = work / f"train-{run_fingerprint(config, (train, val))[:10]}"
    fitted = Trainer(config, train, val, folder, device=device, progress=progress).fit()
    stored_precision(fitted.net)
    return fitted


def retrain(
    cohort: Path,
    gates: Path,
    config: RetrainConfig,
    out: Path,
    *,
    work: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    say: Say = lambda text: None,
    slide_progress: SlideProgress | None = None,
    command: str = "lymphinfer retrain",
) -> RetrainResult | None:
    """Run every step that is not done: check, patches, train, calibrate, evaluate, bundle.

    Killed at any moment, the same call goes on where it stopped and ends with the same bundle.
    Under ``accelerate launch`` the first process prepares and finishes; all of them train.

    Parameters
    ----------
    cohort : Path
        In ORION's layout.
    gates : Path
        ``gates.toml``.
    config : RetrainConfig
    out : Path
        The bundle's folder.
    work : Path, optional
        Folder for what is not the bundle; ``<out>.work`` where None.
    device : str
        ``auto`` or ``cpu``.
    progress : bool
        Show a bar while training.
    say : callable
        Told what is done.
    slide_progress : callable, optional
        Called with a slide's name, its patches done, and its patches in all.
    command : str
        Named in the card.

    Returns
    -------
    RetrainResult or None
        None in all processes but the first.

    Raises
    ------
    DataError
        Cohort, gates and configuration, every problem at once; a marker that cannot be learned.
    LymphinferError
        Anything else a user can mend.
    """
    folder = work_folder(out) if work is None else work
    accelerator = make_accelerator(config.fit.precision, device)
    main = accelerator.is_main_process
    ledger = Ledger(folder)
    inputs = open_inputs(cohort, gates, config)
    base = used_manifest(config.bundle.detector).sha256
    whole = digest(inputs.fingerprint(), _settings(config), base, out.name, command)
    if ledger.is_done("bundle", whole) and (out / MANIFEST).exists() and (out / CARD).exists():
        say(f"{out}: everything is done; nothing has changed since")
        return RetrainResult(read_manifest(out), None, folder) if main else None

    if main:
        done = ledger.run(
            "check",
            inputs.fingerprint(),
            lambda: open_inputs(cohort, gates, config, thorough=True, progress=slide_progress),
            [],
        )
        say(f"check: {len(inputs.cohort.slides)} slides" + ("" if done else " (done before)"))
        if inputs.cohort.layout.caution:
            say(inputs.cohort.layout.caution)
    with accelerator.main_process_first():
        stores = make_stores(inputs, config.data, folder, progress=slide_progress)
    say("patches: " + ", ".join(f"{len(v)} slides for {k}" for k, v in stores.items()))
    fitted = fit_stores(config, stores, folder, device=device, progress=progress)
    if not main:
        return None
    say(
        f"train: {len(fitted.state.history)} epochs, best mean validation AUROC "
        f"{fitted.state.best_auroc:.4f}; began from {fitted.state.start}"
    )
    return _finish(inputs, config, stores, fitted, out, folder, ledger, whole, device, say, command)


def _settings(config: RetrainConfig) -> dict[str, Any]:
    values = config.to_dict() | {"model": model_with_weights(config)}
    for key in ("workers", "checkpoint_steps"):
        values["fit"].pop(key)
    return values


def _finish(
    inputs: Inputs,
    config: RetrainConfig,
    stores: dict[str, list[Path]],
    fitted: FitResult,
    out: Path,
    folder: Path,
    ledger: Ledger,
    whole: str,
    device: str,
    say: Say,
    command: str,
) -> RetrainResult:
    """Calibrate, evaluate and write the bundle."""
    accelerator = make_accelerator(config.fit.precision, device)
    where, autocast = accelerator.device, AUTOCAST[accelerator.mixed_precision]
    hierarchy = config.bundle.hierarchy
    net = fitted.net.to(where)
    path = folder / CALIBRATION
    run = digest(fitted.state.fingerprint, fitted.state.best_epoch, hierarchy)

    def calibrate_now() -> None:
        val = open_split(stores, "val")
        logits = predict_stores(net, val, device=where, autocast=autocast)
        found = calibrate(
            logits,
            val.labels,
            inputs.panel,
            hierarchy=hierarchy,
            population=population_of(inputs, "val"),
        )
        write_calibration(path, found)

    done = ledger.run("calibrate", run, calibrate_now, [path])
    say("calibrate: on validation cells" + ("" if done else " (done before)"))
    calibrated = read_calibration(path)
    split = "test" if stores.get("test") else "val"
    if split == "val":
        say("there are no patients to test on: measured on the VALIDATION patients, optimistically")
    scorer = trained_scorer(out.name, net, inputs.panel, hierarchy, calibrated)
    predictions = scorer.predict(open_split(stores, split), device=where, autocast=autocast)
    evaluation = measure_predictions(
        scorer, predictions, cohort=inputs.cohort, replicates=config.bundle.bootstrap
    )
    write_evaluation(folder / split, scorer, predictions, evaluation, command=command)
    say(f"evaluate: {len(predictions.stores):,} cells, {folder / split / METRICS_JSON}")
    trained = Trained(
        net=fitted.net.cpu(),
        calibrated=calibrated,
        evaluation=evaluation,
        split=split,
        start=fitted.state.start,
        history=fitted.state.history,
        cells={name: len(open_split(stores, name)) for name in stores if stores[name]},
    )
    made: list[BundleManifest] = []
    ledger.run(
        "bundle",
        whole,
        lambda: made.append(make_bundle(out, inputs, config, trained, command=command)),
        [out / MANIFEST, out / CARD],
    )
    manifest = made[0] if made else read_manifest(out)
    say(f"bundle: {out}; use it with `lymphinfer predict SLIDE --bundle {shlex.quote(str(out))}`")
    return RetrainResult(manifest, evaluation, folder)
