"""What an earlier run has left does not speak for another."""

from __future__ import annotations

import json
import shutil

import pytest

from lymphinfer import engine
from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.cells.naming import (
    FIGURES,
    GEOJSON_FORMATS,
    REGION_NUCLEI,
    REGIONS,
    REGIONS_CSV,
    REPORT,
    VIEW_SUFFIXES,
)
from lymphinfer.cells.parts import list_parts
from lymphinfer.errors import ResultError
from lymphinfer.export.geojson import FORMATS
from lymphinfer.export.views import VIEWS
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.plan import load, plan_slide, predict_shards
from lymphinfer.predict.settings import PredictSettings

from .conftest import disc_image, write_svs


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_svs(tmp_path_factory.mktemp("slides") / "a.svs", disc_image(700, 600)[0])


def settings(bundle, **changes) -> PredictSettings:
    values = {"device": "cpu", "precision": "fp32", "runtime": "torch", "tile_px": 256, **changes}
    return PredictSettings(bundle=str(bundle), workers=1, **values)


@pytest.fixture(scope="module")
def done(slide, disc_bundle, tmp_path_factory):
    """A finished result folder, for copies."""
    folder = tmp_path_factory.mktemp("done") / "a"
    predict_slide(slide, folder, settings=settings(disc_bundle))
    return folder


def test_the_names_of_all_views_are_known():
    assert set(FORMATS) == set(GEOJSON_FORMATS)
    for suffix, _ in VIEWS.values():
        made = [suffix] if suffix in VIEW_SUFFIXES else [f"{suffix}.{f}" for f in FORMATS]
        assert set(made) <= set(VIEW_SUFFIXES), suffix


@pytest.mark.parametrize(
    "changes", [{"tile_px": 512}, {"redo": True}, {"crop_to_bounds": False, "format": "geojson"}]
)
def test_views_of_an_earlier_run_do_not_outlive_it(changes, done, slide, disc_bundle, tmp_path):
    folder = shutil.copytree(done, tmp_path / "a")
    views = [folder / f"a{suffix}" for suffix in VIEW_SUFFIXES]
    views += [folder / name for name in (REPORT, REGIONS, REGIONS_CSV, REGION_NUCLEI)]
    for view in views:
        if view.suffix == ".zarr":
            view.mkdir()
        elif not view.exists():
            view.touch()
    (folder / FIGURES).mkdir()
    (folder / FIGURES / "map.png").touch()
    (folder / "notes.txt").write_text("the user's own")
    result = predict_slide(slide, folder, settings=settings(disc_bundle, **changes))
    left = {path.name for path in folder.iterdir()}
    assert left == {result.file.name, "summary.json", "areas.json", "state.json", "parts",
                    "notes.txt"}  # fmt: skip
    assert result.file.stat().st_size > 100


def test_views_of_the_same_nuclei_stay(done, slide, disc_bundle, tmp_path):
    folder = shutil.copytree(done, tmp_path / "a")
    (folder / "a.csv").touch()
    predict_slide(slide, folder, settings=settings(disc_bundle, format="geojson"))
    assert {"a.csv", "a.zip", "a.geojson"} <= {path.name for path in folder.iterdir()}


def test_a_result_with_a_part_missing_is_refused(slide, disc_bundle, tmp_path):
    chosen = settings(disc_bundle)
    bundle = load(chosen)
    with chosen.open(slide) as opened:
        plan = plan_slide(opened, tmp_path / "a", chosen, bundle)
        predict_shards(plan, plan.todo, bundle, slide=opened)
    manifest = used_manifest(chosen.bundle)
    part = list_parts(plan.parts)[0]
    content = part.read_bytes()
    for damaged in (None, content[:-20]):
        part.unlink() if damaged is None else part.write_bytes(damaged)
        with pytest.raises(ResultError, match=f"1 of .* parts are missing.*{part.name}"):
            finish_slide(plan, manifest, seconds={}, total_seconds=0.0)
        assert not (tmp_path / "a" / "summary.json").exists()
    part.write_bytes(content)
    assert finish_slide(plan, manifest, seconds={}, total_seconds=0.0).n_nuclei > 100


def test_a_machine_of_another_kind_does_not_compute_again_what_auto_has_done(
    done, slide, disc_bundle, tmp_path, monkeypatch
):
    folder = shutil.copytree(done, tmp_path / "a")
    # This machine takes another number type for itself.
    monkeypatch.setattr(engine, "prefers_bf16", lambda: True)
    monkeypatch.setattr(engine, "has_bf16", lambda: True)
    auto = settings(disc_bundle, precision="auto", runtime="auto")
    again = predict_slide(slide, folder, settings=auto)
    assert again.resumed_shards == again.shards > 0
    assert again.summary["arguments"]["precision"] == "fp32"
    # Asked for by name it is another result.
    named = settings(disc_bundle, precision="bf16", runtime="auto")
    other = predict_slide(slide, folder, settings=named)
    assert other.resumed_shards == 0
    assert json.loads((folder / "summary.json").read_text())["arguments"]["precision"] == "bfloat16"
