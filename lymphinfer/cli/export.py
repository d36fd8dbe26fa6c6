"""``lymphinfer export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.cli.enums import Format


class View(StrEnum):
    """Choices of ``--to``."""

    csv = "csv"
    parquet = "parquet"
    geojson = "geojson"
    geojson_points = "geojson-points"
    geojson_types = "geojson-types"
    tissue_geojson = "tissue-geojson"
    regions_geojson = "regions-geojson"
    anndata = "anndata"
    spatialdata = "spatialdata"
    ome_xml = "ome-xml"
    labels = "labels"
    ro_crate = "ro-crate"


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT", help="A slide's result folder, or a folder with many of them."
        ),
    ],
    to: Annotated[View, typer.Option("--to", "-t", help="What to write.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file. Default: beside the slide's summary.json."),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="Of GeoJSON. Default: what --out ends in, else zip."),
    ] = None,
    crop: Annotated[
        bool | None,
        typer.Option(
            "--crop/--no-crop",
            help="Of GeoJSON: subtract the slide's bounds, as QuPath does. "
            "Default: as predict did.",
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Of the label image: its pixel size, µm/px. Default: the slide's."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Of an RO-Crate: the results' licence, an address or words."),
    ] = None,
) -> None:
    """Write the nuclei of a finished slide as a table, an image or objects for other programs.

    csv, parquet: a row a nucleus; x_px and y_px are level-0 pixels, x_um and y_um µm, area_um2
    µm², probabilities 0 to 1, call the deepest positive phenotype. geojson: the file for QuPath
    again; geojson-points: its centroids; geojson-types: classes by the nucleus types of a HoVer-Net
    detector. tissue-geojson: the tissue and what is out of focus, as annotations. regions-geojson:
    the regions that lymphinfer regions has measured. anndata: .h5ad for scanpy and squidpy.
    spatialdata: a Zarr folder. ome-xml: ROIs for OMERO. labels: a pyramidal OME-TIFF of the csv's
    labels. ro-crate: the result folder in a .zip, with what is in it and what made it as JSON-LD.
    """
    from rich.console import Console
    from rich.markup import escape

    from lymphinfer.cli.output import write_path
    from lymphinfer.errors import LymphinferError, ResultError
    from lymphinfer.export.regions import STALE_REGIONS, has_stale_regions
    from lymphinfer.export.results import find_results, open_result
    from lymphinfer.export.views import ViewOptions, write_view
    from lymphinfer.textfiles import shown

    console = Console(stderr=True)
    folders = find_results(source)
    if out is not None and len(folders) > 1:
        raise ResultError(
            f"--out {out} names one file, but {source} holds the results of {len(folders)} slides: "
            "leave --out away, and each is written beside its summary"
        )
    options = ViewOptions(None if format is None else format.value, crop, mpp, license)
    failed = 0
    for folder in folders:
        try:
            result = open_result(folder)
            with console.status(f"{escape(shown(folder.name))}: {to.value}"):
                written = write_view(result, to.value, out, options)
            if to in (View.anndata, View.spatialdata) and has_stale_regions(result):
                warning = f"{shown(folder.name)}: its regions are left out, {STALE_REGIONS}"
                console.print(f"[bold yellow]Warning:[/] {escape(warning)}", soft_wrap=True)
        except LymphinferError as error:
            if len(folders) == 1:
                raise
            failed += 1
            console.print(f"[bold red]Failed:[/] {escape(shown(str(error)))}", soft_wrap=True)
        else:
            write_path(written)
    if failed:
        raise typer.Exit(1 if failed < len(folders) else 2)
