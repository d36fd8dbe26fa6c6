"""The AnnData and SpatialData views, opened as their users open them."""

import json

import numpy as np
import pytest

from lymphinfer.errors import ResultError
from lymphinfer.export.results import open_result
from lymphinfer.export.views import write_view
from tests.cells.nuclei_made import nuclei, outlines
from tests.export.results_made import BALANCED, STAIN, made_nuclei, made_result, spread_centers


@pytest.fixture
def table():
    calls = np.arange(50) % 2
    return made_nuclei(spread_centers(50), np.linspace(0.01, 0.99, 50), calls=calls)


@pytest.fixture
def result(tmp_path, table):
    return made_result(tmp_path / "lung", [table.slice(0, 20), table.slice(20)],
                       warnings=["look out"])  # fmt: skip


def test_a_file_holds_probabilities_markers_and_positions_in_um(result, table):
    anndata = pytest.importorskip("anndata", reason="the extra anndata is not installed")
    path = write_view(result, "anndata")
    data = anndata.read_h5ad(path)
    assert path.name == "lung.h5ad"
    assert data.shape == (50, 4) and data.X.dtype == np.float32
    assert data.var_names.tolist() == ["CD45", "CD3e", "CD4", "CD8a"]
    for i, key in enumerate(("cd45", "cd3e", "cd4", "cd8a")):
        np.testing.assert_array_equal(data.X[:, i], table.column(f"p_{key}").to_numpy())
    np.testing.assert_allclose(
        data.obsm["spatial"], 0.25 * np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1)
    )
    assert data.obs["call"].cat.categories.tolist() == ["Other", "CD45", "CD3e", "CD4", "CD8a"]
    assert data.obs["call"].tolist() == table["call"].to_pylist()
    assert data.obs_names.is_unique and len(data.obs_names[0]) == 36
    assert data.obs["label"].tolist() == list(range(1, 51))
    assert set(data.obs["slide"]) == {"lung.svs"}


def test_a_file_says_what_stands_behind_each_marker(result):
    anndata = pytest.importorskip("anndata", reason="the extra anndata is not installed")
    data = anndata.read_h5ad(write_view(result, "anndata"))
    assert data.var["evidence"].tolist() == ["stain", *["base-rate"] * 3]
    assert data.var["learned"].tolist() == [True, False, False, False]
    assert data.var.loc["CD45", "auroc"] == 0.942 and data.var.loc["CD3e", "rate"] == 0.38
    assert np.isnan(data.var.loc["CD3e", "auroc"])
    made = data.uns["lymphinfer"]
    assert made["bundle_sha256"] == "ab" * 32 and made["mpp"] == 0.25
    assert list(made["warnings"]) == ["look out"]
    assert list(data.uns["call_colors"]) == ["#a0a0a0", "#f0e442", "#009e73", "#56b4e9", "#d55e00"]


def test_a_file_says_from_where_on_nuclei_were_called(tmp_path):
    anndata = pytest.importorskip("anndata", reason="the extra anndata is not installed")
    result = made_result(tmp_path, [nuclei(outlines(5))], evidence=STAIN, point=BALANCED)
    data = anndata.read_h5ad(write_view(result, "anndata"))
    assert data.var["called"].tolist() == [True, True, True, False]
    assert data.var["patients"].tolist() == [1] * 4
    assert data.var.loc["CD45", ["threshold", "precision", "recall"]].tolist() == [0.4, 0.7, 0.75]
    assert np.isnan(data.var.loc["CD8a", "threshold"])
    assert json.loads(data.uns["lymphinfer"]["operating_point"]) == BALANCED


def test_a_slide_without_nuclei_is_an_empty_file(tmp_path):
    anndata = pytest.importorskip("anndata", reason="the extra anndata is not installed")
    result = made_result(tmp_path / "a", [nuclei(np.empty((0, 32, 2)))])
    data = anndata.read_h5ad(write_view(result, "anndata"))
    assert data.shape == (0, 4) and data.obsm["spatial"].shape == (0, 2)


def test_squidpy_finds_the_neighbours_of_every_nucleus(result):
    anndata = pytest.importorskip("anndata", reason="the extra anndata is not installed")
    squidpy = pytest.importorskip("squidpy", reason="squidpy is not installed")
    data = anndata.read_h5ad(write_view(result, "anndata"))
    if hasattr(squidpy.gr, "spatial_neighbors_radius"):
        squidpy.gr.spatial_neighbors_radius(data, radius=15)
    else:
        squidpy.gr.spatial_neighbors(data, coord_type="generic", radius=15)
    distances = data.obsp["spatial_distances"]
    positions = data.obsm["spatial"]
    rows, columns = distances.nonzero()
    assert len(rows) > 0
    between = np.linalg.norm(positions[rows] - positions[columns], axis=1)
    np.testing.assert_allclose(between, np.asarray(distances[rows, columns]).ravel())
    assert between.max() <= 15
    squidpy.gr.nhood_enrichment(data, cluster_key="call", show_progress_bar=False)


def test_spatialdata_annotates_the_outlines(result, table):
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    path = write_view(result, "spatialdata")
    write_view(result, "spatialdata")
    data = spatialdata.read_zarr(path)
    shapes, annotations = data.shapes["nuclei"], data.tables["table"]
    assert len(shapes) == 50 and annotations.obs["label"].tolist() == shapes.index.tolist()
    np.testing.assert_allclose(shapes.centroid.x, table["x"].to_numpy(), atol=0.011)
    um = spatialdata.transform(shapes, to_coordinate_system="um")
    np.testing.assert_allclose(um.area, table["area_um2"].to_numpy(), rtol=1e-5)
    assert sorted(p.name for p in result.folder.iterdir() if p.name.startswith(".")) == []


def test_a_folder_of_something_else_is_not_replaced(result, tmp_path):
    pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ResultError, match="no Zarr folder"):
        write_view(result, "spatialdata", tmp_path / "mine")


def test_a_missing_package_names_the_extra(result, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ResultError, match=r"pip install 'lymphinfer\[anndata\]'"):
        write_view(result, "anndata")
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    monkeypatch.setitem(sys.modules, "geopandas", None)
    with pytest.raises(ResultError, match=r"lymphinfer\[spatialdata\]"):
        write_view(open_result(result.folder), "spatialdata")
