"""The part of a card that sets what a bundle's detector finds in bytes beside float32's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUALITY, ORION = "quality-int8.json", "orion-int8.json"
FLOAT32 = "quality-fp32.json"
"""Where ``quality.json`` was measured in another number type."""
INTRO = """## In bytes

On CPUs where that is much faster `predict` computes the detector in bytes (int8), and a leaner copy
of it: at the encoder's two coarser levels a fifth and an eighth of the filters is left inside the
residual blocks, the decoder's two coarser convolutions and the marker head are computed through few
channels, and the outlines of two by two points are read from one map, 663 GFLOP a mm² instead of
1,336. The copy is fitted to this detector by least squares and then taught by it for an hour of two
CPU cores (`recipes/he/lean.py`, `recipes/he/lean_train.py`), on training images of CoNSeP and
BRCA-M2C, C01 tiles and CMU-1, no test image among them. Its weights are rounded to seven bits, its
maps to 256 steps up to tops found by NNCF on 24 training tiles of several laboratories
(`recipes/he/int8.py`), and what `he-v2` reads its markers from is taught once more on maps so
rounded (`recipes/he/context_train.py`); rays leave it in steps of 0.08 µm, the longest is 20.7 µm.
The first layer and what the marker head says last stay in float32, as do patch classifiers; the far
scale of `he-v2` is rounded too, with all its filters (`recipes/he/far_int8.py`). With
`--precision fp32` all is computed as it is. The same measurements of both:

| measure | float32 | int8 | difference |
| --- | --- | --- | --- |
"""
ROWS = (
    ("CoNSeP test, nuclei found", ("consep_test", "found")),
    ("CoNSeP test, F1 at IoU 0.5", ("consep_test", "f1")),
    ("CoNSeP test, PQ", ("consep_test", "pq")),
    ("NuInsSeg, held-out organs, F1", ("nuinsseg_held_out", "f1")),
    ("NuInsSeg, held-out organs, PQ", ("nuinsseg_held_out", "pq")),
    ("CD45 AUROC, CoNSeP test, annotated nuclei", ("consep_test", "cd45", "auroc")),
    ("CD45 AUROC, CoNSeP test, own detections", ("consep_test", "cd45_own_detections", "auroc")),
    ("CD45 AUROC, BRCA-M2C val, dots", ("brca_m2c_val", "points", "auroc")),
    ("CD45 calls, BRCA-M2C val, precision", ("brca_m2c_val", "calls", "precision")),
    ("CD45 calls, BRCA-M2C val, recall", ("brca_m2c_val", "calls", "recall")),
    ("BRCA-M2C val, dots within a nucleus", ("brca_m2c_val", "own_detections", "nuclei")),
    ("CD45 AUROC, NuCLS, annotated points", ("nucls", "points", "auroc")),
)
ON_TILES = """
Of the C01 tiles, from which the head has learned in float32, so that only the differences tell, and
they favour float32: {tiles}. Of columns 4, 8 and 16 of the slide,
by the far scale alone: {far}.
"""


def value_at(values: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    """A number in nested results; None where it was not measured."""
    found: Any = values
    for key in keys:
        if key not in found:
            return None
        found = found[key]
    return float(found)


def in_bytes(folder: Path) -> str:
    """The section, empty for a bundle that has not been measured in bytes.

    Parameters
    ----------
    folder : Path
        A bundle's, with ``quality-int8.json`` and ``quality-fp32.json`` or ``quality.json``, and of
        a bundle that was measured on ORION's tiles ``orion.json`` and ``orion-int8.json``.

    Raises
    ------
    SystemExit
        What stands for float32 was measured in something else.
    """
    if not (folder / QUALITY).exists():
        return ""
    name = FLOAT32 if (folder / FLOAT32).exists() else "quality.json"
    plain, small = (json.loads((folder / n).read_text("utf-8")) for n in (name, QUALITY))
    for file, result, wanted in ((name, plain, "fp32"), (QUALITY, small, "int8")):
        if (found := result["measured_on"]["precision"]) != wanted:
            raise SystemExit(f"{folder / file}: measured in {found}, not in {wanted}")
    rows = []
    for title, keys in ROWS:
        one, other = value_at(plain, keys), value_at(small, keys)
        if one is None or other is None:
            continue
        if keys[-1] in ("found", "nuclei"):
            rows.append(f"| {title} | {one:,.0f} | {other:,.0f} | {other - one:+,.0f} |")
        else:
            rows.append(f"| {title} | {one:.3f} | {other:.3f} | {other - one:+.3f} |")
    text = INTRO + "\n".join(rows) + "\n"
    if (folder / ORION).exists():
        plain, small = (json.loads((folder / n).read_text("utf-8")) for n in ("orion.json", ORION))
        text += ON_TILES.format(**{key: _differences(plain[key], small[key])
                                   for key in ("tiles", "far")})  # fmt: skip
    return text + "\n"


def _differences(plain: dict[str, Any], small: dict[str, Any]) -> str:
    parts = []
    for name in ("CD45", "CD3e", "CD4", "CD8a"):
        one, other = (float(v[name]["auroc"]) for v in (plain, small))
        parts.append(f"AUROC of {name} {other - one:+.4f}")
    return ", ".join(parts)
