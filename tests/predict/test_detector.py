"""`predict --detector`: HoVer-Net on our tiles, in our table, beside a bundle's markers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.importing_hovernet import import_hovernet
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.cli.app import app
from lymphinfer.errors import LymphinferError
from lymphinfer.nuclei.hovernet.infer import DenseMaps
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network
from lymphinfer.nuclei.hovernet.targets import distance_maps
from lymphinfer.predict.settings import PredictSettings
from tests.predict.conftest import disc_image, write_svs


@pytest.fixture(scope="module")
def detector(tmp_path_factory, patch_bundle):
    pytest.importorskip("tiatoolbox", reason="TIAToolbox is not installed (extra hovernet)")
    torch.manual_seed(0)
    net = build_network(HoVerNetConfig("fast", ("Other", "Lymphocyte"), 8))
    folder = tmp_path_factory.mktemp("weights")
    torch.save(net.state_dict(), folder / "made.pth")
    return import_hovernet(
        folder / "made.pth",
        folder / "made-hovernet",
        types=("Other", "Lymphocyte"),
        mpp=0.5,
        markers_from=patch_bundle,
    ).folder


def dark_nuclei(net, config, image, **options):
    """Maps of a network that knows dark discs: these weights are random."""
    dark = image[..., 0] < 130
    labels = ndimage.label(dark)[0]
    return DenseMaps(
        nucleus=np.where(dark, 0.95, 0.05).astype(np.float32),
        distance=np.ascontiguousarray(distance_maps(labels).transpose(1, 2, 0)),
        kind=np.where(dark, 2, 0).astype(np.uint8),
        features=None,
        cell_px=0,
    )


def run(*arguments):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.exit_code == 0, result.output or result.exception


def test_nuclei_types_and_fingerprint_tell_of_the_detector(
    detector, patch_bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr("lymphinfer.nuclei.hovernet.detector.predict_maps", dark_nuclei)
    image, centers = disc_image(400, 300)
    slide = write_svs(tmp_path / "a.svs", image)
    out = tmp_path / "out"
    arguments = [slide, "--out", out, "--bundle", patch_bundle, "--device", "cpu",
                 "--precision", "fp32", "--format", "geojson", "--workers", "1",
                 "--tile", "256"]  # fmt: skip
    run(*arguments)
    summary_path = next(out.rglob("summary.json"))
    plain = json.loads(summary_path.read_text())
    assert "detector" not in plain["bundle"]
    run(*arguments, "--detector", detector)
    summary = json.loads(summary_path.read_text())
    assert summary["arguments"]["fingerprint"] != plain["arguments"]["fingerprint"]
    assert summary["arguments"]["detector"] == str(detector)
    assert summary["bundle"]["detector"]["name"] == "made-hovernet"
    assert summary["shards"]["resumed"] == 0
    assert any("detector of made-hovernet" in w for w in summary["warnings"])
    table = pq.read_table(next(out.rglob("*.parquet")))
    assert table.num_rows == summary["nuclei"] == len(centers)
    found = np.stack([table.column(c).to_numpy() for c in ("x", "y")], axis=1)
    assert np.abs(found[:, None] - centers[None]).max(axis=2).min(axis=1).max() < 1
    assert table.column("type_lymphocyte").to_numpy().min() == 1
    assert {"type_other", "type_lymphocyte", "p_cd45"} <= set(table.column_names)
    collection = json.loads(next(out.rglob("*.geojson")).read_text())
    assert collection["lymphinfer"]["detector"]["name"] == "made-hovernet"
    measured = collection["features"][0]["properties"]["measurements"]
    assert {"Type other", "Type lymphocyte", "CD45 probability"} <= set(measured)
    # The same command again finds everything done.
    before = summary_path.stat().st_mtime_ns
    run(*arguments, "--detector", detector)
    assert summary_path.stat().st_mtime_ns == before


def test_types_become_classes_on_request(detector, patch_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("lymphinfer.nuclei.hovernet.detector.predict_maps", dark_nuclei)
    slide = write_svs(tmp_path / "a.svs", disc_image(300, 260)[0])
    out = tmp_path / "out"
    run(slide, "--out", out, "--bundle", patch_bundle, "--detector", detector, "--device", "cpu",
        "--precision", "fp32")  # fmt: skip
    result = CliRunner().invoke(
        app, ["export", str(out), "--to", "geojson-types", "--format", "geojson"]
    )
    assert result.exit_code == 0, result.output or result.exception
    collection = json.loads(next(out.rglob("*.types.geojson")).read_text())
    classes = {f["properties"]["classification"]["name"] for f in collection["features"]}
    assert classes == {"Lymphocyte"}


def test_nuclei_without_types_say_so(patch_bundle, tmp_path):
    slide = write_svs(tmp_path / "a.svs", disc_image(300, 260)[0])
    run(slide, "--out", tmp_path / "out", "--bundle", patch_bundle, "--device", "cpu")
    result = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--to", "geojson-types"])
    assert result.exit_code != 0 and "have no types" in str(result.exception)


def test_another_detector_gets_the_default_bundle_whose_markers_fit_any():
    assert PredictSettings().bundle == "he-v2"
    assert PredictSettings(detector="hovernet").bundle == "he-v2"
    assert PredictSettings(detector="hovernet", bundle="mine").bundle == "mine"


def test_a_tile_that_a_deeper_network_cannot_cut_is_refused(patch_bundle, tmp_path, monkeypatch):
    bundle = load_bundle(patch_bundle)
    monkeypatch.setattr(type(bundle.detector), "align_px", 32)
    slide = write_svs(tmp_path / "a.svs", disc_image(400, 300)[0])
    with pytest.raises(LymphinferError, match="--tile 272: a multiple of 32"):
        predict_slide(
            slide, tmp_path / "out", bundle=bundle,
            settings=PredictSettings(device="cpu", tile_px=272),
        )  # fmt: skip
