"""The commands, on a cohort that `lymphinfer simulate` makes in ORION's layout."""

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lymphinfer.cli import gate, orion
from lymphinfer.errors import DataError
from lymphinfer.orion import download
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.dataset import PatchSettings, prepare_patches
from lymphinfer.orion.gates_file import read_gates
from lymphinfer.orion.gating import apply_gates
from lymphinfer.orion.manifest import select
from lymphinfer.orion.splits import make_splits
from lymphinfer.orion.truth import pool_quality
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate.cohort import simulate_cohort


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "cohort"
    simulate_cohort(out, slides=5, size=512, seed=3, imbalance="rich", workers=1)
    return out


def run(app, *args):
    result = CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_list_names_slides_and_sizes():
    result = run(orion.app, "list", "--slides", "C33", "--only", "he,cells")
    assert result.exit_code == 0
    assert "CRC33_01" in result.output and "CRC33_02" in result.output
    assert "mask" not in result.output and "CRC34" not in result.output


def test_check_passes_a_simulated_cohort_and_fails_a_broken_one(simulated, tmp_path):
    result = run(orion.app, "check", simulated)
    assert result.exit_code == 0, result.output
    assert "5 slides, nothing wrong" in result.output
    result = run(orion.app, "check", tmp_path / "none")
    assert result.exit_code == 1 and "no such folder" in result.output


def test_download_takes_what_is_asked_for(tmp_path, monkeypatch):
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    (row,) = select(["CRC07"])
    for kind in ("he", "cells"):
        fs.pipe(f"/{download.BUCKET}/CRC07/{row.files[kind].name}", b"123")
    monkeypatch.setattr(download, "public_bucket", lambda: fs)
    monkeypatch.setattr(download.find_remote, "__defaults__", (f"/{download.BUCKET}",))
    result = run(orion.app, "download", tmp_path, "--slides", "CRC07")
    assert result.exit_code == 0
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        row.files[kind].name for kind in ("he", "cells")
    )
    fs.store.clear()


def test_gates_are_proposed_shown_applied_and_right(simulated, tmp_path):
    gates = tmp_path / "gates.toml"
    result = run(gate.app, "propose", simulated, "--gates", gates)
    assert result.exit_code == 0 and "CRC33_02" in result.output
    first = read_gates(gates)
    result = run(gate.app, "show", simulated, "-g", gates, "-o", tmp_path, "--slides", "CRC01")
    assert (tmp_path / "CRC01.png").read_bytes().startswith(b"\x89PNG")
    result = run(gate.app, "apply", simulated, "-g", gates, "-o", tmp_path / "labels")
    assert "against the simulated truth" in result.output
    table = pq.read_table(tmp_path / "labels" / "CRC33_01.parquet")
    assert table.column_names == ["CellID", "X_centroid", "Y_centroid", *TCELL_PANEL.names]

    cohort = open_cohort(simulated)
    quality = pool_quality(s.quality for s in apply_gates(cohort, first, TCELL_PANEL))
    for marker in quality:
        assert marker.precision > 0.9 and marker.recall > 0.7, marker
        assert marker.negative_precision > 0.995

    # What a person has set stands; the rest is proposed again.
    text = gates.read_text().replace("lymphinfer gate propose (mixture, all", "Dr X (all", 1)
    gates.write_text(text)
    run(gate.app, "propose", simulated, "--gates", gates, "--af", "none")
    second = read_gates(gates)
    kept = [
        (slide, name)
        for slide, own in second.slides.items()
        for name, g in own.markers.items()
        if g == first.slides[slide].markers[name] or g.set_by.startswith("Dr X")
    ]
    assert kept == [("CRC01", "CD45")]
    run(gate.app, "propose", simulated, "--gates", gates, "--redo")
    assert read_gates(gates).sha256() == first.sha256()


def test_missing_gates_and_slides_are_told(simulated, tmp_path):
    with pytest.raises(DataError, match="gate propose"):
        run(gate.app, "apply", simulated, "-g", tmp_path / "none.toml")
    with pytest.raises(DataError, match="no slide CRC40"):
        run(gate.app, "propose", simulated, "--slides", "CRC40", "-g", tmp_path / "g.toml")


def test_from_cohort_to_patch_stores(simulated, tmp_path):
    gates = tmp_path / "gates.toml"
    run(gate.app, "propose", simulated, "--gates", gates)
    cohort = open_cohort(simulated)
    splits = make_splits(cohort, seed=1)
    assert splits.of("C33") == "train"
    settings = PatchSettings(patch_px=64, cells_per_patient=150)
    stores = prepare_patches(
        cohort, read_gates(gates), splits, tmp_path / "p", TCELL_PANEL, settings
    )
    assert [len(own) for own in stores.values()] == [3, 1, 1]
    train = np.concatenate([store.labels for store in stores["train"]])
    assert 0.4 < (train == 1).any(axis=1).mean() < 0.6
    # A nucleus lies in the middle: darker there than at the rim.
    patches = stores["train"][0].read(np.arange(64)).astype(float)
    assert patches[:, 28:36, 28:36].mean() < patches[:, :8].mean() - 10
