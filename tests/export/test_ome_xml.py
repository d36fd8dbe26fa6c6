"""ROIs as OME's own model reads them."""

import numpy as np
import pytest

from lymphinfer.export.views import write_view
from tests.cells.nuclei_made import nuclei
from tests.export.results_made import made_nuclei, made_result, spread_centers


@pytest.fixture
def table():
    return made_nuclei(spread_centers(12), np.linspace(0, 1, 12), calls=np.arange(12) % 5)


def test_omes_own_model_reads_every_nucleus(tmp_path, table):
    ome_types = pytest.importorskip("ome_types", reason="ome-types is not installed")
    result = made_result(tmp_path / "a", [table.slice(0, 5), table.slice(5)], name='l<"&>ng.svs')
    path = write_view(result, "ome-xml")
    ome = ome_types.from_xml(path)
    image = ome.images[0]
    assert image.name == 'l<"&>ng.svs'
    assert (image.pixels.size_x, image.pixels.size_y) == (2000, 1500)
    assert image.pixels.physical_size_x == 0.25
    assert image.pixels.physical_size_x_unit.value == "µm"
    assert [roi.id for roi in ome.rois] == [reference.id for reference in image.roi_refs]
    rows = table.to_pylist()
    assert len(ome.rois) == 12
    for roi, row in zip(ome.rois, rows, strict=True):
        (shape,) = roi.union
        assert type(shape).__name__ == "Polygon"
        points = np.array([p.split(",") for p in shape.points.split()], float)
        np.testing.assert_array_equal(points.ravel(), np.array(row["polygon"]) / 100)
        assert "Area µm^2 28" in roi.description
    assert {roi.name for roi in ome.rois} == {
        "Other", "CD45", "CD45: CD3e", "CD45: CD3e: CD4", "CD45: CD3e: CD8a"
    }  # fmt: skip
    colors = {roi.name: roi.union[0].stroke_color.as_rgb_tuple() for roi in ome.rois}
    assert colors["CD45"][:3] == (240, 228, 66)


def test_the_file_keeps_to_omes_schema(tmp_path, table):
    ome_types = pytest.importorskip("ome_types", reason="ome-types is not installed")
    pytest.importorskip("xmlschema", reason="xmlschema is not installed")
    result = made_result(tmp_path / "a", [table])
    ome_types.validate_xml(write_view(result, "ome-xml"))


def test_a_slide_without_nuclei_is_an_image_without_rois(tmp_path):
    ome_types = pytest.importorskip("ome_types", reason="ome-types is not installed")
    result = made_result(tmp_path / "a", [nuclei(np.empty((0, 32, 2)))])
    assert ome_types.from_xml(write_view(result, "ome-xml")).rois == []
