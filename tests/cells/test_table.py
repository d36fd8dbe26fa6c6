"""The nucleus table is exact, complete, and the same whatever the order of the tiles."""

import uuid

import numpy as np
import pyarrow as pa
import pytest
import shapely

from lymphinfer.cells.outlines import clean
from lymphinfer.cells.table import (
    NAMESPACE,
    build_table,
    measurements,
    nucleus_ids,
    read_calls,
    read_ids,
    read_rings,
    schema,
)
from lymphinfer.columns import bytes_column, content_of, number_column, text_column, values_of
from lymphinfer.errors import ResultError
from lymphinfer.panel import TCELL_PANEL
from tests.cells.nuclei_made import nuclei, outlines


def made(rings, order, **changes):
    rng = np.random.default_rng(3)
    n = len(rings)
    probability = rng.uniform(size=n)
    probabilities = rng.uniform(size=(n, 4))
    calls = rng.integers(0, 5, n)
    return build_table(
        TCELL_PANEL,
        slide_identity="slide-1",
        bundle_sha256="ab" * 32,
        rings=rings.take(order),
        detection_probability=probability[order],
        probabilities=probabilities[order],
        calls=calls[order],
        mpp=0.5,
        **changes,
    )


def test_columns_are_those_that_pyarrow_makes():
    values = np.random.default_rng(0).normal(size=40).astype(np.float32)[::2]
    missing = values > 0.5
    assert number_column(values).equals(pa.array(values))
    assert number_column(values, missing).equals(pa.array(values, mask=missing))
    assert number_column(values, missing).null_count == missing.sum() > 0
    for column in (pa.array(values), pa.array(values, mask=missing), pa.array([1, None, 3]),
                   pa.array(np.arange(9, dtype=np.int8)), pa.array([], pa.float32())):  # fmt: skip
        for part in (column, column[1:], pa.chunked_array([column, column[:1], column[2:]])):
            expected = part.to_numpy(*(() if isinstance(part, pa.ChunkedArray) else (False,)))
            found = values_of(part)
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
    with pytest.raises(TypeError, match="string has no numbers"):
        values_of(pa.array(["a"]))
    texts = ["CD45: CD3e", "", "ß-Zelle"]
    assert text_column(texts).equals(pa.array(texts))
    for column in (number_column(values, missing), text_column(texts)):
        column.validate(full=True)


def test_texts_one_behind_the_other_are_a_column_and_back():
    column = bytes_column(b"CD45CD3e", np.array([4, 4, 8]), np.array([False, True, False]))
    column.validate(full=True)
    assert column.to_pylist() == [b"CD45", None, b"CD3e"]
    assert content_of(column) == b"CD45CD3e"
    assert content_of(column[1:]) == b"CD3e"
    assert content_of(column[:0]) == content_of(bytes_column(b"", np.array([], int))) == b""


def test_the_columns_are_those_of_the_panel():
    table = nuclei(outlines(7))
    assert table.schema.equals(schema(TCELL_PANEL), check_metadata=True)
    assert [n for n in table.column_names if n.startswith("p_")] == [
        "p_cd45",
        "p_cd3e",
        "p_cd4",
        "p_cd8a",
    ]
    assert table.schema.metadata[b"lymphinfer.panel"] == b"t-cell"
    table.validate(full=True)


def test_the_table_is_the_same_for_any_order_of_the_tiles():
    rings = clean(outlines(300)).rings
    forward = made(rings, np.arange(300))
    shuffled = made(rings, np.random.default_rng(1).permutation(300))
    assert forward.equals(shuffled)
    assert forward.column("y").to_pylist() == sorted(forward.column("y").to_pylist())


def test_coordinates_stay_exact_on_the_widest_slide():
    x, y = 199_999.99, 131_072.01
    square = np.array([[[x, y], [x + 0.02, y], [x + 10, y + 10], [x, y + 10]]])
    ring = read_rings(nuclei(square))[0]
    assert ring.tolist() == np.round(square[0], 2).tolist()


def test_area_and_centroid_are_in_um_and_level0_px():
    square = np.array([[[100, 200], [110, 200], [110, 210], [100, 210]]], float)
    row = nuclei(square, mpp=0.5).to_pylist()[0]
    assert (row["x"], row["y"], row["area_um2"]) == (105.0, 205.0, 25.0)


def test_an_id_is_a_uuid5_that_anyone_can_make_again_from_the_row():
    row = nuclei(outlines(1)).to_pylist()[0]
    found = uuid.UUID(bytes=row["id"])
    space = uuid.uuid5(NAMESPACE, "slide-1\n" + "ab" * 32)
    assert found == uuid.uuid5(space, f"{round(row['x'] * 100)} {round(row['y'] * 100)}")
    assert (found.version, found.variant) == (5, uuid.RFC_4122)


def test_another_slide_or_bundle_gives_other_ids():
    centers = np.array([[1, 2], [3, 4]])
    ids = {
        bytes(row)
        for slide, bundle in [("a", "x"), ("b", "x"), ("a", "y")]
        for row in nucleus_ids(slide, bundle, centers)
    }
    assert len(ids) == 6


def test_coincident_nuclei_get_different_ids_in_any_order():
    inner = np.array([[90, 90], [110, 90], [110, 110], [90, 110]], float)
    outer = np.array([[80, 80], [120, 80], [120, 120], [80, 120]], float)
    one = nuclei(np.array([inner, outer]), detection_probability=[0.5, 0.9], calls=np.zeros(2, int))
    two = nuclei(np.array([outer, inner]), detection_probability=[0.9, 0.5], calls=np.zeros(2, int))
    columns = ["id", "area_um2", "polygon", "detection_probability"]
    assert len(set(one.column("id").to_pylist())) == 2
    assert one.select(columns).equals(two.select(columns))


def test_each_nucleus_keeps_its_own_values_when_sorted():
    rings = clean(outlines(50)).rings
    table = made(
        rings,
        np.arange(50),
        extras={"vertex_sum": [ring.sum() for ring in map(rings.__getitem__, range(50))]},
    )
    sums = [read_rings(table)[i].sum() for i in range(50)]
    assert table.column("vertex_sum").to_pylist() == pytest.approx(sums)
    areas = [shapely.Polygon(read_rings(table)[i]).area / 4 for i in range(50)]
    assert table.column("area_um2").to_pylist() == pytest.approx(areas)


def test_calls_are_phenotypes():
    table = nuclei(outlines(10))
    assert set(table.column("call").to_pylist()) == set(TCELL_PANEL.calls)
    names = [TCELL_PANEL.calls[i] for i in read_calls(table, TCELL_PANEL)]
    assert names == table.column("call").to_pylist()


def test_a_call_of_another_panel_is_named():
    with pytest.raises(ResultError, match="CD8a"):
        read_calls(nuclei(outlines(10)), TCELL_PANEL.subset(["CD45", "CD3e", "CD4"]))


def test_missing_values_are_null_and_extras_have_their_qupath_name():
    table = nuclei(outlines(2), extras={"mean_hematoxylin": [np.nan, 2]})
    assert table.column("mean_hematoxylin").null_count == 1
    assert measurements(table.schema)["mean_hematoxylin"] == "Mean hematoxylin"


def test_an_empty_table_has_the_same_schema():
    table = nuclei(np.empty((0, 32, 2)))
    assert table.num_rows == 0
    assert table.schema.equals(schema(TCELL_PANEL))
    assert len(read_rings(table)) == len(read_ids(table)) == 0


def test_slices_of_a_table_read_as_their_own_rows():
    table = pa.concat_tables([nuclei(outlines(5)), nuclei(outlines(5, seed=1))])
    part = table.slice(3, 4)
    assert [bytes(i) for i in read_ids(part)] == part.column("id").to_pylist()
    first = np.array(part.column("polygon")[0].as_py()).reshape(-1, 2) / 100
    assert np.array_equal(read_rings(part)[0], first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calls": np.array([0, 5])}, "calls must index"),
        ({"calls": np.array([0, -1])}, "calls must index"),
        ({"probabilities": np.zeros((2, 3))}, "probabilities must be"),
        ({"detection_probability": [0.5]}, "detection_probability must have shape"),
        ({"extras": {"roundness": [1.0]}}, "roundness must have shape"),
    ],
)
def test_columns_that_disagree_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        nuclei(outlines(2), **changes)
