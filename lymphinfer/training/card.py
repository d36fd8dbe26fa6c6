"""The card of a trained bundle, under the usual headings of model cards."""

from __future__ import annotations

from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.orion.labels import CURATION_RULE
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.inputs import Inputs
from lymphinfer.training.results import metrics_table, slide_table
from lymphinfer.training.trained import Trained

_INTENDED = """\
Research on H&E whole-slide images: maps and counts of nuclei with their probability of carrying \
each marker. **Not for diagnosis**, and not for decisions about a single patient."""

_SIMULATED = """\
**Every label here was simulated.** The numbers show that the software works; they say nothing of \
tissue. On a slide that is not simulated the probabilities are meaningless."""

_STAIN = """\
*Stain*: the labels are the marker's own immunofluorescence, by gates, on the section that the H&E \
shows. It holds for tissue like that of these patients."""

_ONE = """\
*Stain*: the labels are the marker's own immunofluorescence, by gates, on the section that the H&E \
shows, of **one patient**. It says that a marker can be read off this H&E; it says nothing of \
other patients. Intervals are over parts of one slide and far too narrow for others."""

_LIMITS = """\
- A probability says what a nucleus like this one turned out to be on the training slides; it is \
no stain. Counts over areas are surer than any single cell.
- Other organs, scanners, stains and section thicknesses than the training slides' shift \
probabilities and thresholds: test on slides of your own first.
- Labels come from gates on the fluorescence of cells that overlap in a section: spill-over and \
gating errors are in the labels, and in the numbers above.
- Probabilities were calibrated at the frequencies of the validation slides; where a marker is \
much rarer or commoner they are off by that factor.
- Nuclei in training are the cell table's; on a new slide they are the detector's, which misses \
some and invents some."""


def write_card(
    manifest: BundleManifest,
    base: BundleManifest,
    inputs: Inputs,
    config: RetrainConfig,
    trained: Trained,
    *,
    command: str,
) -> str:
    """Write the card as Markdown.

    Parameters
    ----------
    manifest : BundleManifest
        Of the bundle.
    base : BundleManifest
        Of the bundle whose detector was copied.
    inputs : Inputs
    config : RetrainConfig
    trained : Trained
    command : str

    Returns
    -------
    str
    """
    fit, model = config.fit, config.model
    one = inputs.cohort.layout.file.one_patient
    parts = [
        f"# {manifest.name}",
        manifest.summary + ".",
        "## Intended use",
        _INTENDED,
        *([_SIMULATED] if inputs.simulated else []),
        "## Evidence",
        "\n".join(f"- **{m.name}**: {m.statement}" for m in manifest.markers),
        *([] if inputs.simulated else [_ONE if one else _STAIN]),
        "## Data",
        f"{_cohort(inputs)} Labels are gated immunofluorescence; {CURATION_RULE}. Gates sha256 "
        f"`{inputs.gates.sha256()}`.",
        _splits_table(inputs, trained),
        "## Training",
        f"{_network(config)}, from {trained.start}. "
        f"{'Weighted' if fit.weighted else 'Plain'} binary cross-entropy, unknown labels without "
        f"loss; AdamW {fit.learning_rate:g}, weight decay {fit.weight_decay:g}, "
        f"{fit.batch_size} x {fit.accumulation} patches a step, {fit.schedule} rate; stopped after "
        f"{len(trained.history)} epochs, best of them {_best(trained)}. Seed {fit.seed}. "
        f"Patches of {config.data.patch_px} px at {config.data.mpp:g} µm/px."
        + (f" Backbone weights: `{model.backbone_weights}`." if model.backbone_weights else ""),
        "Calibrated by Platt scaling on validation cells weighted to the frequencies of their "
        "slides; thresholds have the highest balanced accuracy there.",
        "## Metrics",
        f"On the {'held-out test' if trained.split == 'test' else 'VALIDATION'} patients"
        + ("" if trained.split == "test" else ", since there are none to test on (optimistic)")
        + ", 95 % intervals by resampling patients:",
        metrics_table(trained.evaluation).strip(),
        slide_table(trained.evaluation).strip(),
        "## Limits",
        _LIMITS,
        "## Detector",
        f"Copied from `{base.name}` {base.version} (bundle.toml sha256 `{base.sha256[:12]}…`); see "
        "its card.",
        "## Made by",
        f"`{command}`",
    ]
    return "\n\n".join(parts) + "\n"


def _cohort(inputs: Inputs) -> str:
    """What the cohort is, in words that do not flatter."""
    layout, slides = inputs.cohort.layout, len(inputs.cohort.slides)
    name, patients = f"Cohort `{inputs.cohort.root.name}`", len(inputs.cohort.patients)
    about = f" {layout.file.about.rstrip('.')}." if layout.file.about else ""
    if layout.is_orion:
        return f"{name}: {slides} slides of {patients} patients, in the layout of {about[1:]}"
    if layout.file.one_patient:
        return (
            f"{name}: **one patient**. {slides} parts of the slide stand in for patients: what "
            f"is said of patients below is said of them.{about}"
        )
    return f"{name}: {slides} slides of {patients} patients.{about}"


def _network(config: RetrainConfig) -> str:
    model = config.model
    kind = "a network a marker" if model.independent else "one backbone with a head a marker"
    return f"`{model.backbone}`, {kind} (MLP, {model.hidden} hidden)"


def _best(trained: Trained) -> str:
    best = max(trained.history, key=lambda row: float(row["auroc"]))
    return f"number {best['epoch'] + 1} (mean validation AUROC {best['auroc']:.3f})"


def _splits_table(inputs: Inputs, trained: Trained) -> str:
    lines = ["| split | patients | slides | cells |", "| --- | --- | --- | --- |"]
    for split in ("train", "val", "test"):
        patients = ", ".join(getattr(inputs.splits, split)) or "-"
        slides = ", ".join(inputs.slides_of(split)) or "-"
        lines.append(f"| {split} | {patients} | {slides} | {trained.cells.get(split, 0):,} |")
    return "\n".join(lines)
