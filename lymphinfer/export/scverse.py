"""AnnData and SpatialData: the nucleus table for scanpy, squidpy and napari-spatialdata."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from lymphinfer.cells.files import atomic_write, temporary_beside
from lymphinfer.cells.regions import read_region_nuclei
from lymphinfer.cells.table import read_calls, read_ids, read_rings
from lymphinfer.errors import ResultError
from lymphinfer.export.numerals import id_texts
from lymphinfer.export.regions import STALE_REGIONS, has_stale_regions, record_of
from lymphinfer.export.results import Result
from lymphinfer.export.tables import extra_columns

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

REGION = "nuclei"


def to_anndata(result: Result) -> AnnData:
    """Put a slide's nuclei into an AnnData.

    Parameters
    ----------
    result : Result

    Returns
    -------
    anndata.AnnData
        N nuclei by markers. ``X``: probabilities after the hierarchy, float32, NaN where missing.
        ``obs`` (index: the nucleus's uuid): ``slide`` and ``call``, categorical, every possible
        call among the categories; ``label``, ``area_um2``, ``detection_probability``, morphology;
        where regions were measured ``region`` (class of the smallest annotation around it, missing
        outside of all), ``neighbours``, ``aggregate``, and distances and bands of margins.
        ``var``: ``parent``, ``evidence``, ``learned``, ``called``, ``statement``, ``source``,
        ``patients``, ``auroc``, ``auroc_low``, ``auroc_high``, ``rate``, and ``threshold``,
        ``precision``, ``recall`` of the operating point in use. ``obsm["spatial"]``: centroids,
        µm, float64. ``uns["lymphinfer"]``: provenance, and in ``regions_left_out`` why regions that
        were measured are missing; ``uns["call_colors"]`` as scanpy keeps colours.

    Raises
    ------
    ResultError
        anndata is not installed, or the parts cannot be read.
    """
    try:
        import anndata
        import pandas as pd
    except ImportError as error:
        raise ResultError(
            f"AnnData needs anndata ({error}): pip install 'lymphinfer[anndata]'"
        ) from error
    panel = result.panel
    columns: dict[str, list[Any]] = {}
    for table in result.tables():
        names = ("area_um2", "detection_probability", *extra_columns(result, table.schema))
        got: dict[str, Any] = {name: table.column(name).to_numpy() for name in names}
        got["id"] = np.array(id_texts(read_ids(table)).cast(pa.string()).to_pylist(), object)
        got["call"] = read_calls(table, panel).astype(np.int8)
        got["xy"] = np.stack([table.column(c).to_numpy() for c in "xy"], axis=1) * result.mpp
        got["X"] = np.stack(
            [table.column(f"p_{marker.key}").to_numpy() for marker in panel.markers], axis=1
        ).astype(np.float32)
        for name, values in got.items():
            columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    n = len(joined.get("id", ()))
    x = joined.pop("X", np.empty((0, len(panel)), np.float32))
    xy = joined.pop("xy", np.empty((0, 2)))
    ids = joined.pop("id", np.empty(0, object))
    calls = joined.pop("call", np.empty(0, np.int8))
    obs = pd.DataFrame(
        {
            "slide": pd.Categorical.from_codes(np.zeros(n, np.int8), [result.name]),
            "call": pd.Categorical.from_codes(calls, list(panel.calls)),
            "label": np.arange(1, n + 1, dtype=np.int64),
            **joined,
            **_regions(result, n),
        },
        index=pd.Index(ids, dtype=object, name="id"),
    )
    return anndata.AnnData(
        X=x,
        obs=obs,
        var=_var(result),
        obsm={"spatial": xy},
        uns={
            "lymphinfer": _storable(
                result.provenance
                | ({"regions_left_out": STALE_REGIONS} if has_stale_regions(result) else {})
            ),
            "call_colors": [_hex(panel.color(call)) for call in panel.calls],
        },
    )


def write_anndata(path: Path, result: Result) -> Path:
    """Write `to_anndata` as ``.h5ad``, whole or not at all.

    Raises
    ------
    ResultError
        As `to_anndata`, or the file cannot be written.
    """
    data = to_anndata(result)
    with atomic_write(path) as file:
        # anndata writes to a name, and atomic_write keeps one for it.
        data.write_h5ad(Path(file.name), compression="gzip")
    return path


def to_spatialdata(result: Result) -> SpatialData:
    """Put a slide's nuclei into a SpatialData: outlines as shapes, annotated by a table.

    Parameters
    ----------
    result : Result

    Returns
    -------
    spatialdata.SpatialData
        ``shapes["nuclei"]``: polygons in level-0 px, index ``label``, with transformations to the
        coordinate systems ``global`` (level-0 px) and ``um``. ``tables["table"]``: `to_anndata`,
        with its ``region`` as ``compartment``: the framework's own ``region`` names the shapes.

    Raises
    ------
    ResultError
        spatialdata is not installed, there are no nuclei, or the parts cannot be read.
    """
    try:
        import geopandas
        import shapely
        from spatialdata import SpatialData
        from spatialdata.models import ShapesModel, TableModel
        from spatialdata.transformations import Identity, Scale
    except ImportError as error:
        raise ResultError(
            f"SpatialData needs spatialdata ({error}): pip install 'lymphinfer[spatialdata]', in "
            "an environment without the extra hovernet"
        ) from error
    if not result.nuclei:
        raise ResultError(f"{result.folder}: no nuclei, and SpatialData holds no empty shapes")
    polygons: list[Any] = []
    for table in result.tables():
        rings = read_rings(table)
        owner = np.repeat(np.arange(len(rings)), rings.counts)
        polygons.extend(shapely.polygons(shapely.linearrings(rings.coords, indices=owner)))
    data = to_anndata(result)
    data.obs = data.obs.rename(columns={"region": "compartment"})
    data.obs["region"] = REGION
    data.obs["region"] = data.obs["region"].astype("category")
    shapes = geopandas.GeoDataFrame(geometry=polygons, index=data.obs["label"].to_numpy())
    mpp = result.mpp
    return SpatialData(
        shapes={
            REGION: ShapesModel.parse(
                shapes,
                transformations={"global": Identity(), "um": Scale([mpp, mpp], axes=("x", "y"))},
            )
        },
        tables={
            "table": TableModel.parse(
                data, region=REGION, region_key="region", instance_key="label"
            )
        },
    )


def write_spatialdata(path: Path, result: Result) -> Path:
    """Write `to_spatialdata` as a Zarr folder; one from before is replaced once the new is whole.

    Raises
    ------
    ResultError
        As `to_spatialdata`, the folder is none of SpatialData's, or it cannot be written.
    """
    if path.exists() and not any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise ResultError(f"{path}: there, and no Zarr folder; choose another --out")
    data = to_spatialdata(result)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data.write(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise ResultError(f"cannot write {path} ({error}): choose another --out") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
    return path


def _regions(result: Result, n: int) -> dict[str, Any]:
    """What was measured of each nucleus' regions, if it was."""
    record = record_of(result)
    if record is None:
        return {}
    table = read_region_nuclei(result.folder, record)
    if table.num_rows != n:
        raise ResultError(
            f"{result.folder}: its regions are of {table.num_rows:,} nuclei, the slide has {n:,}; "
            "run lymphinfer regions again"
        )
    # SpatialData takes no other letters in a name, and HDF5 no slash.
    return {
        re.sub(r"[^0-9A-Za-z_.-]+", "_", name): column.to_pandas().array
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name != "id"
    }


def _var(result: Result) -> Any:
    import pandas as pd

    rows = []
    for marker in result.panel.markers:
        row = result.evidence[marker.name]
        low, high = row.get("auroc_interval") or (None, None)
        at = result.operating_point.get("markers", {}).get(marker.name, {})
        rows.append(
            {
                "parent": marker.parent or "",
                "evidence": str(row.get("evidence", "")),
                "learned": result.is_learned(marker.name),
                "called": result.is_called(marker.name),
                "statement": str(row.get("statement", "")),
                "source": str(row.get("source", "")),
                **{
                    name: np.nan if value is None else float(value)
                    for name, value in (
                        ("patients", row.get("patients")),
                        ("auroc", row.get("auroc")),
                        ("auroc_low", low),
                        ("auroc_high", high),
                        ("rate", row.get("rate")),
                        *((n, at.get(n)) for n in ("threshold", "precision", "recall")),
                    )
                },
            }
        )
    return pd.DataFrame(rows, index=pd.Index(result.panel.names, name="marker"))


def _storable(values: dict[str, Any]) -> dict[str, Any]:
    """Provenance that HDF5 and Zarr can hold: nested values as JSON text, missing ones left out."""
    stored: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            stored[name] = orjson.dumps(value).decode()
        elif isinstance(value, list):
            stored[name] = np.array([str(item) for item in value], object)
        elif value is not None:
            stored[name] = value
    return stored


def _hex(color: tuple[int, int, int]) -> str:
    return "#" + bytes(color).hex()
