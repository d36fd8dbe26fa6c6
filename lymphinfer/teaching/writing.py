"""A taught bundle: the base's files, one layer of them changed, and its card."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from safetensors.numpy import load, save

from lymphinfer.bundles.evidence import Evidence, MarkerSpec, OperatingPoint
from lymphinfer.bundles.schema import MANIFEST, BundleManifest, read_manifest
from lymphinfer.bundles.writing import marker_table
from lymphinfer.downloading import sha256_of
from lymphinfer.teaching.learning import Quality, Taught
from lymphinfer.teaching.teachable import Teachable

CARD = "CARD.md"


def write_taught(
    out: Path,
    layer: Teachable,
    taught: Sequence[Taught],
    *,
    counts: str,
    slides: int,
    by: str,
    notes: Sequence[str],
    command: str,
) -> BundleManifest:
    """Write a bundle whose markers were taught.

    Parameters
    ----------
    out : Path
        Its folder; the last part is the bundle's name.
    layer : Teachable
        Of the base.
    taught : sequence of Taught
    counts : str
        How many nuclei of which call there were, for people.
    slides : int
    by : str
        What one group of the cross-validation is.
    notes : sequence of str
        What was passed over.
    command : str

    Returns
    -------
    BundleManifest
    """
    base = layer.bundle.manifest
    out.mkdir(parents=True, exist_ok=True)
    for name in base.files:
        shutil.copyfile(base.folder / name, out / name)
    state = load((base.folder / layer.file).read_bytes())
    new = layer.changed({t.marker: t.change for t in taught})
    # Sums of large weights: what is learned here would drown in half precision.
    state |= {name: np.ascontiguousarray(value, np.float32) for name, value in new.items()}
    (out / layer.file).write_bytes(save(state))
    int8 = base.detector.get("int8")
    if int8 in base.files:
        # What was taught holds in bytes too, in the place of what was fitted to them.
        kept = {k: v for k, v in load((base.folder / int8).read_bytes()).items() if k not in new}
        (out / int8).write_bytes(save(kept))
    document: dict[str, Any] = tomllib.loads((base.folder / MANIFEST).read_text("utf-8"))
    names = " and ".join(t.marker for t in taught)
    n = max(t.positives + t.negatives for t in taught)
    document |= {
        "name": out.name,
        "version": "1",
        "summary": f"{base.name} with {names} taught by own annotations of {n:,} nuclei",
        "files": {name: sha256_of(out / name) for name in base.files},
    }
    specs = _specs(base, taught, slides, by)
    tables = {table["name"]: table for table in document["marker"]}
    document["marker"] = [
        {**marker_table(spec), **{k: tables[spec.name][k] for k in ("parent", "color")
                                  if k in tables[spec.name]}}
        for spec in specs
    ]  # fmt: skip
    (out / MANIFEST).write_bytes(tomli_w.dumps(document).encode())
    manifest = read_manifest(out)
    text = card(manifest, base, taught, counts=counts, slides=slides, by=by, notes=notes,
                command=command)  # fmt: skip
    (out / CARD).write_text(text, "utf-8")
    return manifest


def _specs(
    base: BundleManifest, taught: Sequence[Taught], slides: int, by: str
) -> list[MarkerSpec]:
    """What the markers rest on now: those that were taught, and those below them."""
    by_name = {t.marker: t for t in taught}
    specs = []
    for spec in base.markers:
        t = by_name.get(spec.name)
        above = [n for n in base.panel.lineage(spec.name)[:-1] if n in by_name]
        if t is not None:
            n = t.positives + t.negatives
            specs.append(
                MarkerSpec(
                    spec.name,
                    Evidence.MORPHOLOGY,
                    f"own annotations, n = {n:,} nuclei on {slides} "
                    f"{'slide' if slides == 1 else 'slides'} (H&E annotation, not a stain), "
                    f"cross-validated by {by}; from {base.name}",
                    points=t.points,
                    conditional=spec.conditional,
                    scale=round(t.calibration.scale, 5),
                    offset=round(t.calibration.offset, 5),
                    auroc=round(t.after.auroc[0], 3),
                    auroc_interval=(round(t.after.auroc[1], 3), round(t.after.auroc[2], 3)),
                )
            )
        elif above and spec.evidence is not Evidence.BASE_RATE:
            # Its numbers were measured below another parent.
            points = {k: OperatingPoint(p.threshold) for k, p in spec.points.items()}
            source = f"{spec.source}; not measured below the {above[-1]} that was taught"
            specs.append(
                replace(spec, source=source, points=points, auroc=None, auroc_interval=None)
            )
        else:
            specs.append(spec)
    return specs


def card(
    manifest: BundleManifest,
    base: BundleManifest,
    taught: Sequence[Taught],
    *,
    counts: str,
    slides: int,
    by: str,
    notes: Sequence[str],
    command: str,
) -> str:
    """Text of ``CARD.md``."""
    rows = []
    for t in taught:
        for what, name in (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy")):
            rows.append(
                f"| {t.marker} | {name} | {_range(t.before, what)} | {_range(t.after, what)} |"
            )
    shares = [
        f"- {t.marker}: calibrated for {t.share:.0%} positive nuclei, "
        + ("as estimated of all nuclei around those that were named (Saerens et al. 2002)"
           if t.share_known else "as among those that were named: densities follow that choice")
        + f"; {t.positives:,} with it, {t.negatives:,} without, in {t.groups:,} groups"
        for t in taught
    ]  # fmt: skip
    worse = [
        f"**{t.marker} did not get better here: {t.gain[0]:+.3f} balanced accuracy "
        f"({t.gain[1]:+.3f} to {t.gain[2]:+.3f}).**"
        for t in taught
        if t.gain[0] <= 0
    ]
    evidence = [f"| {m.name} | {m.statement} |" for m in manifest.markers]
    passed = [f"- {note}" for note in notes] or ["- nothing"]
    lines = [
        f"# {manifest.name}",
        "",
        f"{manifest.summary}. Research use only, not for diagnosis.",
        "",
        f"Made by `{command or 'lymphinfer teach'}` from {base.name} {base.version} "
        f"(sha256 {base.sha256[:12]}). Licence: {base.licence}.",
        "",
        "## What it was taught with",
        "",
        f"{counts} on {slides} {'slide' if slides == 1 else 'slides'}. The last layer of each "
        "marker learned again, a logistic regression on the features that it reads and on what it "
        "said before; detector, features and the other markers are those of the base.",
        "",
        *shares,
        "",
        "## Before and after, on the same held-out nuclei",
        "",
        f"Cross-validated by {by}: no layer is tested on a {by.split()[0]} that it has learned "
        "from. Intervals of 95 % between them. Calls are those at `balanced`.",
        "",
        "| marker | | before | after |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        *worse,
        *([""] if worse else []),
        "## Evidence",
        "",
        "| marker | what it rests on |",
        "| --- | --- |",
        *evidence,
        "",
        "An annotation on H&E is what a person sees, not a stain. Nuclei were chosen by a person: "
        "on slides of another laboratory, or on nuclei that nobody looked at, it may be worse than "
        "the numbers above.",
        "",
        "## Passed over",
        "",
        *passed,
    ]
    return "\n".join(lines) + "\n"


def _range(quality: Quality, what: str) -> str:
    value, low, high = getattr(quality, what)
    return f"{value:.3f} ({low:.3f}-{high:.3f})"
