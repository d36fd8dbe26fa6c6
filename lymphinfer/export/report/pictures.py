"""Pictures of the tissue for a report, where the slide file can be found."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lymphinfer.cells.table import read_rings
from lymphinfer.errors import SlideError
from lymphinfer.export.results import Result, batch_rows
from lymphinfer.slides import Slide, open_slide
from lymphinfer.slides.remote import remote_address
from lymphinfer.textfiles import find_shown, shown

THUMBNAIL_PX = 1400
EXAMPLE_UM = 32.0
EXAMPLE_PX = 88
HOT_SPOT_PX = 320
_OUTLINE = (255, 255, 0)
_ANCESTORS = 4
_COLORS = 64


class NoSlide(Exception):
    """The slide file is not to be had; says why, for the page."""


def open_result_slide(result: Result, slides: Path | None = None) -> Slide:
    """Find and open the slide that a result was made from.

    It is looked for by name in `slides` and below it, where the summary says that it lies (from
    the result folder, then from the root), beside the result folder and the folders above, where
    their ``batch.json`` has it, and where ``predict`` keeps ``<folder>.lymphinfer`` beside
    ``<folder>``. A file of that name with another content is not taken.

    Parameters
    ----------
    result : Result
    slides : Path, optional

    Returns
    -------
    Slide
        Open; at the pixel size of the result.

    Raises
    ------
    NoSlide
        It is not found, is another slide, or cannot be opened.
    """
    wanted = result.summary["slide"].get("identity")
    image = result.summary["slide"].get("image")
    series = None if image is None else str(image)
    reasons = []
    for path in _places(result, slides):
        if remote_address(path) is None and not path.exists():
            continue
        try:
            slide = open_slide(path, result.mpp, series=series, force=True)
        except SlideError as error:
            reasons.append(str(error))
            continue
        if wanted is None or slide.identity() == wanted:
            return slide
        slide.close()
        reasons.append(f"{path.name} was found, but its content is not the one that was predicted")
    if reasons:
        raise NoSlide("; ".join(dict.fromkeys(reasons)))
    where = "" if slides is None else f" in the folder {slides.name} or"
    was = result.summary["slide"].get("path")
    gone = f", nor at {was}, where it was predicted: it was moved or deleted" if was else ""
    raise NoSlide(
        f"the slide file {result.name} was not found{where} beside the results{gone}; name its "
        "folder with --slides"
    )


def thumbnail(slide: Slide, longest_px: int = THUMBNAIL_PX) -> Image.Image:
    """Picture of a whole slide; never larger than its level 0."""
    mpp = max(slide.mpp, slide.mpp * max(slide.dimensions) / longest_px)
    width, height = slide.dimensions_at(mpp)
    step = 64
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, step):
        rows = min(step, height - top)
        out[top : top + rows] = slide.read_region(0, top, width, rows, mpp)
    return Image.fromarray(out)


def examples(slide: Slide, nuclei: pa.Table) -> list[Image.Image]:
    """Picture of each nucleus of a table, `EXAMPLE_UM` wide, its outline drawn."""
    mpp = EXAMPLE_UM / EXAMPLE_PX
    scale = slide.mpp / mpp
    rings = read_rings(nuclei)
    made = []
    for i, (x, y) in enumerate(_centers(nuclei)):
        left, top = (round(v * scale) - EXAMPLE_PX // 2 for v in (x, y))
        pixels = slide.read_region(left, top, EXAMPLE_PX, EXAMPLE_PX, mpp)
        picture = Image.fromarray(pixels)
        ring = rings[i] * scale - (left, top)
        outline = [tuple(point) for point in ring.tolist()]
        ImageDraw.Draw(picture).line([*outline, outline[0]], fill=_OUTLINE, width=1)
        made.append(picture)
    return made


def window(slide: Slide, x: float, y: float, side: float, px: int = HOT_SPOT_PX) -> Image.Image:
    """Picture of a square of a slide; `x`, `y`, `side` in level-0 px."""
    mpp = slide.mpp * side / px
    scale = slide.mpp / mpp
    return Image.fromarray(slide.read_region(round(x * scale), round(y * scale), px, px, mpp))


def top_density(density: NDArray[np.float64]) -> float:
    """Density of the last colour, two significant digits: little lies above it."""
    top = float(np.percentile(density, 99.8)) if density.any() else 0.0
    return float(f"{top:.2g}")


def heat_map(density: NDArray[np.float64], top: float, size: tuple[float, float]) -> Image.Image:
    """Draw a density in the colours of viridis, clear where there is little.

    Parameters
    ----------
    density : ndarray of float64, (rows, columns)
        Of each bin.
    top : float
        Density of the last colour.
    size : tuple of float
        The slide's (width, height) in bins; what the last bins have beyond it is cut off.

    Returns
    -------
    PIL.Image.Image
        A pixel a bin; a palette of 64 colours, so that it is small as PNG.
    """
    from matplotlib import colormaps

    rows, columns = density.shape
    box = (0.0, 0.0, min(size[0], columns), min(size[1], rows))
    pixels = max(1, round(box[2])), max(1, round(box[3]))
    plane = Image.fromarray(density.astype(np.float32))
    cut = np.asarray(plane.resize(pixels, Image.Resampling.BILINEAR, box=box))
    value = np.clip(cut / top, 0, 1) if top > 0 else np.zeros_like(cut)
    steps = np.linspace(0, 1, _COLORS)
    colors = colormaps["viridis"](steps)
    colors[:, 3] = np.clip(steps / 0.4, 0, 1)
    picture = Image.fromarray(np.rint(value * (_COLORS - 1)).astype(np.uint8), "P")
    picture.putpalette(np.rint(colors * 255).astype(np.uint8).tobytes(), "RGBA")
    return picture


def data_uri(picture: Image.Image, fmt: str = "JPEG", quality: int = 80) -> str:
    """Picture as text that stands in a page."""
    stream = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if fmt == "JPEG" else {"optimize": True}
    picture.save(stream, fmt, **options)
    text = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{fmt.lower()};base64,{text}"


def _centers(nuclei: pa.Table) -> Iterator[tuple[float, float]]:
    yield from zip(nuclei.column("x").to_pylist(), nuclei.column("y").to_pylist(), strict=True)


def _places(result: Result, slides: Path | None) -> Iterator[Path]:
    name = result.name
    if slides is not None:
        yield find_shown(slides, name)
        yield from sorted(path for path in slides.rglob("*") if shown(path.name) == name)
    folder = result.folder.resolve()
    slide = result.summary["slide"]
    if relative := slide.get("relative_path"):
        place = Path(os.path.normpath(folder / relative))
        yield find_shown(place.parent, place.name)
    if absolute := slide.get("path"):
        place = Path(absolute)
        yield place if remote_address(place) else find_shown(place.parent, place.name)
    for above in [folder, *folder.parents][: _ANCESTORS + 1]:
        yield find_shown(above, name)
        for row in batch_rows(above):
            place = Path(row["slide"])
            if place.name == name:
                yield find_shown(place.parent, name)
        if above.suffix == ".lymphinfer":
            yield find_shown(above.with_suffix("") / folder.parent.relative_to(above), name)
