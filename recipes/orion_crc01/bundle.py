r"""Make a bundle in the paper's own form of what `recipes.orion_crc01.table1_gpu` has trained.

python -m recipes.orion_crc01.bundle --slide DIR --run RUN --out weights/crc01-paper-v1
python -m recipes.orion_crc01.bundle --slide DIR --run RUN --out crc01-macrophage --row panel

One backbone, a head a marker, patches of 36 µm that the backbone sees at 112 px, weighted BCE.
Calibration and operating points come from the validation columns; precision, recall and AUROC that
are stated from the test columns. Nuclei are found by the detector of the bundle that it names.
Evidence: stain, **one patient**.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from lymphinfer.bundles.evidence import Evidence, MarkerSpec, OperatingPoint
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.cells.files import atomic_write
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.orion.labels import Labels
from lymphinfer.panel import PANELS, Panel
from lymphinfer.training.calibrate import Calibrated, final_probabilities, population_weights
from lymphinfer.training.intervals import MarkerMetrics
from recipes.he.crc01 import MPP, TiledSlide, read_slide
from recipes.he.points import Validation, operating_points, rates
from recipes.orion_crc01.card import card
from recipes.orion_crc01.cells import labels_of, population
from recipes.orion_crc01.columns import TEST_COLUMNS, VAL_COLUMNS
from recipes.orion_crc01.plan import INPUT_PX
from recipes.orion_crc01.table1 import calibrated_on, measured, read_run
from recipes.orion_crc01.table1_gpu import HIDDEN, KEPT, RESULTS, WEIGHTS

CLASSIFIER_FILE, DETECTOR_FROM, HIERARCHY = "classifier.safetensors", "he-v2", "conditional"
VERSION = "0.1.0"


class Told(NamedTuple):
    """A row's cells, and what it says of them."""

    row: dict[str, Any]
    panel: Panel
    labels: Labels
    cells: dict[str, NDArray[np.int32]]
    logits: dict[str, NDArray[np.float64]]

    def final(self, split: str, calibrated: Calibrated) -> NDArray[np.float64]:
        """What a user sees of ``val`` or ``test``, (N, M)."""
        found = final_probabilities(
            self.logits[split], calibrated.calibrations, self.panel, HIERARCHY
        )
        return found.astype(np.float64)


def told_by(slide: TiledSlide, run: Path, kept: str) -> Told:
    """What the row whose weights were kept under a name says."""
    told, arrays = read_run(run / RESULTS)
    (key,) = (key for key, name in KEPT.items() if name == kept)
    rows = [row for row in told["rows"] if row["key"] == key and "failed" not in row]
    if not rows:
        raise SystemExit(f"{run / RESULTS}: no finished row {key}")
    panel = PANELS[rows[0]["panel"]]
    splits = ("val", "test")
    return Told(
        {**rows[0], "device": told["device"]},
        panel,
        labels_of(slide, panel),
        {s: arrays[f"cells/{rows[0]['cells']}/{s}"] for s in splits},
        {s: arrays[f"logits/{key}/{s}"].astype(np.float64) for s in splits},
    )


def network(told: Told, run: Path, kept: str) -> MarkerClassifier:
    """The trained network."""
    row = told.row
    config = ClassifierConfig(
        told.panel.names,
        row["backbone"],
        False,
        HIDDEN,
        row["patch_px"],
        INPUT_PX // row["patch_px"],
    )
    net = MarkerClassifier(config).eval()
    state = load_file(run / WEIGHTS)
    own = {n.removeprefix(f"{kept}."): t.float() for n, t in state.items() if n.startswith(kept)}
    net.load_state_dict(own)
    return net


def points_of(told: Told, calibrated: Calibrated, slide: TiledSlide) -> list[dict[str, Any]]:
    """Operating points of each marker: chosen on validation cells, stated by the test cells."""
    val, test = (told.labels[told.cells[s]] for s in ("val", "test"))
    weights = population_weights(val, population(slide, told.labels))
    chosen = Validation("columns", told.final("val", calibrated), val, weights)
    p, every = told.final("test", calibrated), np.ones(len(test))
    found: list[dict[str, Any]] = []
    for i, marker in enumerate(told.panel.markers):
        points, _ = operating_points([chosen], i)
        if marker.parent is not None:
            # A nucleus is called down its whole lineage.
            above = found[told.panel.index(marker.parent)]
            points = {name: point for name, point in points.items() if name in above}
        stated = {}
        for name, point in points.items():
            cut = np.array([point["threshold"]])
            precision, recall = rates(p[:, i], test[:, i], every, cut)
            stated[name] = OperatingPoint(
                point["threshold"], round(float(precision[0]), 3), round(float(recall[0]), 3)
            )
        found.append(stated)
    return found


def specs_of(
    told: Told,
    calibrated: Calibrated,
    points: list[dict[str, Any]],
    metrics: list[MarkerMetrics],
) -> list[MarkerSpec]:
    """What the bundle says of each marker."""
    test, val = (", ".join(map(str, columns)) for columns in (TEST_COLUMNS, VAL_COLUMNS))
    source = (
        "its own stain on ORION CRC01 (colorectal, one section); calibrated on tile columns "
        f"{val}, measured on random nuclei of the held-out columns {test}"
    )
    rows = zip(told.panel.names, calibrated.calibrations, points, metrics, strict=True)
    return [
        MarkerSpec(
            name,
            Evidence.STAIN,
            source,
            points=own,
            patients=1,
            scale=round(calibration.scale, 5),
            offset=round(calibration.offset, 5),
            auroc=round(m.auroc.value, 3),
            auroc_interval=_interval(m),
        )
        for name, calibration, own, m in rows
    ]


def _interval(m: MarkerMetrics) -> tuple[float, float] | None:
    """None where cells of one tile alone were told."""
    low, high = m.auroc.low, m.auroc.high
    return None if math.isnan(low) else (round(low, 3), round(high, 3))


def make_bundle(
    slide: TiledSlide, run: Path, out: Path, *, kept: str = "paper", detector: str = DETECTOR_FROM
) -> BundleManifest:
    """Write the bundle with its card.

    Parameters
    ----------
    slide : TiledSlide
    run : Path
        Folder with ``table1.npz`` and ``weights.safetensors``.
    out : Path
        Folder of the bundle; its name is the bundle's.
    kept : str
        ``paper`` or ``panel``.
    detector : str
        Bundle whose detector finds the nuclei.

    Returns
    -------
    BundleManifest
    """
    told = told_by(slide, run, kept)
    net = network(told, run, kept)
    calibrated = calibrated_on(
        slide, told.panel, told.labels, told.cells["val"], told.logits["val"], HIERARCHY
    )
    metrics = measured(
        slide, told.panel, told.labels, told.cells["test"], told.logits["test"], calibrated,
        HIERARCHY,
    )  # fmt: skip
    names = ", ".join(told.panel.names)
    manifest = write_bundle(
        out,
        modules={CLASSIFIER_FILE: net},
        header={
            "name": out.name,
            "version": VERSION,
            "summary": f"{names} in the paper's form: one backbone, a head a marker, patches of "
            "36 µm, weighted BCE; learned on the markers' own stains on one slide of one patient",
            "licence": "Apache-2.0",
            "panel": told.panel.name,
            "mpp": 0.325,
            "hierarchy": HIERARCHY,
        },
        detector={"kind": "bundle", "bundle": detector},
        classifier={
            "kind": "patch",
            "file": CLASSIFIER_FILE,
            "mpp": MPP,
            "network": net.config.to_dict(),
        },
        markers=specs_of(told, calibrated, points_of(told, calibrated, slide), metrics),
        panel=told.panel,
    )
    with atomic_write(out / "CARD.md") as file:
        file.write(card(manifest, told.row, metrics, len(told.cells["test"])).encode())
    return manifest


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path, required=True, help="H&E tiles and cells.parquet")
    parser.add_argument("--run", type=Path, required=True, help="folder that table1_gpu wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--row", choices=list(KEPT.values()), default="paper")
    parser.add_argument("--detector", default=DETECTOR_FROM, help="bundle that finds the nuclei")
    words = parser.parse_args()
    made = make_bundle(
        read_slide(words.slide), words.run, words.out, kept=words.row, detector=words.detector
    )
    for marker in made.markers:
        print(f"{marker.name}: {marker.statement}")


if __name__ == "__main__":
    main()
