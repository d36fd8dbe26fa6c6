"""What is suggested is in doubt, of many places, and comes back as labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.cli.app import app
from lymphinfer.errors import AnnotationError, ResultError
from lymphinfer.teaching.marked import read_marked
from lymphinfer.teaching.naming import read_names
from lymphinfer.teaching.suggesting import choose, suggest, write_suggestions
from tests.export.qupath_rules import annotations_in_qupath
from tests.export.results_made import made_nuclei, made_result, spread_centers

SIZE = (4000, 3000)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    centers = spread_centers(2000, dimensions=SIZE)
    p = np.random.default_rng(0).beta(0.3, 0.6, 2000)
    return made_result(tmp_path_factory.mktemp("suggest") / "lung", [made_nuclei(centers, p)],
                       dimensions=SIZE, bounds_offset=(100, 50))  # fmt: skip


def test_three_of_four_are_in_doubt_and_spread_over_the_slide(result):
    found = suggest(result, None, 80)
    assert len(set(found.rows.tolist())) == 80 and found.uncertain == 60
    (table,) = result.tables(("x", "y", "p_cd45"))
    x, y, p = (table.column(i).to_numpy() for i in range(3))
    doubt = np.abs(p - 0.5)
    chosen = found.rows[:60]
    # Of the most uncertain 1,200, among 2,000.
    assert doubt[chosen].max() <= np.sort(doubt)[1200]
    assert np.median(doubt[chosen]) < np.median(doubt)
    quarters = (x[chosen] > SIZE[0] / 2) * 2 + (y[chosen] > SIZE[1] / 2)
    assert np.bincount(quarters.astype(int), minlength=4).min() >= 8
    rest = p[found.rows[60:]]
    assert rest.min() < 0.02 and rest.max() > 0.9


def test_equal_nuclei_are_each_suggested_once():
    n = 30
    found = choose(np.full(n, 0.5), 0.5, np.zeros((n, 2)), np.zeros((n, 2)), 40)
    assert sorted(found.rows.tolist()) == list(range(n))


def test_what_qupath_gives_back_are_labels(result, tmp_path):
    path = write_suggestions(tmp_path / "review.geojson", result, suggest(result, "CD45", 40))
    features = annotations_in_qupath(path)
    assert len(features) == 40
    properties = features[0]["properties"]
    assert properties["name"] == "Suggested 1"
    assert properties["classification"]["name"] == "Suggested"
    assert {"CD45 probability", "Rank"} <= set(properties["measurements"])
    manifest = read_manifest(find_bundle("he-v2"))
    names = read_names(result.panel, [])
    where = {"dimensions": SIZE, "mpp": 0.25, "offset": (100, 50)}
    with pytest.raises(AnnotationError, match="40 Suggested"):
        read_marked(path, names, manifest, **where)
    content = json.loads(path.read_text())
    for i, feature in enumerate(content["features"]):
        feature["properties"]["classification"] = {"name": "CD45" if i % 2 else "Other"}
    path.write_text(json.dumps(content))
    marks = read_marked(path, names, manifest, **where).marks
    assert [m.call for m in marks] == ["Other", "CD45"] * 20
    (table,) = result.tables(("x", "y"))
    places = np.column_stack([table.column(i).to_numpy() for i in range(2)])
    away = np.linalg.norm(places[None] - np.array([m.point for m in marks])[:, None], axis=2)
    assert away.min(axis=1).max() < 0.1


def test_a_marker_of_which_nothing_was_learned_is_refused(result):
    with pytest.raises(ResultError, match="nothing was learned for CD3e"):
        suggest(result, "CD3e", 10)


def test_several_slides_share_the_number(result, tmp_path):
    centers = spread_centers(50, dimensions=(2000, 1500))
    for name in ("a", "b"):
        made_result(tmp_path / "all" / name, [made_nuclei(centers, np.linspace(0, 1, 50))],
                    name=f"{name}.svs")  # fmt: skip
    words = ["suggest", str(tmp_path / "all"), "--out", str(tmp_path / "review"), "-n", "21"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    counts = [len(annotations_in_qupath(tmp_path / "review" / f"{n}.geojson")) for n in "ab"]
    assert counts == [11, 10]
    one = CliRunner().invoke(app, [*words[:3], str(tmp_path / "x.geojson")])
    assert isinstance(one.exception, ResultError) and "name a folder" in str(one.exception)
