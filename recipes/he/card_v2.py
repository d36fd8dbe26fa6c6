r"""Write he-v2's card from what was measured.

python benchmarks/orion.py --slide DIR/orion-crc01 --columns 4,8,16 --tiles DIR/orion-c01-tiles \
    --bundle weights/he-v2 --precision fp32 --json weights/he-v2/orion.json
python benchmarks/quality.py --data DIR --bundle weights/he-v2 --precision fp32 \
    --json weights/he-v2/quality.json
python -m recipes.he.card_v2 [--weights weights]

``validation.json`` is the recipe's own (`recipes.he.bundle`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

from recipes.he.crc01 import MARKERS, PARENTS
from recipes.he.int8_card import in_bytes

CARD = Template(
    """# he-v2

StarDist nuclei on H&E, with a probability for CD45, CD3e, CD4 and CD8a, each learned on the marker's
own stain. Version $version, Apache-2.0.

## Intended use

Research on H&E-stained tissue sections: outlines of nuclei, and densities of leukocytes and T cells
over an area. For people who can look at the overlay and judge it.

**Not for diagnosis**, nor for any decision about a patient.

**One patient.** The four markers were learned on one section of one colorectal cancer (ORION CRC01).
That they can be read off H&E there says little about other patients and other organs: only CD45 was
tried on other laboratories, against annotations on H&E.

## What stands behind each marker

| marker | evidence | the far scale alone, columns 4, 8, 16 of the slide (held out) | whole product on tiles in those columns | called? |
| --- | --- | --- | --- | --- |
$markers

AUROC with 95 % interval, over blocks of 1.3 mm or tiles; nuclei between the gates are left out.

$given

*CD45 in the stain* is on all leukocytes: macrophages, plasma cells and granulocytes too. Where sets of
other laboratories name only lymphocytes or "inflammatory" nuclei, the stain was taken to be right.

### Operating points

Thresholds on the final probability: precision / recall by the three ranges on all nuclei of columns 4, 8 and
16, which have the slide's real frequencies, by the far scale alone (with the near scale CD45 is better). `balanced`
is where the mean over that set, the cross-validated C01 tiles and, for CD45, CoNSeP's held-out training images and
BRCA-M2C's training images of one hospital (A8) of the lesser of precision and recall is highest, with a precision of
.77 at least on the last two.

| marker | precise | balanced | sensitive |
| --- | --- | --- | --- |
$points

A marker is called where some threshold has a precision of one half at a recall of a third or more;
otherwise it is only *expected*. Expected numbers, the sum of probabilities, are what densities are made of.

### Expected against stained

Far scale alone, all nuclei of columns 4, 8 and 16, expected over stained by one gate a marker:
$densities. Between tiles of one slide that ratio varies much more, and between patients it is not known.

## Networks

- Detector: that of `he-v1-fast`, unchanged: outlines, F1 and PQ are the same.
- Near: the 128 filters that the detector's marker head reads (encoder, decoder, what outlines are measured
  from, 16 µm around), learned again, averaged over 17 points of each nucleus. Nuclei of another detector
  are read by this network beside it.
- Far: a residual U-Net of $far_parameters parameters at 1.3 µm/px that sees 166 µm around a nucleus, once a
  shard from the slide's pyramid; it says 16 channels of the stain, and each T-cell marker given its parent.
- Head: CD45 from both; each T-cell marker given its parent from the far scale alone, since what the near scale
  had learned of them on the tiles did not hold on other tiles. A scale that is missing is replaced by a learned
  value.
- Stored as float16 safetensors.

## Data

| set | use | licence |
| --- | --- | --- |
| ORION CRC01 (Lin et al. 2023), H&E and IF of one section at 1.3 µm/px, 11 of 14 columns of tiles | far scale: 568,000 nuclei with 16 channels | MIT |
| the same, columns 4, 8, 16 | validation: calibration of the far scale, expected densities | MIT |
| 48 H&E tiles of that slide at 0.5 µm/px | head and near scale: 1,969 of our nuclei matched to stained ones; cross-validated by tile for every number and threshold | MIT |
| BRCA-M2C, training part (75 breast images of many hospitals) | CD45: lymphocytes against epithelium and stroma, near and far; images of hospital A8 held out for decisions | BSD-3-Clause |
| CoNSeP, training part (27 colorectal images) | CD45: inflammatory against other nuclei, near and far; train_8, 16, 22 held out for decisions | Apache-2.0 |
| NuInsSeg, organs that say it | CD45 near | CC BY 4.0 |
| CoNSeP test, BRCA-M2C val, NuCLS | test only; nothing was decided on them | Apache-2.0, BSD-3-Clause, CC0 |

Labels: three ranges a marker of the mean IF in a disc around the nucleus, 0-255 in the authors' display
window (negative up to 3, 1.5, 0.5, 1.5; positive from 25, 15, 5, 15 for CD45, CD3e, CD4, CD8a); between them
0.3 of the weight and a soft label. At 1.3 µm/px a membrane marker spills over to neighbours, which caps every
AUROC here. The gates give back the slide's published fractions.

$training

## Metrics

By `python benchmarks/orion.py --slide DIR/orion-crc01 --columns 4,8,16 --tiles DIR/orion-c01-tiles --bundle he-v2`
and `python benchmarks/quality.py --data DIR --bundle he-v2`, both with `--precision fp32`, $machine.

Far scale alone, $far_nuclei nuclei of columns 4, 8, 16:

$far_table

C01 tiles, whole product with the slide around them. **Of the 48 tiles the head has seen all and the far network
those outside columns 4, 8 and 16: the numbers to believe are the cross-validated ones below.**

$tiles_table

C01 tiles, each told by a head that had not seen it ($cv_far):

$cv_table

CD45 on other laboratories, against annotations on H&E:

| on | nuclei | AUROC | average precision | balanced accuracy |
| --- | --- | --- | --- | --- |
$others

$calls

## Limits

- One patient, one section, one scanner behind the stain. T-cell markers were tried on nothing else.
- CD8a given CD3e is little better than chance ($cd8a): whether a T cell is CD8a positive is mostly a matter of
  where it lies. Do not read CD4 to CD8a ratios of single cells.
- On small pictures (below some 300 µm) the far scale sees a mirror image of the picture instead of its surroundings.
- Detector: as the card of `he-v1-fast` says; dense clusters lose nuclei.
- Skin: on CMU-1 the dermal infiltrate is called, and some keratinocytes of the pigmented epidermis with it, more of
  them than by 0.2.0, whose `balanced` threshold of CD45 was higher, and basal keratinocytes (0.3.1 calls 240 nuclei CD45
  there, 0.3.0 called 216). Look at the overlay before using a count.
- Other stains, frozen sections, cytology: not tested.

## Making it again

```sh
bash recipes/he/markers.sh DIR RUN weights
python -m recipes.he.student_data --data DIR --out student.npz
python -m recipes.he.lean_train --data DIR --crops student.npz --out RUN/lean
python -m recipes.he.context_train --data DIR --crops student.npz --lean RUN/lean/lean.safetensors \\
    --out RUN/lean/context.safetensors
python -m recipes.he.int8 --data DIR --bundle weights/he-v2 --lean RUN/lean/context.safetensors
python -m recipes.he.far_int8 --data DIR --bundle weights/he-v2
```
"""
)


def number(value: float | None, digits: int = 3) -> str:
    """A rate for a table."""
    return "" if value is None else f"{value:.{digits}f}"


def with_interval(row: dict[str, Any], key: str = "auroc") -> str:
    """A rate and its 95 % interval."""
    spread = row.get(f"{key}_interval")
    return number(row.get(key)) + (f" ({spread[0]:.3f}-{spread[1]:.3f})" if spread else "")


def table(result: dict[str, Any]) -> str:
    """Rows of a part of ``orion.json``."""
    lines = [
        "| marker | AUROC | average precision | balanced accuracy | nuclei (positive) | "
        "expected / stained |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in MARKERS:
        row = result[name]
        lines.append(
            f"| {name} | {with_interval(row)} | {with_interval(row, 'average_precision')} | "
            f"{number(row['balanced_accuracy'])} | {row['n']:,} ({row['positive']:,}) | "
            f"{number(row['expected_over_observed'], 2)} |"
        )
    for child, parent in PARENTS.items():
        row = result[f"{child} given {parent}"]
        lines.append(
            f"| {child} given {parent} | {with_interval(row)} | | | "
            f"{row['n']:,} ({row['positive']:,}) | |"
        )
    return "\n".join(lines)


def card(folder: Path, far_parameters: int, training: str) -> str:
    """The card's text."""
    orion, quality, validation = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("orion", "quality", "validation")
    )
    far, tiles = orion["far"], orion["tiles"]
    held = orion["tiles_in_columns"]
    markers, points = [], []
    for name in MARKERS:
        own = validation["markers"][name]["points"]
        called = f"from {own['balanced']['threshold']:.2f} (balanced)" if own else "never"
        markers.append(
            f"| {name} | stain, one patient | {with_interval(far[name])} | "
            f"{with_interval(held[name])} | {called} |"
        )
        if own:
            cells = [
                f"from {p['threshold']:.2f}: {p['precision']:.2f} / {p['recall']:.2f}"
                for p in own.values()
            ]
            points.append(f"| {name} | {' | '.join(cells)} |")
        else:
            points.append(f"| {name} | never called | never called | never called |")
    given = "; ".join(
        f"{child} given {parent} {with_interval(far[f'{child} given {parent}'])}"
        for child, parent in PARENTS.items()
    )
    # The markers with the bundle's calibration, which a product down the lineage depends on.
    cv_rows = ["| marker | AUROC |", "| --- | --- |"]
    for name in MARKERS:
        found, *spread = validation["markers"][name]["auroc"]
        row = {"auroc": found, "auroc_interval": spread}
        cv_rows.append(f"| {name} | {with_interval(row)} |")
    cv_rows += [
        f"| {name} | {number(value)} |"
        for name, value in validation["tiles"]["c01"].items()
        if " given " in name
    ]
    others = []
    brca = quality.get("brca_m2c_val", {})
    for label, row in (
        ("CoNSeP test, annotated nuclei", quality["consep_test"]["cd45"]),
        ("CoNSeP test, own detections", quality["consep_test"]["cd45_own_detections"]),
        ("BRCA-M2C val, dots", brca.get("points")),
        ("BRCA-M2C val, own detections", brca.get("own_detections")),
        ("NuCLS, annotated points", quality.get("nucls", {}).get("points")),
        ("NuCLS, own detections", quality.get("nucls", {}).get("own_detections")),
    ):
        if row:
            others.append(
                f"| {label} | {row['nuclei']:,} ({row['positive']:,} positive) | "
                f"{with_interval(row)} | {with_interval(row, 'average_precision')} | "
                f"{with_interval(row, 'balanced_accuracy')} |"
            )
    calls = ""
    if brca:
        rates = brca["calls"]
        calls = (
            f"`balanced` calls on BRCA-M2C val (breast): precision {rates['precision']:.2f}, recall "
            f"{rates['recall']:.2f} among dotted nuclei that were found."
        )
    densities = ", ".join(
        f"{name} {number(far[name]['expected_over_observed'], 2)}" for name in MARKERS
    )
    measured = orion["measured_on"]
    header = (folder / "bundle.toml").read_text().split('version = "')[1].split('"')[0]
    return CARD.substitute(
        version=header,
        markers="\n".join(markers),
        given=f"Far scale alone, given the parent: {given}.",
        points="\n".join(points),
        densities=densities,
        far_parameters=f"{far_parameters / 1e6:.1f} M",
        training=training,
        machine=f"{measured['machine']}, {measured['precision']} by {measured['runtime']}",
        far_nuclei=f"{far['nuclei']:,}",
        far_table=table(far),
        tiles_table=table(tiles),
        cv_table="\n".join(cv_rows),
        cv_far=validation["cv_far"],
        others="\n".join(others),
        calls=calls,
        cd8a=with_interval(far["CD8a given CD3e"]),
    ).replace("## Limits", in_bytes(folder) + "## Limits", 1)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    arguments = parser.parse_args()
    folder = arguments.weights / "he-v2"
    from safetensors import safe_open

    count = 0
    with safe_open(folder / "far.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - no mapping
            size = 1
            for side in weights.get_slice(name).get_shape():
                size *= side
            count += size
    training = (folder / "training.md").read_text().strip()
    (folder / "CARD.md").write_text(card(folder, count, training) + "\n")


if __name__ == "__main__":
    main()
