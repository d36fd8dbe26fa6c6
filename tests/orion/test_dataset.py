from dataclasses import replace

import numpy as np
import pytest
import tifffile

from lymphinfer.errors import DataError, ResultError
from lymphinfer.markers.patches import cut_patches
from lymphinfer.orion import dataset
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.dataset import PatchSettings, prepare_patches, store_path
from lymphinfer.orion.gates import Gates
from lymphinfer.orion.gating import propose_cohort
from lymphinfer.orion.labels import load_labelled
from lymphinfer.orion.splits import Splits
from lymphinfer.panel import TCELL_PANEL
from tests.orion.made_cohort import make_slide

SETTINGS = PatchSettings(patch_px=24, cells_per_patient=120)
SPLITS = Splits(("C1", "C33"), ("C2",), ("C3",))


@pytest.fixture
def cohort(cohort_dir):
    return open_cohort(cohort_dir)


@pytest.fixture
def gates(cohort):
    return propose_cohort(cohort, TCELL_PANEL)[0]


def test_stores_hold_the_sampled_cells_with_their_labels_and_pixels(cohort, gates, tmp_path):
    stores = prepare_patches(cohort, gates, SPLITS, tmp_path / "p", TCELL_PANEL, SETTINGS)
    assert {k: [s.info.slide for s in v] for k, v in stores.items()} == {
        "train": ["CRC01", "CRC33_01", "CRC33_02"],
        "val": ["CRC02"],
        "test": ["CRC03"],
    }
    both = sum(len(s) for s in stores["train"] if s.info.patient == "C33")
    assert both == 120 and len(stores["test"][0]) == 120
    for slide in cohort.slides:
        store = next(s for own in stores.values() for s in own if s.info.slide == slide.folder)
        cells, labels = load_labelled(slide.cells, gates.slides[slide.folder], TCELL_PANEL)
        rows = np.searchsorted(cells.cell_id, store.cells.cell_id)
        assert np.array_equal(cells.cell_id[rows], store.cells.cell_id)
        assert np.array_equal(labels.labels[rows], store.labels)
        centres = np.stack([cells.x[rows], cells.y[rows]], axis=1)
        expected = cut_patches(tifffile.imread(slide.he), centres, 24)
        assert np.array_equal(store.read(np.arange(len(store))), expected)
        assert store.info.panel == TCELL_PANEL.names


def test_only_what_changed_is_made_again(cohort, gates, tmp_path):
    out, cut = tmp_path / "p", []

    def run(gates=gates, splits=SPLITS, settings=SETTINGS):
        cut.clear()
        prepare_patches(
            cohort,
            gates,
            splits,
            out,
            TCELL_PANEL,
            settings,
            progress=lambda name, *_: cut.append(name),
        )
        return sorted(set(cut))

    assert len(run()) == 5
    assert run() == []
    touched = gates.slides["CRC33_01"]
    gate = replace(touched.markers["CD4"], positive_min=touched.markers["CD4"].positive_min + 1)
    markers = {**touched.markers, "CD4": gate}
    changed = Gates({**gates.slides, "CRC33_01": replace(touched, markers=markers)})
    # Both slides of a patient are sampled together.
    assert run(changed) == ["CRC33_01", "CRC33_02"]
    assert run(changed, Splits(("C1", "C33"), ("C3",), ("C2",))) == ["CRC02", "CRC03"]
    assert len(run(settings=replace(SETTINGS, seed=1))) == 5


def test_a_patient_that_no_split_names_is_left_out(cohort, gates, tmp_path):
    splits = Splits(("C1",), ("C2",), ())
    stores = prepare_patches(cohort, gates, splits, tmp_path, TCELL_PANEL, SETTINGS)
    assert stores["test"] == ()
    assert not store_path(tmp_path, cohort.of_patient("C3")[0]).exists()


def test_missing_gates_and_broken_tables_are_told_together(cohort, gates, tmp_path):
    with pytest.raises(DataError, match="no gates for slide CRC33_02"):
        slides = {k: v for k, v in gates.slides.items() if k != "CRC33_02"}
        prepare_patches(cohort, Gates(slides), SPLITS, tmp_path, TCELL_PANEL, SETTINGS)
    for folder in ("CRC01", "CRC03"):
        path = next((cohort.root / folder).glob("*.csv"))
        head, first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([head, first.replace(first.split(",")[4], "nan"), *rest]))
    with pytest.raises(DataError) as caught:
        prepare_patches(cohort, gates, SPLITS, tmp_path, TCELL_PANEL, SETTINGS)
    assert "CRC01" in str(caught.value) and "CRC03" in str(caught.value)


def test_a_marker_that_cannot_be_learned_stops_before_any_patch_is_cut(tmp_path):
    root = tmp_path / "cohort"
    for seed, folder in enumerate(("CRC01", "CRC02", "CRC03")):
        make_slide(root, folder, seed=seed, cd3e=0.0)
    cohort = open_cohort(root)
    gates = propose_cohort(cohort, TCELL_PANEL)[0]
    splits = Splits(("C1",), ("C2",), ("C3",))
    with pytest.raises(DataError, match="has no positive cell among the train patients"):
        prepare_patches(cohort, gates, splits, tmp_path / "p", TCELL_PANEL, SETTINGS)
    assert not (tmp_path / "p").exists()


def test_too_small_a_disk_is_told_before_any_patch_is_cut(cohort, gates, tmp_path, monkeypatch):
    usage = dataset.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResultError, match="are free"):
        prepare_patches(cohort, gates, SPLITS, tmp_path / "p", TCELL_PANEL, SETTINGS)
