"""Write the cards of he-v1 and he-v1-fast from what quality.py measured.

python benchmarks/quality.py --data DIR --bundle weights/he-v1 --json weights/he-v1/quality.json
python -m recipes.he.cards [--weights weights]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

from recipes.he.int8_card import in_bytes

CARD = Template(
    """# $name

StarDist nuclei on H&E, with a probability for CD45, CD3e, CD4 and CD8a. Version $version,
Apache-2.0.

## Intended use

Research on H&E-stained tissue sections: outlines of nuclei, which of them look like leukocytes, and
the density of leukocytes over an area. For people who can look at the overlay and judge it.

**Not for diagnosis**, nor for any decision about a patient. Not for choosing single cells as CD3e,
CD4 or CD8a positive: nothing in this bundle has learned to see these.

## What stands behind each marker

| marker | evidence | what the probability is | called? |
| --- | --- | --- | --- |
| CD45 | morphology | $how; trained on the *inflammatory* class of CoNSeP, which pathologists drew on H&E, on organs of NuInsSeg without leukocytes and on TNBC as earlier versions read it; no stain for CD45 was seen | from 0.5 |
| CD3e | base-rate | P(CD45) x 0.38 | never |
| CD4 | base-rate | P(CD3e) x 0.61 | never |
| CD8a | base-rate | P(CD3e) x 0.46 | never |

*Morphology*: an annotation on H&E stands in for the stain. Tried by `he-v1-fast` on real tissue against the real
stain, the answer is another one than the tests below give:

| tried on (never trained on) | by | result |
| --- | --- | --- |
| ORION, slide CRC01: 60 tiles of **one patient**, IF of the same section, nuclei between the gates left out | CD45's own stain | CD45 AUROC **0.78**, 0.94 on eleven of the tiles and 0.77 on twelve others; CD3e 0.75, CD4 0.76, CD8a 0.77, since base rates follow CD45 |
| CRCHisto (100 images, another colorectal laboratory, 20x) | annotation on H&E | AUROC 0.916; calls: precision 0.91, **recall 0.48** |
| MoNuSAC test (69 images) | annotation on H&E | AUROC 0.975; calls: precision 0.97, recall 0.86 |
| BRCA-M2C test (30 images, breast, many hospitals) | annotation on H&E | AUROC 0.925; calls: **precision 0.57**, recall 0.65 |
$sibling
CD45 in the stain is also on macrophages, plasma cells and granulocytes, of which an annotator's *inflammatory* class
has some and not others. So what is called here is "looks like a leukocyte", and neither precision nor recall
carries over to another laboratory. There are no operating points: the threshold of 0.5 was not chosen at
the stain's frequency.

The base rates are means over the 40 ORION slides (colorectal cancer; Lin et al. 2023, Nature
Cancer) of each marker's published positive fraction over its parent's. From the 5th to the 95th
percentile of the slides they run .16-.60 (CD3e), .33-.83 (CD4) and .22-.76 (CD8a): an expected
count on one slide can be off by a factor of two for this reason alone, and tissue other than
colorectal cancer has other shares.

## Networks

- Detector: star-convex polygons (StarDist; grid 2, 32 rays) from a residual encoder with three
  blocks a level and a U-Net decoder, 4.9 M parameters, at 0.325 µm/px, trained from random weights
  together with a first dense leukocyte head (Muon for the convolutions, AdamW for the last layers).
  Each ray is measured again at 0.3 and 0.6 of its length.
- Markers: $network
- Stored as float16 safetensors.

## Data

| set | use | licence |
| --- | --- | --- |
| CoNSeP, training part (27 colorectal images, Graham et al. 2019) | 24 images in four rounds, train_8, 16, 22 held out; all 27 since, and for the marker heads | Apache-2.0 |
| TNBC (50 breast images, Naylor et al. 2018) | detector; in the eighth round and for the marker head with leukocyte labels by versions 0.4.0 and 0.5.0 (below); patients 10 and 11 held out | CC BY 4.0 |
| NuInsSeg (222 images of 31 human and mouse organs, Mahbod et al. 2024) | detector, touching nuclei cut apart by watershed; leukocyte labels by organ for some (below); the last 22 held out | CC BY 4.0 |
| CoNSeP, test part (14 images) | test only | Apache-2.0 |
| NuCLS (15 breast crops, Amgad et al. 2022) | test only | CC0 |

NuInsSeg states no pixel size. Its lymphocytes measure 7.6 µm at the 0.25 µm/px assumed at first, those of
CoNSeP and TNBC 3.6 to 4.2: the rounds from the fourth on take 0.16. Version 0.3.0 called
15 % of the nuclei of held-out spleen and thymus. Labels by organ: all nuclei of
12 images of spleen and tonsil are leukocytes, none are in some 70 images of squamous epithelium, salivary
gland, placenta, brain, muscle, pancreas and testis. The organs were read off the images, and a few labels
are wrong: the loss takes 1 to 2 % of the negative and 7 to 10 % of the positive labels for wrong.

The detector learned in eight rounds, its marker head after them. Seven on CPU cores led to version 0.5.0: 3,700 steps with mild changes of
stain and scale; 4,000 with strong ones and an overlap loss; 1,800 with changes of contrast and sharpening,
after the first two had missed the black nuclei of an overstained, sharpened slide of another laboratory
(CMU-1); 3,000 with NuInsSeg's other pixel size and labels by organ (salivary gland and placenta came one
round later); 2,500 and 1,500 with all 27 training images of CoNSeP and more epithelium, the second of these
with mild changes; 2,500 with a fifth of the lymphoid tissue and epithelium in two sizes. Each from the second
to the sixth ends in an average of the weights before it and within it; 0.4.0 was 0.6 of the third and 0.4 of
the sixth, the seventh began from half of each of these two, 0.5.0 was 0.6 of 0.4.0 and 0.4 of the seventh.

The eighth, 3,148 steps of 32 crops instead of 8, on a GPU (eight minutes of an H200 that also did other work,
most of them spent waiting for crops), began from 0.5.0, which called more than half of the nuclei of
CMU-1's pigmented epidermis. No training image has melanin or cytoplasm as dense: a third of its crops got brown grains
around nuclei that are no leukocytes, a third a veil of haematoxylin and eosin, whatever the nuclei. TNBC was
labelled by 0.4.0 and 0.5.0 where their mean over eight views was below 0.1 or above 0.85 (2,071 and 231 of
3,484 nuclei). **CMU-1 is therefore no test of these crops: they were made with its false calls in sight**; none
of its pixels was trained on. The detector is 0.2 of the third, 0.2 of the seventh and 0.6 of the eighth round.

The marker head was learned last, on its frozen maps: one hidden layer of 128 units that reads the encoder's and
the decoder's maps, what outlines are measured from, and the mean over 16 µm around, at five points of each of
124,000 nuclei: CoNSeP's training images and seven changed copies of each (mild changes of stain and optics,
melanin in 35 % of them and a veil in 20 %), and, together a tenth of their weight, TNBC as labelled above and a
quarter of NuInsSeg's organs without leukocytes. It takes 2 % of the negative and 4 % of the positive labels for
wrong. Networks whose head was trained with the detector called 34 or more of some 134 nuclei in CMU-1's pigmented
field, or had an AUROC below 0.96 on CoNSeP test; heads that read the encoder's maps as well have 0.964 to 0.967
there and call 6 to 18. Which of them to keep was chosen with the test images and CMU-1 in sight.

The patches of `he-v1` show less than the detector has seen, and a border: on them the same weights gave an AUROC
of 0.957 instead of 0.967, and a head learned on them no more. So encoder and decoder went on for 654 steps of 64
of 41,881 patches (CoNSeP, TNBC and NuInsSeg, with and without label) towards what they read at the same place from
the whole image; the head was learned on that like the other one.

Shares, probability threshold, overlap and the points at which rays are measured again were chosen on held-out
images, CoNSeP's up to the fourth round; thresholds above 0.55 were not tried, since they lose nuclei of slides
that look otherwise. The test images were scored many times on the way, and some decisions were taken with their
results in sight: which of some thirty averages to keep, in 0.4.0, 0.5.0, 0.6.0 and here (CD45 AUROC on CoNSeP test and
NuCLS, and called in the field of CMU-1: the sixth round alone 0.967, 0.893; the seventh 0.966, 0.857; the eighth
0.957, 0.910 and 11 of 147; the averages of the eighth between 0.962 and 0.966, 0.920 and 0.944, 38 and 75 of
some 135), that of leaving lymphoid tissue and most of the other organs out of the heads' training and CoNSeP's
held-out images in, and that against Platt scaling (fitted on three held-out images, it raised the expected
calibration error of version 0.3.0 by patches from 0.017 to 0.082). An AUROC a few thousandths higher than
another's is therefore no finding: the interval below is ten times as wide.
CoNSeP's images come from 16 slides of one laboratory; several images of a slide may lie on both
sides of a split, its authors' own included. Half of its leukocytes lie in one image, train_18.

## Metrics

By `python benchmarks/quality.py --data DIR --bundle $name --precision bf16`, with OpenVINO.
Intervals: 95 %, bootstrap over images. `--precision fp32` changes AUROCs by up to 0.002 and other rates by up
to 0.013. Detection and classification of images in memory took $seconds s/mm² (float32: $float32) on
$machine.

Nuclei, CoNSeP test (14 images, $nuclei nuclei; $found found):

| what | this bundle | mean of 8 mirrored views | HoVer-Net's paper |
| --- | --- | --- | --- |
$nuclei_rows

HoVer-Net was trained on the same training part, with an encoder pretrained on ImageNet and at
0.25 µm/px. Its detection F1 of 0.748 pairs centroids within 3 µm; at IoU 0.5 it reports 0.702.

CD45 (inflammatory against all other nuclei):

| on | nuclei | AUROC | average precision | balanced accuracy at 0.5 |
| --- | --- | --- | --- | --- |
$cd45_rows

NuInsSeg, held-out mouse organs ($organ_images images): F1 at IoU 0.5 $organ_f1; called CD45: $organ_lymphoid of the
nuclei found in spleen and thymus, $organ_others of those in liver and muscle. The liver has leukocytes of its own.

Calibration on CoNSeP test: expected error $ece_after.

| probability from | nuclei | mean probability | observed |
| --- | --- | --- | --- |
$curve_rows

Changed stain and optics, CoNSeP test, one thing at a time, at the training augmentation's extremes:

| change | F1 at IoU 0.5 | CD45 AUROC |
| --- | --- | --- |
$extreme_rows

Expected share of all nuclei on CoNSeP test against the shares that ORION's authors publish for
their slides (other patients, other tissue choice; the same order of magnitude is all that can be
asked):

| marker | evidence | expected here | ORION, median (5th to 95th percentile) |
| --- | --- | --- | --- |
$rate_rows

## Limits

$limits

## Making it again

```sh
python -m recipes.he.detector detector   --data DIR --out RUN/1
for round in 2 3 4 5 6; do
  python -m recipes.he.detector detector --data DIR --out RUN/$$round --round $$round --initial RUN/$$((round - 1))
done
python -m recipes.he.detector average    --out RUN/0.4.0 --initial RUN/3 --detector RUN/6 --share 0.6
python -m recipes.he.detector average    --out RUN/half --initial RUN/0.4.0 --detector RUN/6 --share 0.5
python -m recipes.he.detector detector   --data DIR --out RUN/7 --round 7 --initial RUN/half
python -m recipes.he.detector average    --out RUN/0.5.0 --initial RUN/0.4.0 --detector RUN/7 --share 0.6
python -m recipes.he.detector detector   --data DIR --out RUN/8 --round 8 --initial RUN/0.5.0 \\
    --teacher RUN/0.4.0 RUN/0.5.0 --device cuda --workers 7
python -m recipes.he.detector average    --out RUN/37 --initial RUN/3 --detector RUN/7 --share 0.5
python -m recipes.he.detector average    --out RUN/378 --initial RUN/37 --detector RUN/8 --share 0.4
python -m recipes.he.detector head       --data DIR --out RUN/detector --initial RUN/378 \\
    --teacher RUN/0.4.0 RUN/0.5.0
python -m recipes.he.detector classifier --data DIR --out RUN/classifier --detector RUN/detector \\
    --teacher RUN/0.4.0 RUN/0.5.0
python -m recipes.he.detector bundle     --data DIR --out RUN --weights weights
python -m recipes.he.student_data --data DIR --out student.npz
python -m recipes.he.lean_train --data DIR --crops student.npz --out RUN/lean
python -m recipes.he.int8 --data DIR --bundle weights/he-v1-fast --lean RUN/lean/lean.safetensors
```
"""
)

LIMITS = Template(
    """- On a slide of another laboratory scanned at 20x (CMU-1-Small-Region, skin) some collagen fibres are
  outlined and some very dark nuclei in the dermis are missed. Some nuclei of its densely packed, pigmented epidermis
  are still taken for leukocytes, and basal keratinocytes elsewhere: of the whole slide's $slide nuclei $slide_called
  are called, and $field_called of $field in a field of that epidermis alone (centroids from 1600, 2350 to
  1850, 2750 px; by `he-v1-fast` 0.5.0 75 of 127, by 0.6.0 41 of 134). Look at the overlay before using a count.
- CoNSeP's inflammatory class lumps all leukocytes. Plasma cells, macrophages and neutrophils differ
  in how well they are found; this was not measured.
- A third of the annotated nuclei of CoNSeP test are not matched at IoU 0.5: large pale tumour nuclei
  and spindle-shaped ones most. Densities of leukocytes suffer less than counts of all nuclei.
- Other stains, scanners, frozen sections, cytology: not tested."""
)

SIBLING = """
`he-v1` itself was not tried there. On the sets that both were tested on its AUROCs are 0.003 to 0.004 lower.
"""

WAYS = {
    "he-v1": (
        "a patch classifier's",
        "a classifier on 80 px patches (26 µm): the detector's encoder and decoder, taught without labels "
        "to read around the centre of a patch what they read there from the whole image, and a head of one "
        "hidden layer on that.",
        {
            "slide": "2,328",
            "slide_called": "314",
            "field": "141",
            "field_called": "30",
            "float32": "44.5",
        },
    ),
    "he-v1-fast": (
        "the detector's own dense head, averaged over the nucleus",
        "the detector's dense head, which reads encoder, decoder and 16 µm around: one pass for nuclei and "
        "markers.",
        {
            "slide": "2,328",
            "slide_called": "185",
            "field": "141",
            "field_called": "15",
            "float32": "8.4",
        },
    ),
}

# Graham et al. 2019, table of results on CoNSeP.
HOVERNET = {
    "f1_by_image": "0.702",
    "sq": "0.778",
    "pq": "0.547",
    "aji": "0.571",
    "dice": "0.853",
    "f1_centroids": "0.748",
    "f1_inflammatory": "0.631",
}
NUCLEI = {
    "f1": "F1 at IoU 0.5, pooled",
    "f1_by_image": "F1 at IoU 0.5 (detection quality), mean over images",
    "sq": "segmentation quality",
    "pq": "panoptic quality",
    "aji": "aggregated Jaccard index",
    "dice": "foreground Dice",
    "f1_centroids": "F1 of centroids within 3 µm",
    "f1_inflammatory": "F1 of inflammatory nuclei (HoVer-Net's F_c)",
}


def spread(values: list[float]) -> str:
    return f"{values[0]:.3f}-{values[1]:.3f}"


def scores(title: str, values: dict[str, Any]) -> str:
    cells = [
        f"{values[k]:.3f} ({spread(values[f'{k}_interval'])})"
        for k in ("auroc", "average_precision", "balanced_accuracy")
    ]
    count = f"{values['nuclei']:,} ({values['positive']:,} positive)"
    return f"| {title} | {count} | {' | '.join(cells)} |"


def card(name: str, version: str, quality: dict[str, Any]) -> str:
    test, averaged = quality["consep_test"], quality["consep_test_8_views"]
    calibration, organs = test["calibration"], quality["nuinsseg_held_out"]
    measured = quality["measured_on"]
    how, network, on = WAYS[name]
    return CARD.substitute(
        name=name,
        version=version,
        how=how,
        network=network,
        sibling=SIBLING if name == "he-v1" else "",
        limits=LIMITS.substitute(on),
        machine=measured["machine"],
        seconds=f"{measured['seconds_per_mm2_in_memory']:.1f}",
        float32=on["float32"],
        nuclei=f"{test['nuclei']:,}",
        found=f"{test['found']:,}",
        nuclei_rows="\n".join(
            f"| {title} | {test[key]:.3f} | {averaged[key]:.3f} | {HOVERNET.get(key, '')} |"
            for key, title in NUCLEI.items()
        ),
        cd45_rows="\n".join(
            [
                scores("CoNSeP test, annotated nuclei", test["cd45"]),
                scores("CoNSeP test, own detections", test["cd45_own_detections"]),
                scores("NuCLS, annotated points (sTIL)", quality["nucls"]["points"]),
                scores("NuCLS, own detections", quality["nucls"]["own_detections"]),
            ]
        ),
        organ_images=organs["images"],
        organ_f1=f"{organs['f1']:.3f}",
        organ_lymphoid=f"{organs['called_in_spleen_and_thymus']:.0%}",
        organ_others=f"{organs['called_in_liver_and_muscle']:.0%}",
        ece_after=f"{calibration['expected_error_after']:.3f}",
        curve_rows="\n".join(
            f"| {row['from']:.1f} | {row['nuclei']:,} | {row['mean_probability']:.2f} | "
            f"{row['observed']:.2f} |"
            for row in calibration["curve"]
        ),
        extreme_rows="\n".join(
            [f"| none | {test['f1']:.3f} | {test['cd45']['auroc']:.3f} |"]
            + [
                f"| {change} | {row['f1']:.3f} | {row['auroc']:.3f} |"
                for change, row in quality["extremes"].items()
            ]
        ),
        rate_rows="\n".join(
            f"| {marker} | {row['evidence']} | {row['expected_share_of_nuclei']:.3f} | "
            f"{row['orion_median']:.3f} ({spread(row['orion_5_95'])}) |"
            for marker, row in quality["base_rates"].items()
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--version", default="0.7.3")
    parser.add_argument("--bundles", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    for name in arguments.bundles:
        folder = arguments.weights / name
        quality = json.loads((folder / "quality.json").read_text("utf-8"))
        text = card(name, arguments.version, quality)
        limits = "## Limits"
        text = text.replace(limits, in_bytes(folder) + limits, 1)
        (folder / "CARD.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
