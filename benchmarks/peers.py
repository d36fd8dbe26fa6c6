"""What one would use instead, whole: image file in, result file out, beside `lymphinfer predict`.

python benchmarks/peers.py [--area 0.05] [--large 2] [--stardist-python PATH] [--json FILE]
python benchmarks/peers.py --area 0.01 --large 0 --peers hovernet

Every tool reads the same files: squares of --area and --large mm² out of the middle of the slide
that `speed.py` makes (0.25 µm/px, simulated), all tissue, which each is told or takes for granted.
Each is a process of its own, measured from its start to its end:

- `lymphinfer predict`, with each of --bundles, on both squares;
- TIAToolbox's engine with HoVer-Net (fast) to its file for QuPath, on the small one, as it takes
  an hour a mm²;
- StarDist's `predict_instances_big` with TensorFlow at 0.5 µm/px to GeoJSON, and its network alone,
  on both; --stardist-python is the interpreter that has stardist and tensorflow;
- one ConvNeXt-Base patch a nucleus to a CSV, on predict's own nuclei, finding which is not in it:
  --first of them on the small square, whose time without start-up is multiplied to all.

HoVer-Net and StarDist have random weights and output layers fitted to predict's nuclei
(`readout.py`). StarDist then finds about as many; HoVer-Net finds fewer or none (see
`peer_hovernet.py`): its time is a lower bound. Preparing that is not measured.

Without start-up: predict's own seconds from slide to file; of the others what came after imports
and weights. The ratios are of that, to predict with each bundle on the same square.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from peer import FILE
from process import machine, run
from rich.console import Console
from rich.table import Table
from speed import MPP, make_slide

from lymphinfer.simulate.slide import write_slide
from lymphinfer.slides import open_slide

HERE = Path(__file__).resolve().parent
PEERS = ("hovernet", "stardist", "convnext")
NAMES = {
    "hovernet": "TIAToolbox engine, HoVer-Net (fast)",
    "stardist": "StarDist predict_instances_big",
    "network": "StarDist, network alone",
    "convnext": "ConvNeXt-Base, a patch a nucleus",
}
# A square's side is a multiple of it, which StarDist's grid and U-Net divide at 0.5 µm/px.
STEP_PX = 64
ENV = {"OMP_WAIT_POLICY": "PASSIVE", "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclass(frozen=True)
class Row:
    """One tool on one square; None where it was not measured.

    Attributes
    ----------
    tool : str
    square_mm2 : float
        What it was given.
    mm2 : float
        What the numbers are divided by.
    nuclei : int or None
        That it found; None where it finds none.
    wall_s, lean_wall_s : float
        With its start-up and without.
    cpu_s, lean_cpu_s : float
        User and system seconds of all its threads, likewise.
    peak_mb : float
    ratios : dict of str to float
        By bundle: `lean_wall_s` a mm² to predict's.
    note : str
    """

    tool: str
    square_mm2: float
    mm2: float = 0.0
    nuclei: int | None = None
    wall_s: float | None = None
    lean_wall_s: float | None = None
    cpu_s: float | None = None
    lean_cpu_s: float | None = None
    peak_mb: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Square:
    """A file that is all tissue; its annotation says so to predict."""

    path: Path
    mm2: float
    annotation: Path


def make_square(cache: Path, mm2: float) -> Square:
    """A square out of the middle of the made slide, as a file of its own; kept."""
    side = max(1, round(mm2**0.5 * 1000 / MPP / STEP_PX)) * STEP_PX
    path, annotation = (cache / f"square-{side}{ending}" for ending in (".svs", ".geojson"))
    if not path.exists():
        # The middle half of its tissue has no glass.
        whole = make_slide(cache, max(0.6, 2 * mm2))
        with open_slide(whole, None) as slide:
            x, y = ((n - side) // 2 for n in slide.dimensions)
            write_slide(path, slide.read_region(x, y, side, side, MPP), MPP)
    ring = [[0, 0], [side, 0], [side, side], [0, side], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    annotation.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    return Square(path, (side * MPP / 1000) ** 2, annotation)


def predict(square: Square, bundle: str, out: Path, arguments: list[str]) -> Row:
    """LymphInfer's own row; its results stay in `out`."""
    command = [
        sys.executable, "-m", "lymphinfer", "predict", str(square.path), "--out", str(out),
        "--bundle", bundle, "--tissue", str(square.annotation), *arguments,
    ]  # fmt: skip
    cost = run(command, os.environ | ENV)
    summary = json.loads((out / square.path.stem / "summary.json").read_text())
    return Row(
        f"lymphinfer predict, {bundle}", square.mm2, square.mm2, summary["nuclei"],
        cost.seconds, summary["seconds"]["total"], cost.cpu_seconds, None, cost.peak_mb,
    )  # fmt: skip


def outlines(square: Square, out: Path) -> list[np.ndarray[Any, Any]]:
    """Predict's nuclei as outlines (n, 2) in level-0 pixels, from the file for QuPath."""
    with zipfile.ZipFile(out / square.path.stem / f"{square.path.stem}.zip") as file:
        parts = [json.loads(file.read(name)) for name in file.namelist()]
    features = [f for part in parts for f in part["features"]]
    return [np.asarray(f["geometry"]["coordinates"][0]) for f in features]


def write_nuclei(square: Square, out: Path, folder: Path) -> tuple[Path, Path]:
    """Predict's nuclei as a label image and as a table of points, for the peers."""
    from skimage.draw import polygon

    found = outlines(square, out)
    with open_slide(square.path, None) as slide:
        labels = np.zeros(slide.dimensions[::-1], np.int32)
    points, image = folder / "nuclei.csv", folder / "labels.npz"
    with points.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("x", "y"))
        for number, outline in enumerate(found, 1):
            rows, columns = polygon(outline[:, 1], outline[:, 0], labels.shape)
            labels[rows, columns] = number
            table.writerow(outline[:-1].mean(axis=0).round(1).tolist())
    np.savez_compressed(image, labels=labels)
    return image, points


def has(python: str, *packages: str) -> bool:
    """Does an interpreter have these packages?"""
    code = "import sys, importlib.util as u; sys.exit(None in map(u.find_spec, sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *packages], check=False).returncode == 0


def missing(name: str, square: Square, python: str, *packages: str) -> Row:
    return Row(NAMES[name], square.mm2, note=f"not installed: {', '.join(packages)} in {python}")


def peer(name: str, square: Square, command: list[str], out: Path) -> Row:
    """The row of a peer's own process, which tells of itself in `out`."""
    cost = run([*command, str(out)], os.environ | ENV)
    told = json.loads((out / FILE).read_text())
    return Row(
        NAMES[name], square.mm2, told.get("mm2", square.mm2), told["nuclei"],
        cost.seconds, cost.seconds - told["start_s"],
        cost.cpu_seconds, cost.cpu_seconds - told["start_cpu_s"], cost.peak_mb,
    )  # fmt: skip


def script(name: str, python: str = sys.executable) -> list[str]:
    return [python, str(HERE / f"peer_{name}.py")]


def prepare(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | ENV)


def hovernet(square: Square, labels: Path, folder: Path) -> Row:
    """TIAToolbox's row."""
    if not has(sys.executable, "tiatoolbox", "torch"):
        return missing("hovernet", square, sys.executable, "tiatoolbox", "torch")
    weights = folder / "hovernet.pth"
    prepare([*script("hovernet"), "prepare", str(square.path), str(labels), str(weights)])
    command = [*script("hovernet"), "run", str(square.path), str(weights)]
    return peer("hovernet", square, command, folder / "hovernet")


def stardist(squares: list[Square], labels: Path, folder: Path, python: str) -> Iterator[Row]:
    """StarDist's rows on all squares, with what was fitted on the first one."""
    if not has(python, "stardist", "tensorflow"):
        for name in ("stardist", "network"):
            yield missing(name, squares[0], python, "stardist", "tensorflow")
        return
    model, program = folder / "stardist-model", script("stardist", python)
    prepare([*program, "prepare", str(squares[0].path), str(labels), str(model)])
    for name, step in (("stardist", "run"), ("network", "network")):
        for square in squares:
            out = folder / f"{name}-{square.path.stem}"
            yield peer(name, square, [*program, step, str(square.path), str(model)], out)


def convnext(square: Square, points: Path, folder: Path, first: int, nuclei: int) -> Row:
    """ConvNeXt's row: what the first nuclei took, for all."""
    if not has(sys.executable, "timm", "torch"):
        return missing("convnext", square, sys.executable, "timm", "torch")
    command = [*script("convnext"), "--first", str(first), str(square.path), str(points)]
    row = peer("convnext", square, command, folder / "convnext")
    assert row.wall_s and row.lean_wall_s and row.cpu_s and row.lean_cpu_s and row.nuclei
    more = nuclei / row.nuclei - 1
    return replace(
        row, nuclei=nuclei,
        wall_s=row.wall_s + more * row.lean_wall_s, lean_wall_s=(1 + more) * row.lean_wall_s,
        cpu_s=row.cpu_s + more * row.lean_cpu_s, lean_cpu_s=(1 + more) * row.lean_cpu_s,
        note=f"from {row.nuclei} of the nuclei; without finding them",
    )  # fmt: skip


def compare(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """All rows, predict's first, each as soon as it is measured."""
    areas = [options.area, *([options.large] if options.large else [])]
    squares = [make_square(options.cache, area) for area in areas]
    ours: dict[tuple[float, str], Row] = {}
    for square in squares:
        for bundle in options.bundles:
            out = folder / f"{bundle}-{square.path.stem}"
            row = predict(square, bundle, out, options.predict_arguments)
            ours[square.mm2, bundle] = row
            yield row
    small, first = squares[0], options.bundles[0]
    labels, points = write_nuclei(small, folder / f"{first}-{small.path.stem}", folder)
    if "convnext" in options.peers:
        nuclei = ours[small.mm2, first].nuclei or 0
        yield with_ratios(convnext(small, points, folder, options.first, nuclei), ours)
    if "stardist" in options.peers:
        for row in stardist(squares, labels, folder, options.stardist_python):
            yield with_ratios(row, ours)
    if "hovernet" in options.peers:
        yield with_ratios(hovernet(small, labels, folder), ours)


def with_ratios(row: Row, ours: dict[tuple[float, str], Row]) -> Row:
    """A peer's row with how many times as long it takes as predict."""
    if row.lean_wall_s is None:
        return row
    ratios = {
        bundle: row.lean_wall_s / row.mm2 / (own.lean_wall_s / own.mm2)
        for (mm2, bundle), own in ours.items()
        if mm2 == row.square_mm2 and own.lean_wall_s
    }
    return replace(row, ratios=ratios)


def table(rows: list[Row], bundles: list[str]) -> Table:
    """The table of all rows."""
    made = Table(title=f"{machine()}; one run each, seconds a mm²")
    for name in (
        "", "mm²", "nuclei", "wall", "without start-up", "CPU", "without start-up", "peak MB",
        *(f"× {bundle}" for bundle in bundles), "",
    ):  # fmt: skip
        made.add_column(name, justify="right" if name else "left")
    for row in rows:
        seconds = (row.wall_s, row.lean_wall_s, row.cpu_s, row.lean_cpu_s)
        made.add_row(
            row.tool,
            f"{row.mm2 or row.square_mm2:.3g}",
            "" if row.nuclei is None else f"{row.nuclei:,}",
            *("" if s is None else f"{s / row.mm2:,.1f}" for s in seconds),
            "" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
            *(f"{row.ratios[b]:.1f}" if b in row.ratios else "" for b in bundles),
            row.note,
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--area", type=float, default=0.05, help="mm², from 0.01; for all")
    parser.add_argument("--large", type=float, default=2.0, help="mm², 0 for none")
    parser.add_argument("--bundles", nargs="+", default=["he-v1-fast", "he-v2"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--stardist-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--first", type=int, default=64, help="nuclei for ConvNeXt-Base")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "lymphinfer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("predict_arguments", nargs="*", help="after --, handed to predict")
    options = parser.parse_args()
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            for row in compare(options, Path(folder)):
                rows.append(row)
    finally:  # What was measured before one failed is told all the same.
        Console(width=max(Console().width, 180)).print(table(rows, options.bundles))
        if options.json:
            told = {"machine": machine(), "rows": [asdict(row) for row in rows]}
            options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
