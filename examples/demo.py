"""The main job on an example: ``python examples/demo.py [SLIDE] [options of lymphinfer predict]``.

Without a slide it takes two examples into ``demo/``: the H&E picture that the stardist package
carries, whose pixel size nobody recorded (0.5 µm/px is assumed here, and only here), and a small
slide of simulated tissue made on the spot.
"""

from __future__ import annotations

import io
import shutil
import sys
import zipfile
from contextlib import redirect_stdout
from importlib.resources import as_file, files
from pathlib import Path
from unittest.mock import patch

import orjson
from PIL import Image, ImageDraw

from lymphinfer.cli.app import main
from lymphinfer.simulate.slide import write_demo_slide
from lymphinfer.slides import open_slide

DEMO = Path("demo")
ASSUMED_MPP = "0.5"


def predict(slide: Path, *options: str) -> Path:
    """Run the command as typed, in this process; returns the file for QuPath."""
    arguments = ["predict", str(slide), *options]
    print("\n$ lymphinfer " + " ".join(arguments), flush=True)
    said = io.StringIO()
    with patch.object(sys, "argv", ["lymphinfer", *arguments]), redirect_stdout(said):
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    print(said.getvalue(), end="", flush=True)
    return Path(said.getvalue().splitlines()[-1])


def overlay(slide_path: Path, result: Path, mpp: str | None, limit_px: int = 2048) -> Path:
    """Draw the outlines on the slide's upper left part, coloured by class."""
    with open_slide(slide_path, float(mpp) if mpp else None) as slide:
        width, height = (min(n, limit_px) for n in slide.dimensions)
        picture = Image.fromarray(slide.read_region(0, 0, width, height, slide.mpp))
    draw = ImageDraw.Draw(picture)
    with zipfile.ZipFile(result) as archive:
        for name in archive.namelist():
            for feature in orjson.loads(archive.read(name))["features"]:
                ring = [tuple(point) for point in feature["geometry"]["coordinates"][0]]
                color = tuple(feature["properties"]["classification"]["color"])
                draw.line(ring, fill=color, width=2)
    path = result.with_suffix(".png")
    picture.save(path)
    return path


def demonstrate() -> None:
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        predict(Path(arguments[0]), *arguments[1:])
        return
    DEMO.mkdir(exist_ok=True)
    picture = DEMO / "histo.jpg"
    with as_file(files("stardist.data") / "images" / "histo.jpg") as source:
        shutil.copyfile(source, picture)
    simulated = DEMO / "simulated.svs"
    if not simulated.exists():
        write_demo_slide(simulated, size_px=(2048, 1536))
    print(f"Examples: {picture} (real H&E; {ASSUMED_MPP} µm/px is ASSUMED, the file states none) "
          f"and {simulated} (simulated tissue).")  # fmt: skip
    examples: list[tuple[Path, str | None, list[str]]] = [
        (picture, ASSUMED_MPP, ["--mpp", ASSUMED_MPP]),
        # Learned on simulated slides, so that all four markers can be seen at work on one.
        (simulated, None, ["--bundle", "sim-orion-v1"]),
    ]
    for slide, mpp, options in examples:
        result = predict(slide, *options, *arguments)
        print(f"Overlay: {overlay(slide, result, mpp)}")


if __name__ == "__main__":
    demonstrate()
