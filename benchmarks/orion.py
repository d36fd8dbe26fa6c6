"""Quality of a bundle against the real stains of an ORION slide.

python benchmarks/orion.py --slide DIR [--columns 4,8,16] [--bundle NAME] [--json FILE]
    The far scale alone on every nucleus of a folder like orion-crc01: he/X_Y.jpg, cells.parquet.
python benchmarks/orion.py --tiles DIR [--slide DIR] [--bundle NAME] [--json FILE]
    The whole product on a folder like orion-c01-tiles, scored on matched nuclei: with the context
    of the slide where a tile lies on it, and by the tile alone.
    --tile-columns 4,8,16 takes only the tiles in these columns of the slide; with --columns the
    tiles in those columns are scored by themselves as well.

A nucleus is negative up to a marker's lower gate, positive from the upper one, and left out between
them; --gates CD45=3:25 changes one. Expected counts are compared with a single gate a marker.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bundle_arguments import add_bundle_arguments, open_bundle
from numpy.typing import NDArray
from PIL import Image
from process import machine
from rich.console import Console
from rich.table import Table
from seeing import at_mpp, look, probabilities
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from lymphinfer.bundles.loading import Bundle
from lymphinfer.bundles.registry import DEFAULT_BUNDLE
from lymphinfer.markers.calibration import expected_calibration_error
from lymphinfer.markers.two_scale import FarMap, FarScale
from lymphinfer.nuclei.metrics import pair_centroids
from lymphinfer.slides.edges import mirrored
from recipes.he.crc01 import GATES, MARKERS, PARENTS, SINGLE_GATES, TILE_PX, TiledSlide, read_slide
from recipes.he.near_sets import gated, read_placement, read_tile

PAIRING_UM = 3.0
TILES_MPP = 0.5
Labels = NDArray[np.int8]
Score = Callable[[NDArray[Any], NDArray[Any]], float]


def interval(
    y: NDArray[Any], p: NDArray[Any], group: NDArray[Any], score: Score, resamples: int = 200
) -> list[float] | None:
    """95 % bootstrap interval, drawing groups (tiles, blocks) with replacement."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    if len(members) < 2:
        return None
    values = []
    for _ in range(resamples):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if len(np.unique(y[drawn])) == 2:
            values.append(score(y[drawn], p[drawn]))
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def marker_scores(
    y: NDArray[Any], p: NDArray[Any], group: NDArray[Any], threshold: float | None
) -> dict[str, Any]:
    """AUROC, average precision, balanced accuracy and calls, over known labels."""
    known = y >= 0
    y, p, group = y[known], p[known], group[known]
    result: dict[str, Any] = {"n": len(y), "positive": int(y.sum())}
    if len(np.unique(y)) < 2:
        return result | {"auroc": None, "average_precision": None, "balanced_accuracy": None}
    result["auroc"] = float(roc_auc_score(y, p))
    result["auroc_interval"] = interval(y, p, group, roc_auc_score)
    result["average_precision"] = float(average_precision_score(y, p))
    result["average_precision_interval"] = interval(y, p, group, average_precision_score)
    # A marker that is never called has no threshold of its own: the share of positives gives one.
    cut = float(np.quantile(p, 1 - y.mean())) if threshold is None else threshold
    called = p >= cut
    result["balanced_accuracy"] = float(balanced_accuracy_score(y, called))
    result["threshold"] = cut
    result["called_by_the_bundle"] = threshold is not None
    result["precision"] = float(y[called].mean()) if called.any() else None
    result["recall"] = float(called[y == 1].mean())
    result["expected_calibration_error"] = expected_calibration_error(p, y)
    return result


def scores(
    bundle: Bundle,
    heads: NDArray[np.float32],
    p: NDArray[np.float32],
    values: dict[str, NDArray[np.float32]],
    gates: dict[str, Any],
    group: NDArray[Any],
    point: str,
) -> dict[str, Any]:
    """Every marker, each child given its parent, and expected counts against single gates."""
    labels = gated(values, gates)
    points = bundle.manifest.calls_at(point)
    result: dict[str, Any] = {}
    for i, name in enumerate(MARKERS):
        at = points[i]
        result[name] = marker_scores(
            labels[:, i], p[:, i], group, None if at is None else at.threshold
        )
        observed = float((values[name] >= SINGLE_GATES[name]).mean())
        expected = float(p[:, i].mean())
        result[name] |= {"expected_share": expected, "observed_share": observed}
        result[name]["expected_over_observed"] = expected / observed if observed else None
    for child, parent in PARENTS.items():
        c, q = MARKERS.index(child), MARKERS.index(parent)
        given = labels[:, q] == 1
        conditional = (
            heads[:, c]
            if bundle.manifest.markers[c].is_conditional
            else p[:, c] / np.maximum(p[:, q], 1e-6)
        )
        y, s = labels[given, c], conditional[given]
        one = marker_scores(y, s, group[given], None)
        result[f"{child} given {parent}"] = {
            k: one.get(k) for k in ("n", "positive", "auroc", "auroc_interval")
        }
    return result


def far_around(
    far: FarScale, slide: TiledSlide, rectangle: tuple[float, float, float, float]
) -> FarMap:
    """The far scale of a rectangle of the slide with what lies around it.

    The slide goes on in its mirror image where the folder holds no further tile.
    """
    x0, y0, x1, y1 = far.box(*rectangle)
    column, row = (int(v // TILE_PX) for v in rectangle[:2])
    left, right = run_of(slide.there[row], column)
    top, bottom = run_of(slide.there[:, column], row)
    part = slide.he[max(y0, top) : min(y1, bottom), max(x0, left) : min(x1, right)]
    box = (x0 - left, y0 - top, x1 - left, y1 - top)
    return far.infer(mirrored(part, box, (right - left, bottom - top)), (x0, y0))


def run_of(there: NDArray[np.bool_], at: int) -> tuple[int, int]:
    """First and end px of the tiles that follow each other around one of them."""
    first = last = at
    while first > 0 and there[first - 1]:
        first -= 1
    while last + 1 < len(there) and there[last + 1]:
        last += 1
    return first * TILE_PX, (last + 1) * TILE_PX


def on_slide(
    bundle: Bundle,
    slide: TiledSlide,
    columns: Sequence[int] | None,
    gates: dict[str, Any],
    point: str,
) -> dict[str, Any]:
    """The far scale alone, on every nucleus of the table."""
    far = bundle.markers.far
    if far is None:
        raise SystemExit(f"bundle {bundle.manifest.name} has no far scale")
    heads, p, index = [], [], []
    began, area = time.perf_counter(), 0.0
    for row, column in np.argwhere(slide.there):
        if columns is not None and column not in columns:
            continue
        here = np.flatnonzero((slide.column == column) & (slide.row == row))
        if not len(here):
            continue
        x, y = int(column) * TILE_PX, int(row) * TILE_PX
        around = far_around(far, slide, (x, y, x + TILE_PX, y + TILE_PX))
        seen = around.at(slide.xy[here] + 0.5)
        assert bundle.markers.head is not None
        logits = bundle.markers.head(None, seen)
        found = probabilities(bundle, logits)
        heads.append(found[0])
        p.append(found[1])
        index.append(here)
        area += (TILE_PX * far.mpp / 1000) ** 2
    chosen = np.concatenate(index)
    values = {name: slide.values[name][chosen] for name in MARKERS}
    blocks = slide.column[chosen] * 1000 + slide.row[chosen]
    result = scores(bundle, np.concatenate(heads), np.concatenate(p), values, gates, blocks, point)
    return result | {
        "nuclei": len(chosen),
        "columns": sorted({int(c) for c in slide.column[chosen]}),
        "seconds_per_mm2": (time.perf_counter() - began) / area,
    }


def on_tiles(
    bundle: Bundle,
    folder: Path,
    slide: TiledSlide | None,
    columns: Sequence[int] | None,
    gates: dict[str, Any],
    point: str,
) -> dict[str, Any]:
    """Detection and both scales on high-resolution tiles; nuclei matched to the table's."""
    mpp, far = bundle.manifest.mpp, bundle.markers.far
    heads: list[NDArray[np.float32]] = []
    p: list[NDArray[np.float32]] = []
    values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in MARKERS}
    groups: list[NDArray[np.int64]] = []
    total, tiles = 0, 0
    for number, (file, place) in enumerate(read_placement(folder)):
        column = int(place[0] // TILE_PX)
        if columns is not None and column not in columns:
            continue
        with Image.open(file) as image:
            raw = np.asarray(image.convert("RGB"))
        pixels = at_mpp(raw, TILES_MPP, mpp)
        context = None
        if slide is not None and far is not None and lies_on(slide, place):
            side = raw.shape[0] * TILES_MPP / far.mpp
            context = far_around(far, slide, (*place, place[0] + side, place[1] + side))
        seen = look(bundle, pixels, context, corner=place if context else (0.0, 0.0))
        points, measured = read_tile(file.with_suffix(".csv"))
        pairs = pair_centroids(points * (TILES_MPP / mpp), seen.centers, PAIRING_UM / mpp)
        found = probabilities(bundle, seen.logits[pairs.predicted])
        heads.append(found[0])
        p.append(found[1])
        for name in MARKERS:
            values[name].append(measured[name][pairs.truth])
        groups.append(np.full(len(pairs.truth), number))
        total += len(points)
        tiles += 1
    if not tiles:
        return {"tiles": 0, "annotated": 0, "matched": 0}
    joined = {name: np.concatenate(rows) for name, rows in values.items()}
    result = scores(
        bundle, np.concatenate(heads), np.concatenate(p), joined, gates, np.concatenate(groups),
        point,
    )  # fmt: skip
    return result | {"tiles": tiles, "annotated": total, "matched": len(joined[MARKERS[0]])}


def lies_on(slide: TiledSlide, place: tuple[float, float]) -> bool:
    """Whether the slide's folder has the tile of 1.3 µm/px that a point lies in."""
    column, row = (int(v // TILE_PX) for v in place)
    rows, columns = slide.there.shape
    return 0 <= row < rows and 0 <= column < columns and bool(slide.there[row, column])


def show(console: Console, title: str, result: dict[str, Any]) -> None:
    """Print one part's numbers."""
    table = Table(title=title)
    for name in ("", "AUROC", "95 %", "AP", "BAcc", "n", "positive", "precision", "recall",
                 "expected / observed"):  # fmt: skip
        table.add_column(name, justify="right")
    for name, row in result.items():
        if not isinstance(row, dict):
            continue

        def number(key: str, digits: int = 3, row: dict[str, Any] = row) -> str:
            value = row.get(key)
            return "" if value is None else f"{value:.{digits}f}"

        spread = row.get("auroc_interval")
        table.add_row(
            name, number("auroc"), "" if not spread else f"{spread[0]:.3f}-{spread[1]:.3f}",
            number("average_precision"), number("balanced_accuracy"), str(row["n"]),
            str(row["positive"]), number("precision", 2), number("recall", 2),
            number("expected_over_observed", 2),
        )  # fmt: skip
    console.print(table)
    rest = {k: v for k, v in result.items() if not isinstance(v, dict)}
    console.print(", ".join(f"{k} {v}" for k, v in rest.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="folder with he/X_Y.jpg and cells.parquet")
    parser.add_argument("--tiles", type=Path, help="folder with placement.csv, .png and .csv")
    parser.add_argument("--columns", help="tile columns of the slide, such as 4,8,16; all else")
    parser.add_argument("--tile-columns", help="the same for --tiles")
    add_bundle_arguments(parser, DEFAULT_BUNDLE)
    parser.add_argument("--gates", nargs="*", default=[], metavar="MARKER=LOW:HIGH")
    arguments = parser.parse_args()
    if arguments.slide is None and arguments.tiles is None:
        parser.error("give --slide, --tiles or both")
    columns, tile_columns = (
        [int(c) for c in text.split(",")] if text else None
        for text in (arguments.columns, arguments.tile_columns)
    )
    gates: dict[str, Any] = {name: GATES[name] for name in MARKERS}
    for text in arguments.gates:
        name, _, ends = text.partition("=")
        low, _, high = ends.partition(":")
        if name not in gates or not high:
            parser.error(f"--gates {text}: expected one of {', '.join(MARKERS)}, =, LOW:HIGH")
        gates[name] = float(low), float(high)
    bundle = open_bundle(arguments)
    console, point = Console(width=150), arguments.operating_point
    result: dict[str, Any] = {
        "bundle": bundle.manifest.identity,
        "gates": gates,
        "operating_point": point,
        "measured_on": {
            "machine": machine(),
            "precision": bundle.engine.precision,
            "runtime": bundle.engine.runtime,
        },
    }
    slide = None if arguments.slide is None else read_slide(arguments.slide)
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    if slide is not None and bundle.markers.far is not None:
        result["far"] = on_slide(bundle, slide, columns, gates, point)
        show(console, f"{name}: far scale alone", result["far"])
    if arguments.tiles is not None:
        result["tiles"] = on_tiles(bundle, arguments.tiles, slide, tile_columns, gates, point)
        context = "" if slide is None else ", context from the slide"
        show(console, f"{name}: whole product on tiles{context}", result["tiles"])
        if columns is not None and tile_columns is None:
            result["tiles_in_columns"] = on_tiles(
                bundle, arguments.tiles, slide, columns, gates, point
            )
            title = f"{name}: whole product, tiles in columns {arguments.columns}{context}"
            show(console, title, result["tiles_in_columns"])
        if slide is not None:
            result["tiles_without_context"] = on_tiles(
                bundle, arguments.tiles, None, tile_columns, gates, point
            )
            title = f"{name}: whole product, each tile alone"
            show(console, title, result["tiles_without_context"])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
