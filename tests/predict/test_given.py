"""Nuclei that another program has found are classified as they are."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lymphinfer.annotations.outlines import read_outlines
from lymphinfer.batch.job import Job, check_jobs
from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.cells.given import read_given
from lymphinfer.cells.outlines import Rings, clean
from lymphinfer.cells.stars import stars
from lymphinfer.cells.table import read_ids, read_rings
from lymphinfer.errors import AnnotationError, LymphinferError
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings

from .conftest import MPP, disc_image, write_svs

SLIDE = {"dimensions": (640, 512), "mpp": MPP}


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory) -> Path:
    image, _ = disc_image(640, 512, spacing=56)
    return write_svs(tmp_path_factory.mktemp("given") / "discs.svs", image)


def circle(x: float, y: float, radius: float = 10, vertices: int = 24) -> list[list[float]]:
    angles = np.linspace(0, 2 * np.pi, vertices + 1)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).tolist()


def feature(ring: list[list[float]], **properties: object) -> dict[str, object]:
    return {"type": "Feature", "id": str(uuid.uuid4()), "properties": {"objectType": "detection"} |
            properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}  # fmt: skip


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def nuclei(result, name: str) -> np.ndarray:
    return np.concatenate([t.column(name).to_numpy() for t in result.tables()])


@pytest.mark.parametrize("kind", ["patch", "two"])
def test_its_own_nuclei_come_back_with_the_same_ids_and_probabilities(
    kind, small_slide, disc_bundle, two_scale_bundle, tmp_path
):
    settings = PredictSettings(
        bundle=str(disc_bundle if kind == "patch" else two_scale_bundle), device="cpu",
        runtime="torch", tile_px=256, workers=1,
    )  # fmt: skip
    bundle = load_bundle(settings.bundle)
    first = predict_slide(small_slide, tmp_path / "a", settings=settings, bundle=bundle)
    given = replace(settings, nuclei=str(first.file))
    second = predict_slide(small_slide, tmp_path / "b", settings=given, bundle=bundle)
    one, two = open_result(first.folder), open_result(second.folder)
    assert one.nuclei == two.nuclei > 20
    ids = [np.concatenate([read_ids(t) for t in r.tables()]) for r in (one, two)]
    rows = [np.lexsort(i.T) for i in ids]
    assert (ids[0][rows[0]] == ids[1][rows[1]]).all()
    rings = [next(iter(r.tables())) for r in (one, two)]
    assert (read_rings(rings[0]).coords == read_rings(rings[1]).coords).all()
    change = nuclei(one, "p_cd45")[rows[0]] - nuclei(two, "p_cd45")[rows[1]]
    assert np.mean(np.abs(change) <= 0.02) >= 0.99
    found = [nuclei(r, "detection_probability")[i] for r, i in zip((one, two), rows, strict=True)]
    assert np.allclose(*found, atol=1e-3)
    assert two.summary["nuclei_from"]["nuclei"] == two.nuclei
    assert any("none were detected" in warning for warning in two.warnings)
    # Finished under these nuclei: not computed again, and other nuclei are.
    assert predict_slide(small_slide, tmp_path / "b", settings=given, bundle=bundle).seconds < 5
    half = json.loads(json.dumps({"type": "FeatureCollection", "features": [
        feature(circle(100, 100)), feature(circle(300, 300))]}))  # fmt: skip
    other = replace(settings, nuclei=str(written(tmp_path / "half.geojson", half)))
    third = predict_slide(small_slide, tmp_path / "b", settings=other, bundle=bundle)
    assert third.n_nuclei == 2


def test_a_cell_is_read_by_its_nucleus_and_annotations_beside_it_are_not(tmp_path):
    cell = feature(circle(50, 50, 20), objectType="cell") | {
        "nucleusGeometry": {"type": "Polygon", "coordinates": [circle(50, 50)]}
    }
    drawn = feature(circle(100, 100, 90), objectType="annotation")
    path = written(tmp_path / "cells.geojson", [cell, drawn])
    found = read_given(path, **SLIDE)
    assert len(found) == 1
    assert uuid.UUID(bytes=found.ids[0].tobytes()) == uuid.UUID(str(cell["id"]))
    assert np.ptp(found.rings.coords[:, 0]) == pytest.approx(20, abs=0.1)
    assert len(found.rings[0]) == 24  # as given, not simplified
    assert any("annotations passed over" in note for note in found.notes)


def test_other_programs_nuclei_are_read(tmp_path):
    by_class = {"type": "Feature", "id": str(uuid.uuid4()),
                "geometry": {"type": "MultiPolygon", "coordinates":
                             [[circle(50, 50)], [circle(150, 50)]]},
                "properties": {"objectType": "annotation",
                               "classification": {"name": "Inflammatory"}}}  # fmt: skip
    cellvit = read_outlines(written(tmp_path / "cellvit.geojson", [by_class]))
    assert [item.class_name for item in cellvit.items] == ["Inflammatory"] * 2
    listed = {"type_map": {}, "cells": [{"contour": circle(60, 60)[:-1], "type_prob": 0.7}]}
    assert len(read_outlines(written(tmp_path / "cells.json", listed)).items) == 1
    hovernet = {"mag": 40, "nuc": {"7": {"contour": circle(60, 60)[:-1]}}}
    assert read_outlines(written(tmp_path / "hover.json", hovernet)).items[0].number == 7
    ranger = {"type": "FeatureCollection", "features": [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [circle(60 * i, 60)]},
         "properties": {"cell_id": i}} for i in (1, 2)]}  # fmt: skip
    assert read_given(written(tmp_path / "sr.geojson", ranger), **SLIDE).numbers.tolist() == [1, 2]


def test_a_bow_tie_is_mended_and_a_ring_that_runs_backwards_turned(tmp_path):
    bow = [[40, 40], [60, 60], [60, 40], [40, 62], [40, 40]]
    path = written(tmp_path / "n.geojson", [feature(bow), feature(circle(100, 100)[::-1])])
    found = read_given(path, **SLIDE)
    assert len(found) == 2
    assert any("cross themselves mended: 1" in note for note in found.notes)


WRONG = {
    "empty": ([], "no nuclei in it"),
    "point": ([{"type": "Feature", "properties": {"objectType": "detection"},
                "geometry": {"type": "Point", "coordinates": [5, 5]}}], "a Point has no outline"),
    "elsewhere": ([feature(circle(9000, 100))], "beyond the slide"),
    "micrometres": ([feature(circle(100 * MPP, 100 * MPP, 10 * MPP))], "seem to be µm"),
    "areas": ([feature(circle(200, 200, 150), objectType="annotation")], "is no nucleus"),
    "nan": ([feature([[1, 1], [float("nan"), 9], [9, 9], [1, 1]])], "no finite number"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_nuclei_is_told(name, tmp_path):
    content, words = WRONG[name]
    path = written(tmp_path / "n.geojson", {"type": "FeatureCollection", "features": content})
    with pytest.raises(AnnotationError, match=words) as told:
        read_given(path, **SLIDE)
    assert str(path) in str(told.value)


def test_an_id_that_stands_twice_is_told(tmp_path):
    one = feature(circle(100, 100))
    path = written(tmp_path / "n.geojson", [one, feature(circle(200, 200)) | {"id": one["id"]}])
    with pytest.raises(AnnotationError, match="stands there twice"):
        read_given(path, **SLIDE)


def test_a_star_has_the_outline_s_own_rays():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    found = stars(Rings(square, np.array([0, 4])), 8)
    assert np.allclose(found.outlines[0, [0, 1, 2]], [[10, 5], [10, 10], [5, 10]])
    assert np.allclose(found.origins, 5)


def test_the_point_of_a_stardist_outline_is_found_again():
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    waves = rng.uniform(-1.5, 1.5, (200, 3, 1)) * np.cos(
        np.arange(1, 4)[:, None] * angles + rng.uniform(0, 6, (200, 3, 1))
    )
    reach = 10 + waves.sum(axis=1)
    points = rng.uniform(100, 900, (200, 2))
    outlines = points[:, None] + reach[:, :, None] * rays
    cleaned = clean(outlines)
    assert np.median(cleaned.rings.counts) == 16
    found = stars(cleaned.rings)
    away = np.linalg.norm(found.origins - points[cleaned.kept], axis=1)
    # Outlines are scaled a little when vertices go, and their points move by as much.
    assert np.quantile(away, 0.98) < 0.05
    ends = np.linalg.norm(found.outlines - outlines[cleaned.kept], axis=2)
    assert np.quantile(ends, 0.95) < 0.5


def test_a_detector_beside_given_nuclei_is_refused():
    with pytest.raises(LymphinferError, match="none are detected where --nuclei gives nuclei"):
        PredictSettings(nuclei="cells.geojson", detector="stardist")
    jobs = [Job(Path("a.svs"), Path("a"), nuclei="a.geojson"), Job(Path("b.svs"), Path("b"))]
    with pytest.raises(LymphinferError, match="leave --detector away, or those slides"):
        check_jobs(jobs, PredictSettings(detector="stardist"))
