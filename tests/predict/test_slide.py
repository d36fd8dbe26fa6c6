from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from lymphinfer.batch.single import predict_slide
from lymphinfer.cells.parts import list_parts
from lymphinfer.errors import BundleError, PixelSizeError, ResultError, SlideError
from lymphinfer.predict.plan import load
from lymphinfer.predict.settings import PredictSettings

from .conftest import MPP, RADIUS_PX, disc_image, write_svs


def features(path: Path) -> list[dict]:
    with zipfile.ZipFile(path) as archive:
        return [f for n in archive.namelist() for f in json.loads(archive.read(n))["features"]]


def centroids(found: list[dict]) -> np.ndarray:
    polygons = [shapely.Polygon(f["geometry"]["coordinates"][0]) for f in found]
    return np.array([(p.centroid.x, p.centroid.y) for p in polygons]).reshape(-1, 2)


def settings(bundle: Path, **changes) -> PredictSettings:
    return PredictSettings(bundle=str(bundle), precision="fp32", device="cpu", **changes)


def test_every_disc_is_found_once_in_its_place(disc_slide, disc_bundle, tmp_path):
    slide, centers = disc_slide
    result = predict_slide(slide, tmp_path, settings=settings(disc_bundle, tile_px=512))
    found = features(result.file)
    distance, index = cKDTree(centroids(found)).query(centers)
    assert len(found) == len(centers) == result.n_nuclei
    assert len(set(index)) == len(centers)
    assert distance.max() < 1.5
    area = found[0]["properties"]["measurements"]["Area µm^2"]
    assert area == pytest.approx(np.pi * (RADIUS_PX * MPP) ** 2, rel=0.06)


@pytest.fixture(scope="module")
def by_patches(disc_slide, patch_bundle, tmp_path_factory):
    """The loaded bundle, and a result."""
    chosen = settings(patch_bundle, tile_px=512)
    bundle = load(chosen)
    folder = tmp_path_factory.mktemp("patches")
    return bundle, predict_slide(disc_slide[0], folder, settings=chosen, bundle=bundle)


@pytest.mark.parametrize("changes", [{"tile_px": 256}, {"tile_px": 1024}, {"workers": 1}])
def test_nuclei_do_not_depend_on_tiles_or_workers(
    disc_slide, patch_bundle, by_patches, tmp_path, changes
):
    bundle, reference = by_patches
    chosen = settings(patch_bundle, **{"tile_px": 512, **changes})
    other = predict_slide(disc_slide[0], tmp_path, settings=chosen, bundle=bundle)
    a, b = (
        {f["id"]: f["properties"]["measurements"] for f in features(r.file)}
        for r in (reference, other)
    )
    assert a.keys() == b.keys() and len(a) == len(disc_slide[1])
    for key, row in a.items():
        assert row == pytest.approx(b[key], abs=1e-3)


def test_a_second_run_of_a_finished_slide_computes_nothing(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    first = predict_slide(slide, tmp_path, settings=settings(disc_bundle))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    second = predict_slide(slide, tmp_path, settings=settings(disc_bundle))
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert second.resumed_shards == second.shards == first.shards
    assert second.n_nuclei == first.n_nuclei


def test_missing_shards_alone_are_computed_and_the_file_comes_out_the_same(
    strip, disc_bundle, tmp_path
):
    options = settings(disc_bundle, tile_px=256)
    whole = predict_slide(strip, tmp_path, settings=options)
    bytes_before = whole.file.read_bytes()
    parts = list_parts(tmp_path / "parts")
    assert len(parts) > 2
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    (tmp_path / "summary.json").unlink()
    again = predict_slide(strip, tmp_path, settings=options)
    assert again.shards - again.resumed_shards == 2
    assert again.file.read_bytes() == bytes_before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(disc_bundle, tmp_path):
    image, _ = disc_image(2100, 2100)
    slide = write_svs(tmp_path / "big.svs", image)
    command = [sys.executable, "-m", "lymphinfer", "predict", str(slide), "--bundle",
               str(disc_bundle), "--tile", "256", "--precision", "fp32", "--device", "cpu",
               "--workers", "2"]  # fmt: skip
    subprocess.run([*command, "--out", str(tmp_path / "calm")], check=True, capture_output=True)
    killed = subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "killed" / "big"
    while len(list_parts(folder / "parts")) < 2 and killed.poll() is None:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in list_parts(folder / "parts")}
    assert len(kept) >= 2
    assert not (folder / "big.zip").exists()
    subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, capture_output=True)
    after = {p.name: p.stat().st_mtime_ns for p in list_parts(folder / "parts")}
    assert {name: after[name] for name in kept} == kept
    calm = tmp_path / "calm" / "big" / "big.zip"
    assert (folder / "big.zip").read_bytes() == calm.read_bytes()


def test_other_settings_compute_again_instead_of_mixing(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    predict_slide(slide, tmp_path, settings=settings(disc_bundle, tile_px=256))
    result = predict_slide(slide, tmp_path, settings=settings(disc_bundle, tile_px=512))
    assert result.resumed_shards == 0
    assert len(list_parts(tmp_path / "parts")) == result.shards


def test_base_rate_markers_have_probabilities_but_no_calls(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    found = features(predict_slide(slide, tmp_path, settings=settings(disc_bundle)).file)
    for feature in found[:50]:
        m = feature["properties"]["measurements"]
        assert m["CD3e probability"] == pytest.approx(0.38 * m["CD45 probability"], rel=1e-3)
        assert m["CD4 probability"] == pytest.approx(0.61 * m["CD3e probability"], rel=1e-3)
        assert m["CD8a probability"] == pytest.approx(0.46 * m["CD3e probability"], rel=1e-3)
        assert feature["properties"]["classification"]["name"] in {"CD45", "Other"}


def test_what_stands_behind_the_numbers_travels_in_both_files(disc_slide, disc_bundle, tmp_path):
    slide, _ = disc_slide
    result = predict_slide(slide, tmp_path, settings=settings(disc_bundle))
    summary = json.loads((tmp_path / "summary.json").read_text())
    with zipfile.ZipFile(result.file) as archive:
        collection = json.loads(archive.read(archive.namelist()[0]))
    for evidence in (collection["lymphinfer"]["evidence"], summary["markers"]):
        assert "base-rate" in json.dumps(evidence["CD4"])
        assert "morphology" in json.dumps(evidence["CD45"])
    for told in (collection["lymphinfer"], summary):
        assert told["operating_point"]["markers"] == {"CD45": {"threshold": 0.5}}
        assert "states no operating points" in told["operating_point"]["statement"]
    assert summary["bundle"]["sha256"] == collection["lymphinfer"]["bundle_sha256"]
    assert summary["markers"]["CD45"]["expected_per_mm2"] > 0
    assert {"read", "detect", "decode", "classify", "write"} <= summary["seconds"].keys()


def test_an_operating_point_decides_what_is_called_and_is_asked_for_anew(
    disc_slide, disc_bundle, tmp_path
):
    slide, _ = disc_slide
    bundle = tmp_path / "points"
    shutil.copytree(disc_bundle, bundle)
    path = bundle / "bundle.toml"
    points = "points = {precise = {threshold = 1.0}, sensitive = {threshold = 0.0, recall = 1.0}}"
    path.write_text(path.read_text().replace("\nthreshold = 0.5\n", f"\n{points}\n", 1))
    called = {}
    for point in ("precise", "sensitive", "balanced"):
        asked = settings(bundle, tile_px=512, operating_point=point)
        result = predict_slide(slide, tmp_path / "out", settings=asked)
        called[point] = result.summary["markers"]["CD45"]["positive"]
        assert result.summary["operating_point"]["name"] == point
        assert result.summary["arguments"]["operating_point"] == point
    assert called == {"precise": 0, "sensitive": result.n_nuclei, "balanced": 0}
    with pytest.raises(BundleError, match="--operating-point precise: bundle discs has none"):
        predict_slide(
            slide, tmp_path / "no", settings=settings(disc_bundle, operating_point="precise")
        )


def test_a_slide_without_tissue_gives_a_valid_empty_file(disc_bundle, tmp_path):
    white = np.full((600, 800, 3), 243, np.uint8)
    slide = write_svs(tmp_path / "white.svs", white)
    result = predict_slide(slide, tmp_path / "out", settings=settings(disc_bundle))
    assert result.n_nuclei == 0
    assert features(result.file) == []
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["nuclei_per_mm2"] is None


def test_a_slide_without_pixel_size_asks_for_it_and_takes_it(disc_bundle, tmp_path):
    image, centers = disc_image(600, 500)
    slide = write_svs(tmp_path / "plain.svs", image, mpp=None)
    with pytest.raises(PixelSizeError, match="--mpp"):
        predict_slide(slide, tmp_path / "out", settings=settings(disc_bundle))
    # The attempt alone is kept.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["state.json"]
    result = predict_slide(slide, tmp_path / "out", settings=settings(disc_bundle, mpp=MPP))
    assert result.n_nuclei == len(centers)


@pytest.mark.parametrize("mpp", [0.01, 5.5])
def test_an_absurd_pixel_size_is_refused_with_its_value(disc_slide, disc_bundle, tmp_path, mpp):
    with pytest.raises(PixelSizeError, match=str(mpp)):
        predict_slide(disc_slide[0], tmp_path, settings=settings(disc_bundle, mpp=mpp))


def test_a_full_disk_ends_clearly_and_leaves_no_half_file(
    strip, disc_bundle, tmp_path, monkeypatch
):
    real = os.fsync

    def full(descriptor: int) -> None:
        if list_parts(tmp_path / "parts"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match="disk is full"):
        predict_slide(strip, tmp_path, settings=settings(disc_bundle, tile_px=256))
    monkeypatch.setattr(os, "fsync", real)
    names = [p.name for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(n.endswith((".zip", ".tmp")) for n in names)
    result = predict_slide(strip, tmp_path, settings=settings(disc_bundle, tile_px=256))
    assert result.resumed_shards >= 1


def test_a_file_where_the_result_folder_should_be_is_refused_before_any_work(
    disc_slide, disc_bundle, tmp_path
):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResultError, match="another folder with --out"):
        predict_slide(disc_slide[0], tmp_path / "taken" / "x", settings=settings(disc_bundle))


def test_a_truncated_slide_is_named_and_leaves_no_result(disc_slide, disc_bundle, tmp_path):
    data = disc_slide[0].read_bytes()
    broken = tmp_path / "broken.svs"
    broken.write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideError, match=r"broken\.svs"):
        predict_slide(broken, tmp_path / "out", settings=settings(disc_bundle))
    assert not list(tmp_path.rglob("*.zip"))


def test_the_bounds_offset_is_subtracted_unless_told_otherwise(
    disc_slide, disc_bundle, tmp_path, monkeypatch
):
    from lymphinfer.slides import openslide_reader

    slide, _ = disc_slide
    plain = predict_slide(slide, tmp_path / "a", settings=settings(disc_bundle))
    original = openslide_reader.OpenSlideSlide.__init__

    def with_bounds(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.bounds_offset = (100, 40)

    monkeypatch.setattr(openslide_reader.OpenSlideSlide, "__init__", with_bounds)
    cropped = predict_slide(slide, tmp_path / "b", settings=settings(disc_bundle))
    whole = predict_slide(
        slide, tmp_path / "c", settings=settings(disc_bundle, crop_to_bounds=False)
    )
    a, b, c = (centroids(features(r.file)) for r in (plain, cropped, whole))
    np.testing.assert_allclose(a - b, np.broadcast_to([100, 40], a.shape), atol=1e-6)
    np.testing.assert_allclose(a, c)
    again = predict_slide(
        slide, tmp_path / "b", settings=settings(disc_bundle, crop_to_bounds=False)
    )
    assert again.resumed_shards == again.shards > 0
    np.testing.assert_allclose(a, centroids(features(again.file)))
