"""What a training run starts from, checked as a whole before anything is computed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lymphinfer.bundles.composing import used_manifest
from lymphinfer.errors import BundleError, DataError
from lymphinfer.markers.hovernet import backbone_config, side_problem
from lymphinfer.markers.nucleus_encoder import NAME as NUCLEUS_ENCODER
from lymphinfer.markers.nucleus_graph import CONFIG as ENCODER_CONFIG
from lymphinfer.orion.check import check_cohort
from lymphinfer.orion.cohort import Cohort, scan_cohort
from lymphinfer.orion.dataset import PatchSettings, prepare_patches
from lymphinfer.orion.gates import Gates
from lymphinfer.orion.gates_file import read_gates
from lymphinfer.orion.labels import load_labelled
from lymphinfer.orion.splits import Splits, kfold_splits, make_splits, read_splits, write_splits
from lymphinfer.panel import Panel
from lymphinfer.slides.identity import file_identity
from lymphinfer.slides.pixel_size import MAX_MPP
from lymphinfer.training.calibrate import count_labels
from lymphinfer.training.config import DataConfig, RetrainConfig
from lymphinfer.training.data import StoreSet
from lymphinfer.training.start import untakeable

log = logging.getLogger(__name__)

SPLITS = "splits.toml"


@dataclass(frozen=True)
class Inputs:
    """A cohort with gates and splits, ready to be learned from.

    Attributes
    ----------
    cohort : Cohort
        Its slides that belong to a split.
    gates : Gates
    splits : Splits
    panel : Panel
    simulated : bool
        Its slides have a truth table, or the configuration says so.
    """

    cohort: Cohort
    gates: Gates
    splits: Splits
    panel: Panel
    simulated: bool

    def fingerprint(self) -> str:
        """Hash of files, gates and splits."""
        plain = {
            "files": [[file_identity(s.he), file_identity(s.cells)] for s in self.cohort.slides],
            "gates": self.gates.sha256(),
            "splits": asdict(self.splits),
            "panel": self.panel.names,
        }
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def slides_of(self, split: str) -> tuple[str, ...]:
        """Folders of a split's slides."""
        wanted = getattr(self.splits, split)
        return tuple(s.folder for s in self.cohort.slides if s.patient in wanted)


def open_inputs(
    root: Path,
    gates_path: Path,
    config: RetrainConfig,
    *,
    thorough: bool = False,
    detector: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Inputs:
    """Open cohort, gates and splits, and check them and the configuration together.

    Parameters
    ----------
    root : Path
        The cohort's folder.
    gates_path : Path
        ``gates.toml``.
    config : RetrainConfig
    thorough : bool
        Also read every cell table whole and every image's structure (`check_cohort`).
    detector : bool
        A bundle will be made, so the one whose detector it copies must be there.
    progress : callable, optional
        Of the thorough check: called with a slide's name, slides done and slides in all.

    Returns
    -------
    Inputs

    Raises
    ------
    DataError
        Listing every problem that was found.
    """
    cohort, problems = scan_cohort(root)
    if thorough:
        report = check_cohort(root, progress)
        problems = list(report.errors)
        for warning in report.warnings:
            log.warning("%s", warning)
    splits = None
    if cohort.slides:
        try:
            splits = choose_splits(cohort, config.data)
        except DataError as error:
            problems.append(str(error))
    named = set(splits.patients if splits else cohort.patients)
    chosen = tuple(s for s in cohort.slides if s.patient in named)
    cohort = Cohort(cohort.root, chosen, cohort.layout)
    gates = panel = None
    try:
        panel = cohort.layout.panel_named(config.data.panel)
        gates = read_gates(gates_path, cohort.folders, panel.names)
    except DataError as error:
        problems.append(str(error))
    problems += network_problems(config)
    if detector:
        problems += detector_problems(config)
    if problems or splits is None or gates is None or panel is None:
        raise DataError("\n".join(problems))
    simulated = config.bundle.simulated or any(s.truth for s in cohort.slides)
    return Inputs(cohort, gates, splits, panel, simulated)


def choose_splits(cohort: Cohort, data: DataConfig) -> Splits:
    """Splits from a file, a fold of a cross-validation, or drawn 25 : 7 : 9."""
    if data.splits:
        return read_splits(Path(data.splits), cohort)
    if data.folds:
        return kfold_splits(cohort, data.folds, data.seed)[data.fold]
    return make_splits(cohort, data.seed)


def network_problems(config: RetrainConfig) -> list[str]:
    """Find what in a network's configuration cannot work, before hours are spent on it."""
    import timm

    problems = []
    model, px = config.model, config.data.patch_px
    own = ("hovernet", "phikon", "phikon-resize", NUCLEUS_ENCODER)
    hovernet = backbone_config(model.backbone)
    if model.backbone not in own and hovernet is None and not timm.is_model(model.backbone):
        problems.append(
            f"backbone {model.backbone!r} is neither one of {', '.join(own)} nor known to timm "
            f"{timm.__version__}"
        )
    elif model.backbone not in own and hovernet is None:
        problems += [problem for problem in (untakeable(model.backbone, px),) if problem]
    if (problem := side_problem(model.backbone, px)) is not None:
        problems.append(problem)
    if config.bundle.dense and config.data.mpp > MAX_MPP:
        problems.append(
            f"dense needs patches of at most {MAX_MPP:g} µm/px, not {config.data.mpp:g}"
        )
    if hovernet is None and config.bundle.dense:
        problems.append(f"dense is for HoVer-Net, not for backbone {model.backbone}")
    if hovernet is None and model.freeze and model.backbone != NUCLEUS_ENCODER:
        problems.append(
            f"freeze is for HoVer-Net and {NUCLEUS_ENCODER}, not for backbone {model.backbone}"
        )
    if model.backbone == NUCLEUS_ENCODER and px % ENCODER_CONFIG.stride:
        problems.append(
            f"backbone {model.backbone} needs a patch_px that {ENCODER_CONFIG.stride} divides, "
            f"not {px}"
        )
    if model.backbone == "phikon" and px % 16:
        problems.append(
            f"backbone phikon needs a patch_px that 16 divides, not {px}; phikon-resize takes any"
        )
    if model.backbone_weights and not Path(model.backbone_weights).is_file():
        problems.append(f"backbone_weights {model.backbone_weights}: no such file")
    return problems


def detector_problems(config: RetrainConfig) -> list[str]:
    """Find whether the bundle whose detector is to be copied cannot be used."""
    try:
        used_manifest(config.bundle.detector)
    except BundleError as error:
        return [f"[bundle] detector: {error}"]
    return []


def make_stores(
    inputs: Inputs,
    data: DataConfig,
    work: Path,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Cut the patches of every split; what is there already is kept.

    Parameters
    ----------
    inputs : Inputs
    data : DataConfig
    work : Path
        Stores go to ``patches-<side>px/``.
    progress : callable, optional
        Called with a slide's name, its patches done, and its patches in all.

    Returns
    -------
    dict of str to list of Path
        Stores by split.

    Raises
    ------
    LymphinferError
        As `prepare_patches` does.
    """
    settings = PatchSettings(data.patch_px, data.mpp, data.cells_per_patient, data.seed)
    write_splits(work / SPLITS, inputs.splits)
    stores = prepare_patches(
        inputs.cohort,
        inputs.gates,
        inputs.splits,
        work / f"patches-{data.patch_px}px",
        inputs.panel,
        settings,
        threads=4,
        progress=progress,
    )
    return {split: [s.path for s in found if len(s)] for split, found in stores.items()}


def open_split(stores: dict[str, list[Path]], split: str) -> StoreSet:
    """Open the stores of a split; DataError if it has none."""
    if not stores.get(split):
        raise DataError(f"no cell was sampled for {split}: see the splits and the gates")
    return StoreSet(stores[split])


def population_of(inputs: Inputs, split: str) -> Counter[tuple[int, ...]]:
    """Count all gated cells of a split's slides by their row of labels."""
    total: Counter[tuple[int, ...]] = Counter()
    wanted = inputs.slides_of(split)
    for slide in inputs.cohort.slides:
        if slide.folder in wanted:
            gates = inputs.gates.slides[slide.folder]
            form = slide.table_format
            _, labelled = load_labelled(slide.cells, gates, inputs.panel, None, form)
            total += count_labels(labelled.labels)
    return total
