"""What a QuPath user sees after dropping the file on the open image."""

import errno
import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lymphinfer.cells.outlines import Rings
from lymphinfer.cells.parts import read_parts, write_part
from lymphinfer.cells.table import read_rings
from lymphinfer.errors import ResultError
from lymphinfer.export.geojson import FORMATS, features, write_geojson
from lymphinfer.export.lineage_order import call_lineages, deal
from lymphinfer.export.numerals import number_texts, ring_texts
from lymphinfer.panel import TCELL_PANEL, Marker, Panel
from tests.cells.nuclei_made import nuclei, outlines
from tests.export.qupath_rules import collections, colors_in_qupath, lineage, objects_in_qupath


@pytest.fixture(params=FORMATS)
def fmt(request):
    return request.param


def write(folder, tables, **options):
    return write_geojson(folder / "slide.v1", tables, TCELL_PANEL, **options)


def test_every_nucleus_arrives_with_its_values_in_any_format(tmp_path, fmt):
    table = nuclei(outlines(40))
    path = write(tmp_path, [table], fmt=fmt)
    assert path.name == f"slide.v1.{fmt}"
    found = objects_in_qupath(path)
    rows = table.to_pylist()
    assert len(found) == 40
    by_id = {row["id"].hex(): (row, i) for i, row in enumerate(rows)}
    for feature in found:
        row, i = by_id.pop(feature["id"].replace("-", ""))
        ring = feature["geometry"]["coordinates"][0]
        assert ring[:-1] == read_rings(table)[i].tolist()
        values = feature["properties"]["measurements"]
        assert values == pytest.approx(
            {
                "Detection probability": row["detection_probability"],
                "CD45 probability": row["p_cd45"],
                "CD3e probability": row["p_cd3e"],
                "CD4 probability": row["p_cd4"],
                "CD8a probability": row["p_cd8a"],
                "Area µm^2": row["area_um2"],
            },
            rel=1e-3,
        )


def test_classes_are_the_phenotypes_with_their_colours(tmp_path):
    found = objects_in_qupath(write(tmp_path, [nuclei(outlines(50))]))
    classes = {json.dumps(f["properties"]["classification"]) for f in found}
    assert classes == {
        '{"name": "Other", "color": [160, 160, 160]}',
        '{"name": "CD45", "color": [240, 228, 66]}',
        '{"names": ["CD45", "CD3e"], "color": [0, 158, 115]}',
        '{"names": ["CD45", "CD3e", "CD4"], "color": [86, 180, 233]}',
        '{"names": ["CD45", "CD3e", "CD8a"], "color": [213, 94, 0]}',
    }


def called(calls):
    """Nuclei with these calls, by index in the panel's."""
    return nuclei(outlines(len(calls)), calls=np.asarray(calls))


PANEL_COLORS = {
    tuple(TCELL_PANEL.class_name(call).split(": ")): {TCELL_PANEL.color(call)}
    for call in TCELL_PANEL.calls
}


def test_every_class_keeps_its_colour_whichever_part_qupath_reads_first(tmp_path, fmt):
    # As a slide comes: T cells alone at first, the only plain CD45 and CD3e far behind.
    calls = [4, 3, 4, 3, 4, 4, 3, 0, 0, 0, 0, 2, 2, 4, 0, 1, 1, 0, 2, 1]
    path = write(tmp_path, [called(calls)], fmt=fmt, part_size=7)
    assert len(objects_in_qupath(path)) == len(calls)
    assert colors_in_qupath(path) == PANEL_COLORS
    assert all(len(c["features"]) <= 7 for c, _ in collections(path)) or fmt != "zip"


def test_a_parent_without_a_nucleus_of_its_own_is_the_one_colour_that_is_lost(tmp_path):
    found = colors_in_qupath(write(tmp_path, [called([4, 0, 2, 3, 2, 0])], part_size=4))
    assert found.pop(("CD45",)) == {None}
    assert found == {k: v for k, v in PANEL_COLORS.items() if k != ("CD45",)}


@given(
    st.lists(st.integers(0, 4), max_size=60),
    st.integers(3, 9),
)
def test_parts_are_full_and_a_parent_is_missing_only_where_there_are_too_few(calls, size):
    lineages = call_lineages(TCELL_PANEL)
    counts = np.bincount(calls, minlength=5)
    parts = deal(counts.tolist(), lineages, size)
    assert np.array_equal(np.sum(parts, axis=0, dtype=int), counts) or not calls
    assert [sum(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    for k, ancestors in enumerate(lineages):
        holding = [part for part in parts if part[k]]
        for a in ancestors:
            without = sum(1 for part in holding if not part[a])
            assert without == 0 or all(part[a] <= 1 for part in holding)


def test_in_plain_geojson_too_the_features_stand_by_depth_and_else_as_they_came(tmp_path):
    table = called([3, 1, 0, 2, 1, 0, 4])
    found = objects_in_qupath(write(tmp_path, [table], fmt="geojson"))
    assert [len(lineage(f)) for f in found] == [1, 1, 1, 1, 2, 3, 3]
    rows = table.to_pylist()
    for names in (("Other",), ("CD45",), ("CD45", "CD3e", "CD8a")):
        ids = [f["id"].replace("-", "") for f in found if lineage(f) == names]
        assert ids == [row["id"].hex() for row in rows if row["call"] == names[-1]]


def test_nuclei_stand_where_qupath_crops_the_image_to(tmp_path, fmt):
    table = nuclei(outlines(5))
    here = objects_in_qupath(write(tmp_path, [table], fmt=fmt))
    there = objects_in_qupath(write(tmp_path, [table], fmt=fmt, offset_level0=(1234, 200_000.5)))
    for a, b in zip(here, there, strict=True):
        assert a["id"] == b["id"]
        moved = np.subtract(a["geometry"]["coordinates"], b["geometry"]["coordinates"])
        np.testing.assert_allclose(
            moved, np.broadcast_to([1234, 200_000.5], moved.shape), rtol=0, atol=1e-6
        )


def test_a_zip_holds_numbered_parts_of_the_size_that_qupath_opens_in_little_memory(tmp_path):
    tables = [nuclei(outlines(n, seed=n)) for n in (3, 9, 0, 8)]
    path = write(tmp_path, tables, part_size=6)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"slide.v1-000{i}.geojson" for i in (1, 2, 3, 4)]
    assert [len(c["features"]) for c, _ in collections(path)] == [6, 6, 6, 2]
    ids = [f["id"].replace("-", "") for f in objects_in_qupath(path)]
    assert set(ids) == {i.hex() for t in tables for i in t.column("id").to_pylist()}


def test_a_full_part_makes_no_empty_one_after_it(tmp_path):
    path = write(tmp_path, [nuclei(outlines(6))], part_size=3)
    assert [len(c["features"]) for c, _ in collections(path)] == [3, 3]


@pytest.mark.parametrize("tables", [[], [nuclei(np.empty((0, 32, 2)))]])
def test_a_slide_without_nuclei_is_one_empty_collection(tmp_path, fmt, tables):
    path = write(tmp_path, tables, fmt=fmt, provenance={"version": "1"})
    ((collection, _),) = collections(path)
    assert collection == {
        "type": "FeatureCollection",
        "lymphinfer": {"version": "1"},
        "features": [],
    }


def test_the_file_says_what_made_it(tmp_path, fmt):
    provenance = {
        "version": "0.1.0",
        "bundle": "he-v1",
        "bundle_sha256": "ab" * 32,
        "evidence": {"CD45": "stain", "CD4": "base-rate"},
        "mpp": np.float64(0.25),
        "slide": tmp_path,
        "warning": "Bürste",
    }
    path = write(tmp_path, [nuclei(outlines(5))], fmt=fmt, provenance=provenance, part_size=2)
    for collection, _ in collections(path):
        assert collection["lymphinfer"]["evidence"] == provenance["evidence"]
        assert collection["lymphinfer"]["slide"] == str(tmp_path)
        assert collection["lymphinfer"]["warning"] == "Bürste"


def test_without_provenance_the_collection_has_no_such_member(tmp_path):
    ((collection, _),) = collections(write(tmp_path, [], fmt="geojson"))
    assert "lymphinfer" not in collection


def test_the_same_nuclei_give_the_same_bytes_however_they_come_in_tables(tmp_path, fmt):
    table = nuclei(outlines(30))
    first = write(tmp_path, [table], fmt=fmt, part_size=7).read_bytes()
    pieces = [table.slice(0, 11), table.slice(11, 0), table.slice(11)]
    (tmp_path / "again").mkdir()
    second = write(tmp_path / "again", pieces, fmt=fmt, part_size=7).read_bytes()
    assert first == second


def test_parts_on_disk_give_the_same_file_as_the_tables(tmp_path):
    tables = [nuclei(outlines(20, seed=i)) for i in range(3)]
    for i, table in enumerate(tables):
        write_part(tmp_path / "parts" / f"shard-{i}.parquet", table, "p")
    direct = write(tmp_path, tables).read_bytes()
    parts = read_parts(tmp_path / "parts", TCELL_PANEL)
    assert write(tmp_path, parts).read_bytes() == direct


def test_missing_measurements_are_left_out(tmp_path):
    probabilities = np.array([[0.5, np.nan, 0.25, np.nan], [0.9, 0.8, 0.7, 0.6]])
    table = nuclei(
        outlines(2), probabilities=probabilities, extras={"100% odd: name": [np.inf, 1e-7]}
    )
    found = objects_in_qupath(write(tmp_path, [table]))
    by_size = sorted((f["properties"]["measurements"] for f in found), key=len)
    assert set(by_size[0]) == {
        "Detection probability",
        "CD45 probability",
        "CD4 probability",
        "Area µm^2",
    }
    assert by_size[1]["100% odd: name"] == 1e-7


def test_a_name_with_a_percent_sign_is_written_as_it_is(tmp_path):
    table = nuclei(outlines(2), extras={"positive_%": [1, 2]})
    found = objects_in_qupath(write(tmp_path, [table]))
    assert {f["properties"]["measurements"]["Positive %"] for f in found} == {1, 2}


def test_a_suffix_that_is_there_is_not_added_again(tmp_path):
    assert write_geojson(tmp_path / "a.zip", [], TCELL_PANEL) == tmp_path / "a.zip"


def test_the_stem_of_the_parts_can_be_chosen(tmp_path):
    path = write_geojson(tmp_path / "a", [], TCELL_PANEL, stem="lung/1:2")
    assert zipfile.ZipFile(path).namelist() == ["lung_1_2-0001.geojson"]


def test_a_gzip_names_no_file_and_no_time(tmp_path):
    header = write(tmp_path, [], fmt="geojson.gz").read_bytes()[:10]
    assert header[3] == 0
    assert header[4:8] == bytes(4)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="geojsonl"):
        write(tmp_path, [], fmt="geojsonl")


def replaced(table, column, values):
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    return table.set_column(index, field, pa.array(values, field.type))


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 1000, 0], "fewer than 3 vertices"),
        ([0, 0, 1000, 0, 1000, 1000, 5], "x without a y"),
        ([0, 0, 1000, 1000, 1000, 0, 0, 1000], "crosses itself"),
        ([0, 0, 1000, 1000, 2000, 2000], "flat"),
    ],
)
def test_a_nucleus_that_would_fail_the_file_is_named_and_nothing_is_written(
    tmp_path, fmt, polygon, message
):
    table = nuclei(outlines(3))
    bad = replaced(table, "polygon", [*table.column("polygon").to_pylist()[:2], polygon])
    with pytest.raises(ResultError, match=rf"nucleus [0-9a-f-]{{36}} at x .*{message}"):
        write(tmp_path, [bad], fmt=fmt)
    assert not list(tmp_path.iterdir())


def test_an_id_that_comes_twice_is_named_even_in_another_part(tmp_path):
    table = nuclei(outlines(10))
    twice = table.column("id")[4].as_py().hex()
    with pytest.raises(ResultError, match="more than once") as caught:
        write(tmp_path, [table, table.slice(4, 1)], part_size=4)
    assert twice in str(caught.value).replace("-", "")
    assert not list(tmp_path.iterdir())


def test_a_missing_call_is_named(tmp_path):
    table = nuclei(outlines(2))
    column = pa.array(["CD45", None]).dictionary_encode()
    bad = table.drop_columns("call").append_column("call", column)
    with pytest.raises(ResultError, match="row 1 of the table has no call"):
        write(tmp_path, [bad])


@pytest.mark.parametrize(
    ("name", "color"), [("CD3:e", (1, 2, 3)), (" ", (1, 2, 3)), ("A", (0, 0, 256))]
)
def test_a_panel_that_qupath_cannot_hold_is_refused(tmp_path, name, color):
    panel = Panel("odd", (Marker(name, None, color),))
    with pytest.raises(ResultError, match="odd"):
        write_geojson(tmp_path / "a", [], panel)


def test_a_full_disk_leaves_the_file_from_before(tmp_path, fmt, monkeypatch):
    path = write(tmp_path, [nuclei(outlines(3))], fmt=fmt)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match="disk is full"):
        write(tmp_path, [nuclei(outlines(9))], fmt=fmt)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def many():
    """More nuclei than are checked, written or packed at a time, some without a measurement."""
    table = nuclei(outlines(12_000))
    values = table.column("p_cd4").to_numpy().copy()
    values[[5, 9000]] = np.nan
    return replaced(table, "p_cd4", [None if np.isnan(v) else v for v in values])


def test_the_number_of_threads_changes_no_byte(tmp_path, fmt, many, monkeypatch):
    written = set()
    for count in (1, 2, 7):
        monkeypatch.setattr("lymphinfer.export.geojson.threads", lambda n=count: n)
        written.add(write(tmp_path, [many], fmt=fmt, part_size=5500).read_bytes())
    assert len(written) == 1


def test_thousands_of_nuclei_are_written_as_each_is_alone(tmp_path, fmt, many):
    path = write(tmp_path, [many], fmt=fmt, part_size=5500)
    if fmt == "zip":
        with zipfile.ZipFile(path) as archive:
            texts = [archive.read(name) for name in archive.namelist()]
    else:
        content = path.read_bytes()
        texts = [gzip.decompress(content) if fmt == "geojson.gz" else content]
    lines = [line.removesuffix(b",") for text in texts for line in text.split(b"\n")[1:-2]]
    ids = [orjson.loads(line)["id"].replace("-", "") for line in lines]
    assert sorted(ids) == sorted(i.hex() for i in many.column("id").to_pylist())
    rows = [*range(0, 12_000, 97), 5, 9000]
    assert {features(many.slice(row, 1), TCELL_PANEL) for row in rows} <= set(lines)
    assert sum(b'"CD4 probability"' not in line for line in lines) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_among_thousands_leaves_no_file(tmp_path, fmt, many, count, monkeypatch):
    monkeypatch.setattr("lymphinfer.export.geojson.threads", lambda: count)
    rings = many.column("polygon").to_pylist()
    rings[11_000] = [0, 0, 1000, 0]
    with pytest.raises(ResultError, match="fewer than 3 vertices"):
        write(tmp_path, [replaced(many, "polygon", rings)], fmt=fmt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 3])
def test_a_disk_that_fills_up_while_parts_are_written_leaves_no_file(
    tmp_path, many, count, monkeypatch
):
    monkeypatch.setattr("lymphinfer.export.geojson.threads", lambda: count)
    done = []

    def full(archive, name, text):
        done.append(name)
        if len(done) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lymphinfer.export.geojson.add_packed", full)
    with pytest.raises(ResultError, match="disk is full"):
        write(tmp_path, [many], part_size=1000)
    assert len(done) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_full_before_anything_is_written_is_told(tmp_path, fmt, many, monkeypatch):
    full = Path("/dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: full.open("r+b", buffering=0))
    with pytest.raises(ResultError, match="disk is full"):
        write(tmp_path, [many], fmt=fmt)
    assert not list(tmp_path.iterdir())


def test_tables_whose_calls_are_numbered_otherwise_are_one_file(tmp_path):
    table = called([4, 0, 2, 3, 1])
    other = nuclei(outlines(5, seed=1), calls=np.array([1, 2, 0, 3, 4]), slide_identity="slide-2")
    turned = replaced(other, "call", other.column("call").to_pylist())
    backwards = pa.array(TCELL_PANEL.calls[::-1])
    index = pa.array([backwards.index(call).as_py() for call in turned.column("call")], pa.int8())
    column = pa.DictionaryArray.from_arrays(index, backwards)
    place = other.schema.get_field_index("call")
    turned = other.set_column(place, other.schema.field(place), column)
    first = write(tmp_path, [table, turned], part_size=4).read_bytes()
    assert write(tmp_path, [table, other], part_size=4).read_bytes() == first


def test_features_alone_are_a_json_list_without_its_brackets():
    table = nuclei(outlines(3))
    assert len(json.loads(b"[" + features(table, TCELL_PANEL) + b"]")) == 3
    assert features(table.slice(0, 0), TCELL_PANEL) == b""


radii = arrays(float, (4, 32), elements=st.floats(0, 0.02) | st.floats(0, 50))
points = arrays(float, (4, 12, 2), elements=st.floats(-0.05, 0.05) | st.floats(-30, 30))


@settings(max_examples=40, deadline=None)
@given(radii, points, st.sampled_from([0.0, 60.0, 131_072.0, 199_990.0]))
def test_whatever_the_detector_outlines_qupath_can_read(tmp_path_factory, radii, points, origin):
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    stars = radii[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    folder = tmp_path_factory.mktemp("any")
    tables = [nuclei(stars + origin), nuclei(points + origin, slide_identity="slide-2")]
    found = objects_in_qupath(write(folder, tables, part_size=3))
    assert len(found) == sum(t.num_rows for t in tables)


@given(
    arrays(
        np.int64, (3, 2), elements=st.integers(-(10**4), 10**4) | st.integers(-(10**10), 10**10)
    ),
)
def test_coordinates_read_back_exactly(hundredths):
    rings = Rings(hundredths / 100, np.array([0, 3]))
    (text,) = ring_texts(rings).to_pylist()
    assert json.loads(text) == [
        *(hundredths / 100).tolist(),
        [*(hundredths[0] / 100)],
    ]


@given(arrays(np.float32, 5, elements=st.floats(width=32)))
def test_measurements_keep_four_digits_and_stay_finite(values):
    for value, text in zip(values, number_texts(values).to_pylist(), strict=True):
        if np.isfinite(value):
            assert orjson.loads(text) == pytest.approx(float(value), rel=5.1e-4, abs=0)
        else:
            assert text is None


def test_a_probability_is_written_short():
    assert number_texts(np.array([1 / 3, 1.0, 0.0, 113.04])).to_pylist() == [
        b"0.3333",
        b"1.0",
        b"0.0",
        b"113.0",
    ]


def test_a_gzip_of_several_members_would_read_as_one_file(tmp_path):
    path = write(tmp_path, [nuclei(outlines(3))], fmt="geojson.gz")
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text[:100]) + gzip.compress(text[100:]))
    assert len(objects_in_qupath(path)) == 3
