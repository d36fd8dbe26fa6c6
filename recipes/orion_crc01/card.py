"""The card of a bundle in the paper's form that was learned on CRC01."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.orion.labels import CURATION_RULE
from lymphinfer.training.intervals import MarkerMetrics
from recipes.he.crc01 import GATES
from recipes.orion_crc01.columns import TEST_COLUMNS, VAL_COLUMNS
from recipes.orion_crc01.plan import INPUT_PX, PRETRAINED_ON

_INTENDED = """\
To compare: the form of the paper's classifier (one backbone, a head a marker, weighted BCE), small,
on real pixels. **For work take `he-v2`**, which sees farther around a nucleus and ranks better on
the same columns. Research only; **not for diagnosis**, nor for any decision about a patient."""

_LIMITS = """\
- **One patient**, one section, one scanner. It says that the markers can be read off this H&E; it
  says nothing of other patients, organs or laboratories, none of which were tried.
- Learned at 1.3 µm/px: a patch is a quarter as sharp as the paper's. A slide is brought down to it.
- Values of the stain are 8 bits in the authors' display window; at 1.3 µm/px a membrane marker
  spills over to neighbours, and CD4's gate is 5 of 255.
- Nuclei in training and in every number here are the cell table's; on a slide they are the
  detector's, which misses some and invents some.
- Intervals resample tiles of 1.3 mm of one slide: far too narrow for other patients.
- A short training from random weights: not the best that the form can do."""


def card(
    manifest: BundleManifest,
    row: Mapping[str, Any],
    metrics: Sequence[MarkerMetrics],
    test_cells: int,
) -> str:
    """Write the card as Markdown.

    Parameters
    ----------
    manifest : BundleManifest
    row : mapping
        Of the run.
    metrics : sequence of MarkerMetrics
        On the test cells, as a user sees them: calibrated and coherent.
    test_cells : int

    Returns
    -------
    str
    """
    test, val = (", ".join(map(str, columns)) for columns in (TEST_COLUMNS, VAL_COLUMNS))
    first, fit = row["first"], row["fits"][0]
    begun = "random weights"
    if first is not None and first["steps"] > 1:
        begun += (
            f", then {first['patches']:,} patches told apart by {', '.join(PRETRAINED_ON)} "
            "(no lymphocyte's)"
        )
    gates = "; ".join(
        f"{m.marker} up to {GATES[m.marker][0]:g}, from {GATES[m.marker][1]:g}" for m in metrics
    )
    parts = [
        f"# {manifest.name}",
        f"{manifest.summary}. Version {manifest.version}, {manifest.licence}.",
        "## Intended use",
        _INTENDED,
        "## Evidence",
        "\n".join(f"- **{m.name}**: {m.statement}" for m in manifest.markers),
        "## Metrics",
        f"{test_cells:,} random nuclei of tile columns {test}, which were not trained on; 95 % "
        "intervals by resampling tiles:",
        _metrics(metrics),
        f"Operating points were chosen on columns {val}; precision / recall on columns {test}:",
        _points(manifest),
        "## Data",
        "ORION's slide CRC01 (Lin et al. 2023, Nature Cancer, doi 10.1038/s43018-023-00576-1), as "
        "its authors rendered it for their viewer: H&E and stains of the same section, 1.3 µm/px, "
        "8 bits. MIT licence, (c) 2020 Laboratory of Systems Pharmacology, Harvard Medical School.",
        f"Labels by gates on the mean of the stain over a nucleus, negative and positive (of 255): "
        f"{gates}; between them unlabelled. {CURATION_RULE.capitalize()}. "
        f"{row['train_cells']:,} nuclei of the other columns were drawn by the paper's rule: half "
        "positive for no marker, of the others a quarter or more for each; none whose patch would "
        "reach into a held-out column.",
        "## Training",
        f"`{row['backbone']}`, a head a marker (MLP, 512 hidden), {row['parameters'] / 1e6:.1f} "
        f"million weights, from {begun}. Patches of {row['patch_px']} px at 1.3 µm/px "
        f"({row['patch_um']:.0f} µm), enlarged to {INPUT_PX} px in the network; turned, mirrored, "
        "two in three with another stain. BCE weighted by the inverse positive ratio, AdamW, "
        f"{fit['patches']:,} patches of {row['batch']} a step in {fit['seconds']:.0f} s on a "
        f"{row['device']}.",
        f"Calibrated by Platt scaling on columns {val}, at their real frequencies.",
        "## Detector",
        f"None of its own: nuclei are found by the detector of `{manifest.detector['bundle']}`; "
        "see its card.",
        "## Limits",
        _LIMITS,
        "## Made by",
        "`recipes/orion_crc01/run.sh`, or its steps: `python -m recipes.orion_crc01.table1_gpu`, "
        "then `python -m recipes.orion_crc01.bundle`.",
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(metrics: Sequence[MarkerMetrics]) -> str:
    lines = [
        "| marker | positive / negative | AUROC | average precision | calibration error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for m in metrics:
        lines.append(
            f"| {m.marker} | {m.n_positive:,} / {m.n_negative:,} | {m.auroc} | "
            f"{m.average_precision} | {m.calibration_error} |"
        )
    return "\n".join(lines)


def _points(manifest: BundleManifest) -> str:
    names = ("precise", "balanced", "sensitive")
    lines = ["| marker | " + " | ".join(names) + " |", "| --- | --- | --- | --- |"]
    for m in manifest.markers:
        cells = []
        for name in names:
            point = m.points.get(name)
            told = "never called"
            if point is not None:
                told = f"from {point.threshold:.2f}: {point.precision:.2f} / {point.recall:.2f}"
            cells.append(told)
        lines.append(f"| {m.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
