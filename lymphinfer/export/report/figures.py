"""The figures of a report as matplotlib draws them: for the page, and as PNG and SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import ResultError
from lymphinfer.export.report.hotspots import HotSpot
from lymphinfer.export.report.survey import HISTOGRAM_BINS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

LEARNED_COLOR, BASE_RATE_COLOR, CALLED_COLOR = "#31688e", "#c9c9c9", "#21918c"
_STYLE: Any = {
    "svg.hashsalt": "lymphinfer",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches that needs no display.

    Raises
    ------
    ResultError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResultError(
            f"reports need matplotlib ({error}): pip install 'lymphinfer[report]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def histogram(counts: NDArray[np.int64], name: str, *, evidence: str, learned: bool) -> Figure:
    """Draw how many nuclei have which probability; counts on a logarithmic axis."""
    figure = new_figure(4.2, 2.5)
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    axes.bar(
        edges[:-1],
        counts,
        width=np.diff(edges),
        align="edge",
        color=LEARNED_COLOR if learned else BASE_RATE_COLOR,
        edgecolor="white" if learned else "#666666",
        linewidth=0.4,
        hatch=None if learned else "////",
    )
    axes.set(xlim=(0, 1), ylim=(0.7, max(10, 2 * counts.max(initial=1))))
    axes.set_yscale("log")
    axes.set(xlabel=f"{name} probability", ylabel="nuclei (log)")
    title = f"{name} ({evidence})" if learned else f"{name}: {evidence}, not measured"
    axes.set_title(title, loc="left", fontsize=9)
    return figure


def densities(rows: Sequence[tuple[str, float, float | None, str, bool]], unit: str) -> Figure:
    """Draw expected and called counts a marker, as bars.

    Parameters
    ----------
    rows : sequence of (name, expected, called, evidence, learned)
        Markers without learned evidence are hatched; those that are never called (None) have no
        bar of their calls.
    unit : str
        Of the numbers.
    """
    figure = new_figure(5.4, 0.6 + 0.55 * len(rows))
    axes = figure.add_subplot()
    for i, (_, expected, called, evidence, learned) in enumerate(rows):
        color, hatch = (LEARNED_COLOR, None) if learned else (BASE_RATE_COLOR, "////")
        edge = "none" if learned else "#666666"
        axes.barh(i - 0.2, expected, 0.36, color=color, hatch=hatch, edgecolor=edge, linewidth=0.4)
        axes.text(expected, i - 0.2, f" {expected:,.0f} expected", va="center", fontsize=8)
        text = " never called" if learned else f" never called: {evidence}, not measured"
        if called is not None:
            axes.barh(i + 0.2, called, 0.36, color=CALLED_COLOR)
            text = f" {called:,.0f} called"
        axes.text(called or 0, i + 0.2, text, va="center", fontsize=8)
    labels = [f"{name}\n({evidence})" for name, _, _, evidence, _ in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlabel=unit, ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlim(0, 1.35 * max([*(max(e, c or 0) for _, e, c, *_ in rows), 1e-9]))
    return figure


def density_map(
    heat: Image,
    tissue: Image | None,
    title: str,
    unit: str,
    top: float,
    size_mm: tuple[float, float],
    spots: Sequence[HotSpot] = (),
    mpp: float = 1.0,
) -> Figure:
    """Draw a density map over the tissue, with a colour bar, and windows numbered from 1.

    Parameters
    ----------
    heat : PIL.Image.Image
        RGBA, of the whole slide.
    tissue : PIL.Image.Image or None
        The whole slide; a grey ground without it.
    title, unit : str
        The unit stands at the colour bar.
    top : float
        Density of the last colour.
    size_mm : tuple of float
        (width, height) of the slide, mm.
    spots : sequence of HotSpot
    mpp : float
        Of the spots' coordinates, µm/px.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    width, height = size_mm
    inches = 6.4, float(np.clip(5.2 * height / width, 1.6, 9.0)) + 0.5
    figure = new_figure(*inches)
    axes = figure.add_subplot()
    extent = (0.0, width, height, 0.0)
    axes.set_facecolor("#eeeeee")
    if tissue is not None:
        axes.imshow(np.asarray(tissue), extent=extent, interpolation="antialiased")
    axes.imshow(np.asarray(heat), extent=extent, alpha=0.7, interpolation="bilinear")
    for i, spot in enumerate(spots, 1):
        x, y, side = (v * mpp / 1000 for v in (spot.x, spot.y, spot.side))
        for color, line in (("black", 2.4), ("white", 1.2)):
            axes.add_patch(Rectangle((x, y), side, side, fill=False, ec=color, lw=line))
        box = {"facecolor": "black", "pad": 1.2, "linewidth": 0}
        axes.text(x, y, str(i), color="white", fontsize=8, va="bottom", bbox=box)
    axes.set(xlim=(0, width), ylim=(height, 0), xlabel="mm", ylabel="mm")
    axes.set_title(title, loc="left", fontsize=9)
    scale = ScalarMappable(Normalize(0, top or 1), "viridis")
    figure.colorbar(scale, ax=axes, label=unit, shrink=0.8)
    return figure


def slides_strip(
    rows: Sequence[tuple[str, Sequence[float | None], Sequence[bool], str]], unit: str
) -> Figure:
    """Draw each slide as a dot on a line a marker.

    Parameters
    ----------
    rows : sequence of (marker, values, learned, evidence)
        A value a slide, None where there is none; whether anything was learned behind it, such
        dots are filled; and the words of its evidence.
    unit : str
    """
    figure = new_figure(6.4, 0.7 + 0.5 * len(rows))
    axes = figure.add_subplot()
    for i, (_, values, learned, _) in enumerate(rows):
        # The same jitter every time, so that the figure does not change when nothing has.
        jitter = 0.16 * np.sin(2.4 * np.arange(len(values)))
        found = np.array([np.nan if value is None else value for value in values], float)
        filled = np.array(learned, bool)
        axes.scatter(found[filled], i + jitter[filled], s=22, alpha=0.8, color=LEARNED_COLOR)
        axes.scatter(
            found[~filled], i + jitter[~filled], s=22, facecolors="none", edgecolors="#777777"
        )
        if np.isfinite(found).sum() > 2:
            axes.plot([np.nanmedian(found)] * 2, [i - 0.32, i + 0.32], color="black", lw=1.4)
    labels = [f"{name}\n({evidence})" for name, *_, evidence in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlabel=unit, ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlim(left=0)
    return figure


def rendered(figure: Figure, fmt: str) -> bytes:
    """Figure as ``png`` or ``svg``, the same bytes for the same figure."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    metadata = {"Date": None} if fmt == "svg" else {"Software": None}
    with rc_context(_STYLE):
        engine = figure.get_layout_engine()
        if engine is not None:
            # Once a figure. Left to matplotlib it is done anew for each file, by a drawing of its
            # own that is thrown away: three quarters of the time.
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(stream, format=fmt, dpi=200, metadata=metadata)
    return stream.getvalue()


def styled() -> Any:
    """Context in which figures are drawn in the report's style."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ResultError(
            f"reports need matplotlib ({error}): pip install 'lymphinfer[report]'"
        ) from error
    return rc_context(_STYLE)


def svg_uri(svg: bytes) -> str:
    """Figure that was rendered as ``svg``, as text that stands in a page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def save(figure: Figure, folder: Path, name: str, svg: bytes | None = None) -> list[Path]:
    """Write a figure as ``<name>.png`` and ``<name>.svg``, each whole or not at all.

    ``svg`` is what was rendered of it before, if it was.
    """
    contents = {"png": rendered(figure, "png"), "svg": svg or rendered(figure, "svg")}
    paths = []
    for suffix, content in contents.items():
        paths.append(folder / f"{name}.{suffix}")
        with atomic_write(paths[-1]) as file:
            file.write(content)
    return paths
