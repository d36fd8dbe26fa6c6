"""The views of a nucleus table by name, and the files they are written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import ResultError
from lymphinfer.export.geojson import FORMATS, Classes, Format, Shape, write_geojson
from lymphinfer.export.results import Result


@dataclass(frozen=True)
class ViewOptions:
    """What some views let a user choose.

    Attributes
    ----------
    format : {"zip", "geojson.gz", "geojson"} or None
        Of GeoJSON; None for what the file's name says, else zip.
    crop_to_bounds : bool or None
        Of GeoJSON: subtract the slide's bounds, as QuPath does; None for what ``predict`` did.
    mpp : float or None
        Of the label image, µm/px; None for the slide's own.
    licence : str or None
        Of an RO-Crate, an address or words; None where it is not stated.
    """

    format: Format | None = None
    crop_to_bounds: bool | None = None
    mpp: float | None = None
    licence: str | None = None


def write_view(
    result: Result, view: str, out: Path | None = None, options: ViewOptions | None = None
) -> Path:
    """Write one view of a slide's nuclei.

    Parameters
    ----------
    result : Result
    view : str
        A key of `VIEWS`.
    out : Path, optional
        The file; by default ``<stem><suffix of the view>`` beside the summary.
    options : ViewOptions, optional

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ResultError
        If the parts cannot be read, a package is missing, or the file cannot be written.
    ValueError
        If the view is not known.
    """
    if view not in VIEWS:
        raise ValueError(f"view {view!r} is none of {', '.join(VIEWS)}")
    suffix, write = VIEWS[view]
    options = options or ViewOptions()
    if out is not None and out.is_dir() and view != "spatialdata":
        raise ResultError(
            f"--out {out} is a folder: name the file, such as {out / result.stem}{suffix}"
        )
    return write(out or result.folder / f"{result.stem}{suffix}", result, options)


def _geojson(
    path: Path,
    result: Result,
    options: ViewOptions,
    shape: Shape = "polygon",
    classes: Classes = "call",
) -> Path:
    named = next((fmt for fmt in FORMATS if path.name.endswith(f".{fmt}")), None)
    return write_geojson(
        path,
        result.tables(),
        result.panel,
        fmt=options.format or named or "zip",
        offset_level0=_offset(result, options),
        provenance=result.provenance,
        stem=result.stem,
        shape=shape,
        classes=classes,
    )


def _points(path: Path, result: Result, options: ViewOptions) -> Path:
    return _geojson(path, result, options, "point")


def _types(path: Path, result: Result, options: ViewOptions) -> Path:
    return _geojson(path, result, options, classes="type")


def _tissue(path: Path, result: Result, options: ViewOptions) -> Path:
    from lymphinfer.export.tissue import write_tissue

    if options.format not in (None, "geojson"):
        raise ResultError(f"--format {options.format}: the tissue is written as geojson")
    return write_tissue(path, result, _offset(result, options))


def _regions(path: Path, result: Result, options: ViewOptions) -> Path:
    from lymphinfer.export.regions import write_regions_geojson

    if options.format not in (None, "geojson"):
        raise ResultError(f"--format {options.format}: regions are written as geojson")
    return write_regions_geojson(path, result, _offset(result, options))


def _offset(result: Result, options: ViewOptions) -> tuple[int, int]:
    if options.crop_to_bounds is None:
        return result.qupath_offset
    return result.bounds_offset if options.crop_to_bounds else (0, 0)


def _csv(path: Path, result: Result, _: ViewOptions) -> Path:
    from lymphinfer.export.tables import write_csv

    return write_csv(path, result)


def _parquet(path: Path, result: Result, _: ViewOptions) -> Path:
    from lymphinfer.export.tables import write_parquet

    return write_parquet(path, result)


def _anndata(path: Path, result: Result, _: ViewOptions) -> Path:
    from lymphinfer.export.scverse import write_anndata

    return write_anndata(path, result)


def _spatialdata(path: Path, result: Result, _: ViewOptions) -> Path:
    from lymphinfer.export.scverse import write_spatialdata

    return write_spatialdata(path, result)


def _ome_xml(path: Path, result: Result, _: ViewOptions) -> Path:
    from lymphinfer.export.ome_xml import write_ome_xml

    return write_ome_xml(path, result)


def _labels(path: Path, result: Result, options: ViewOptions) -> Path:
    from lymphinfer.export.label_image import write_labels

    return write_labels(path, result, options.mpp)


def _ro_crate(path: Path, result: Result, options: ViewOptions) -> Path:
    from lymphinfer.export.ro_crate import write_ro_crate

    return write_ro_crate(path, result, options.licence)


VIEWS: dict[str, tuple[str, Callable[[Path, Result, ViewOptions], Path]]] = {
    "csv": (".csv", _csv),
    "parquet": (".parquet", _parquet),
    "geojson": ("", _geojson),
    "geojson-points": (".points", _points),
    "geojson-types": (".types", _types),
    "tissue-geojson": (".tissue.geojson", _tissue),
    "regions-geojson": (".regions.geojson", _regions),
    "anndata": (".h5ad", _anndata),
    "spatialdata": (".spatialdata.zarr", _spatialdata),
    "ome-xml": (".ome.xml", _ome_xml),
    "labels": (".labels.ome.tif", _labels),
    "ro-crate": (".ro-crate.zip", _ro_crate),
}
"""By name: the suffix of its file (GeoJSON adds its format's) and what writes it."""
