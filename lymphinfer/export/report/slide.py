"""The page of one slide."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lymphinfer.cells.naming import FIGURES, REPORT
from lymphinfer.export.regions import has_stale_regions
from lymphinfer.export.report import figures as draw
from lymphinfer.export.report import pictures
from lymphinfer.export.report.areas import area_lines
from lymphinfer.export.report.hotspots import HotSpot, hot_spots
from lymphinfer.export.report.page import number, write_page
from lymphinfer.export.report.regions import region_part
from lymphinfer.export.report.survey import BAND_EDGES, Survey, survey
from lymphinfer.export.results import Result

if TYPE_CHECKING:
    from PIL.Image import Image

    from lymphinfer.slides import Slide

ALL = "all nuclei"
_SMALL_PX = 220


@dataclass(frozen=True)
class SlideReport:
    """A slide's finished page, and what the page of the batch shows of it.

    Attributes
    ----------
    path : Path
    result : Result
    preview : str
        Small picture as a data URI: tissue and the root marker's density.
    missing : str
        Why there are no pictures of tissue; empty if there are.
    """

    path: Path
    result: Result
    preview: str
    missing: str


@dataclass(frozen=True)
class Layer:
    """A density map of the page."""

    key: str
    name: str
    learned: bool
    evidence: str
    heat: Image
    top: float


def write_slide_report(
    result: Result, *, slides: Path | None = None, figures: bool = True
) -> SlideReport:
    """Make ``report.html`` in a slide's result folder, and ``figures/`` beside it.

    Parameters
    ----------
    result : Result
    slides : Path, optional
        Where slide files may lie.
    figures : bool
        Also write each figure as PNG and SVG.

    Returns
    -------
    SlideReport

    Raises
    ------
    ResultError
        A package of the extra ``report`` is missing, the parts cannot be read, or the page cannot
        be written.
    """
    with ExitStack() as stack:
        stack.enter_context(draw.styled())
        found = survey(result)
        mean = result.summary["markers"][found.root]["expected_per_mm2"] or 0.0
        spots = hot_spots(found, mean) if result.is_learned(found.root) else []
        slide, missing = None, ""
        try:
            slide = stack.enter_context(pictures.open_result_slide(result, slides))
        except pictures.NoSlide as reason:
            missing = str(reason)
        tissue = None if slide is None else pictures.thumbnail(slide)
        layers = _layers(result, found)
        charts = _charts(result, found)
        regions = region_part(result)
        if regions is not None:
            charts["regions"] = regions["chart"]
        svgs = {name: draw.rendered(chart, "svg") for name, chart in charts.items()}
        uris = {name: draw.svg_uri(svg) for name, svg in svgs.items()}
        page = write_page(
            result.folder / REPORT,
            "slide.html.j2",
            result=result,
            summary=result.summary,
            panel=result.panel,
            learned=[name for name in result.panel.names if result.is_learned(name)],
            called=[name for name in result.panel.names if result.is_called(name)],
            missing=missing,
            areas=area_lines(result),
            tissue=None if tissue is None else pictures.data_uri(tissue),
            map_size=(1000, max(1, round(1000 * result.dimensions[1] / result.dimensions[0]))),
            size_mm=[n * result.mpp / 1000 for n in result.dimensions],
            layers=[(layer, pictures.data_uri(layer.heat, "PNG")) for layer in layers],
            charts=uris,
            histogram_texts={name: _told(found, name) for name in result.panel.names},
            galleries=_galleries(result, found, slide),
            regions=regions,
            stale_regions=has_stale_regions(result),
            region_chart=uris.get("regions"),
            spots=_spot_rows(result, spots, slide),
            ratios=_ratios(result),
        )
        if figures:
            for name, chart in charts.items():
                draw.save(chart, result.folder / FIGURES, name, svgs[name])
            _save_maps(result, layers, tissue, spots)
        preview = _preview(layers[1], tissue)
    return SlideReport(page, result, preview, missing)


def _layers(result: Result, found: Survey) -> list[Layer]:
    size = result.dimensions[0] / found.bin_px, result.dimensions[1] / found.bin_px
    grids = [("nuclei", ALL, True, "", found.nuclei)]
    grids += [
        (
            marker.key,
            marker.name,
            result.is_learned(marker.name),
            result.word(marker.name),
            found.expected[marker.name],
        )
        for marker in result.panel.markers
    ]
    layers = []
    for key, name, learned, word, grid in grids:
        density = found.density(grid)
        top = pictures.top_density(density)
        heat = pictures.heat_map(density, top, size)
        layers.append(Layer(key, name, learned, word, heat, top))
    return layers


def _charts(result: Result, found: Survey) -> dict[str, Any]:
    markers = result.summary["markers"]
    per = "_per_mm2" if result.summary.get("tissue_mm2") else ""
    rows = [
        (
            name,
            markers[name][f"expected{per}"] or 0,
            (markers[name][f"positive{per}"] or 0) if result.is_called(name) else None,
            result.word(name),
            result.is_learned(name),
        )
        for name in result.panel.names
    ]
    unit = "nuclei per mm² of tissue" if per else "nuclei"
    charts: dict[str, Any] = {"densities": draw.densities(rows, unit)}
    for marker in result.panel.markers:
        charts[f"histogram_{marker.key}"] = draw.histogram(
            found.histograms[marker.name],
            marker.name,
            evidence=result.word(marker.name),
            learned=result.is_learned(marker.name),
        )
    return charts


def _told(found: Survey, name: str) -> str:
    """Histogram in words, for who cannot see it."""
    counts = found.histograms[name]
    fifths = counts.reshape(len(BAND_EDGES) - 1, -1).sum(axis=1)
    parts = [
        f"{count:,} from {low:.1f} to {high:.1f}"
        for count, (low, high) in zip(fifths, pairwise(BAND_EDGES), strict=True)
    ]
    return f"Nuclei by {name} probability: " + ", ".join(parts)


def _galleries(result: Result, found: Survey, slide: Slide | None) -> list[dict[str, Any]]:
    galleries = []
    for marker in result.panel.markers:
        if not result.is_learned(marker.name):
            continue
        bands = []
        for band, (low, high) in enumerate(pairwise(BAND_EDGES)):
            nuclei = found.examples.get((marker.name, band))
            shown = []
            if nuclei is not None and slide is not None:
                values = nuclei.column(f"p_{marker.key}").to_pylist()
                xs, ys = nuclei.column("x").to_pylist(), nuclei.column("y").to_pylist()
                made = pictures.examples(slide, nuclei)
                shown = [
                    {"uri": pictures.data_uri(picture), "probability": p, "x": x, "y": y}
                    for picture, p, x, y in sorted(
                        zip(made, values, xs, ys, strict=True), key=lambda row: row[1]
                    )
                ]
            bands.append({"low": low, "high": high, "shown": shown})
        galleries.append({"name": marker.name, "bands": bands})
    return galleries


def _spot_rows(result: Result, spots: list[HotSpot], slide: Slide | None) -> list[dict[str, Any]]:
    offset = result.qupath_offset
    width, height = result.dimensions
    rows = []
    for spot in spots:
        picture = None
        if slide is not None:
            picture = pictures.data_uri(pictures.window(slide, spot.x, spot.y, spot.side))
        rows.append(
            {
                "spot": spot,
                "picture": picture,
                "percent": [100 * spot.x / width, 100 * spot.y / height,
                            100 * spot.side / width, 100 * spot.side / height],
                "qupath": [round(spot.x - offset[0]), round(spot.y - offset[1])],
                "um": [round(spot.x * result.mpp), round(spot.y * result.mpp)],
            }
        )  # fmt: skip
    return rows


def _ratios(result: Result) -> list[dict[str, Any]]:
    """Child to parent, where both have learned evidence; else why not."""
    markers = result.summary["markers"]
    rows = []
    for marker in result.panel.markers:
        if marker.parent is None:
            continue
        child, parent = markers[marker.name], markers[marker.parent]
        row: dict[str, Any] = {"child": marker.name, "parent": marker.parent, "reason": ""}
        without = [n for n in (marker.name, marker.parent) if not result.is_learned(n)]
        if without:
            row["reason"] = f"not given: nothing was learned for {' and '.join(without)}"
        else:
            for kind in ("positive", "expected"):
                value = child[kind] / parent[kind] if parent[kind] else None
                row[kind] = number(value, 3)
            if not (result.is_called(marker.name) and result.is_called(marker.parent)):
                row["positive"] = "never called"
        rows.append(row)
    return rows


def _save_maps(
    result: Result, layers: list[Layer], tissue: Image | None, spots: list[HotSpot]
) -> None:
    size_mm = tuple(n * result.mpp / 1000 for n in result.dimensions)
    for i, layer in enumerate(layers):
        title = f"{result.name}: {layer.name}"
        if not layer.learned:
            title += " (base-rate, not measured)"
        elif layer.evidence:
            title += f" ({layer.evidence})"
        unit = "nuclei per mm²" if i == 0 else f"expected {layer.name} per mm²"
        marked = spots if i == 1 else ()
        figure = draw.density_map(
            layer.heat.convert("RGBA"), tissue, title, unit, layer.top, size_mm, marked, result.mpp  # type: ignore[arg-type]
        )  # fmt: skip
        draw.save(figure, result.folder / FIGURES, f"map_{layer.key}")


def _preview(layer: Layer, tissue: Image | None) -> str:
    from PIL import Image

    width, height = layer.heat.size
    scale = _SMALL_PX / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ground = Image.new("RGB", size, (238, 238, 238)) if tissue is None else tissue.resize(size)
    heat = layer.heat.convert("RGBA").resize(size)
    heat.putalpha(heat.getchannel("A").point(lambda v: round(0.65 * v)))
    ground.paste(heat, (0, 0), heat)
    return pictures.data_uri(ground, quality=70)
