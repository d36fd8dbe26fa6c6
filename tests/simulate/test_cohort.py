from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
import tifffile

from lymphinfer.errors import DataError, ResultError
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate.cell_table import COLUMNS
from lymphinfer.simulate.cohort import CohortSummary, simulate_cohort
from lymphinfer.simulate.design import BATCHES, marker_shares, plan_cohort
from lymphinfer.simulate.truth import auroc, read_truth

# Spelled out here, from the data's own documentation, and not taken from the code under test.
ORION_COLUMNS = (
    "CellID,Hoechst,AF1,CD31,CD45,CD68,Argo550,CD4,FOXP3,CD8a,CD45RO,CD20,PD-L1,CD3e,CD163,"
    "E-cadherin,PD-1,Ki67,Pan-CK,SMA,X_centroid,Y_centroid,Area,MajorAxisLength,MinorAxisLength,"
    "Eccentricity,Solidity,Extent,Orientation"
)
PATTERNS = (
    "*-zlib.ome.tiff",
    "*-registered.ome.tif",
    "*-mask.ome.tif",
    "P*_S*.csv",
    "markers.csv",
)


def _one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _folders(cohort: CohortSummary) -> list[Path]:
    return [cohort.out / "data" / name for name in cohort.folders]


def _table(folder: Path) -> dict[str, np.ndarray]:
    table = pyarrow.csv.read_csv(_one(folder, "P*_S*.csv"))
    return {name: table[name].to_numpy() for name in table.column_names}


def test_a_folder_holds_five_files_by_pattern(cohort: CohortSummary) -> None:
    assert cohort.folders == ("CRC01", "CRC11", "CRC33_01", "CRC33_02")
    for folder in _folders(cohort):
        assert len({_one(folder, pattern) for pattern in PATTERNS}) == 5
        assert len(list(folder.iterdir())) == 5


def test_columns_and_channels_are_orions(cohort: CohortSummary) -> None:
    channels = ORION_COLUMNS.split(",")[1:20]
    assert (channels[3], channels[6], channels[8], channels[12]) == ("CD45", "CD4", "CD8a", "CD3e")
    headers = set()
    for folder in _folders(cohort):
        with _one(folder, "P*_S*.csv").open() as handle:
            assert handle.readline().strip() == ORION_COLUMNS
        with (folder / "markers.csv").open() as handle:
            names = [row[0] for row in csv.reader(handle)]
        headers.add(names[0] == "Marker")
        assert names[-19:] == channels
    assert headers == {True, False}
    assert ",".join(COLUMNS) == ORION_COLUMNS


def test_he_is_a_jpeg_pyramid_with_the_pixel_size_in_its_xml_alone(cohort: CohortSummary) -> None:
    axes = set()
    for folder in _folders(cohort):
        with tifffile.TiffFile(_one(folder, "*-registered.ome.tif")) as tiff:
            series, page = tiff.series[0], tiff.pages[0]
            axes.add(series.axes)
            assert len(series.levels) == 2
            assert series.dtype == np.uint8
            assert sorted(series.shape) == [3, 768, 768]
            assert page.compression == tifffile.COMPRESSION.JPEG
            assert page.is_tiled
            assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.NONE
            assert 'PhysicalSizeX="0.325"' in tiff.ome_metadata
    assert axes == {"YXS", "SYX"}


def test_openslide_finds_no_pixel_size_in_the_he(cohort: CohortSummary) -> None:
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(_one(_folders(cohort)[0], "*-registered.ome.tif")) as slide:
        assert "openslide.mpp-x" not in slide.properties


def test_if_and_mask_have_the_stated_types_and_one_frame(cohort: CohortSummary) -> None:
    for folder in _folders(cohort):
        with tifffile.TiffFile(_one(folder, "*-zlib.ome.tiff")) as tiff:
            series = tiff.series[0]
            assert (series.axes, series.shape) == ("CYX", (19, 768, 768))
            assert series.dtype == np.uint16
            assert len(series.levels) == 2
            assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            assert 'Name="E-cadherin"' in tiff.ome_metadata
        with tifffile.TiffFile(_one(folder, "*-mask.ome.tif")) as tiff:
            assert tiff.series[0].dtype == np.int32
            assert tiff.series[0].shape == (768, 768)


def test_table_is_measured_on_the_if_under_the_mask(cohort: CohortSummary) -> None:
    folder = _folders(cohort)[0]
    table = _table(folder)
    image = tifffile.imread(_one(folder, "*-zlib.ome.tiff"))
    mask = tifffile.imread(_one(folder, "*-mask.ome.tif"))
    np.testing.assert_array_equal(table["CellID"], np.arange(1, mask.max() + 1))
    for cell in (1, 17, int(mask.max())):
        own = mask == cell
        rows, columns = np.nonzero(own)
        assert table["Area"][cell - 1] == own.sum()
        assert table["X_centroid"][cell - 1] == pytest.approx(columns.mean(), abs=1e-3)
        assert table["Y_centroid"][cell - 1] == pytest.approx(rows.mean(), abs=1e-3)
        for channel, name in enumerate(COLUMNS[1:20]):
            mean = image[channel][own].mean()
            assert table[name][cell - 1] == pytest.approx(mean, rel=1e-4)
    assert 190 < np.median(table["CD4"]) < 320
    assert (np.array([table[n].min() for n in COLUMNS[1:20]]) > 190).all()


def test_truth_respects_the_hierarchy_and_matches_the_table(cohort: CohortSummary) -> None:
    for folder in _folders(cohort):
        truth = read_truth(cohort.out / "truth" / f"{folder.name}.parquet")
        table = _table(folder)
        np.testing.assert_array_equal(truth["CellID"].to_numpy(), table["CellID"])
        for marker in TCELL_PANEL.markers:
            if marker.parent is not None:
                child, parent = truth[marker.name].to_numpy(), truth[marker.parent].to_numpy()
                assert not (child & ~parent).any()
                best = truth[f"posterior_{marker.name}"].to_numpy()
                assert (best <= truth[f"posterior_{marker.parent}"].to_numpy() + 1e-12).all()
        gap = np.hypot(
            truth["x"].to_numpy() - table["X_centroid"], truth["y"].to_numpy() - table["Y_centroid"]
        )
        assert np.median(gap) < 2.0


def test_positive_cells_are_bright_in_their_channel(cohort: CohortSummary) -> None:
    for folder in _folders(cohort):
        truth = read_truth(cohort.out / "truth" / f"{folder.name}.parquet")
        table = _table(folder)
        for name in TCELL_PANEL.names:
            positive = truth[name].to_numpy()
            if positive.any():
                assert auroc(positive, table[name]) > 0.95


def test_truth_centres_lie_on_dark_nuclei_of_the_he(cohort: CohortSummary) -> None:
    record = json.loads((cohort.out / "truth" / "cohort.json").read_text())
    for folder, slide in zip(_folders(cohort), record["slides"], strict=True):
        truth = read_truth(cohort.out / "truth" / f"{folder.name}.parquet")
        he = tifffile.imread(_one(folder, "*-registered.ome.tif"))
        red = he[0] if he.shape[0] == 3 else he[..., 0]
        dx, dy = slide["shift_px"]
        assert 1 <= max(abs(dx), abs(dy)) <= 2
        y = np.clip(np.rint(truth["y"].to_numpy() + dy).astype(int), 0, 767)
        x = np.clip(np.rint(truth["x"].to_numpy() + dx).astype(int), 0, 767)
        mask = tifffile.imread(_one(folder, "*-mask.ome.tif"))
        ground = np.median(red[mask == 0])
        assert (red[y, x] < ground - 25).mean() > 0.85


def test_the_stated_shift_is_the_best_fit_of_he_and_hoechst(cohort: CohortSummary) -> None:
    record = json.loads((cohort.out / "truth" / "cohort.json").read_text())
    for folder, slide in zip(_folders(cohort), record["slides"], strict=True):
        he = tifffile.imread(_one(folder, "*-registered.ome.tif"))
        red = (he[0] if he.shape[0] == 3 else he[..., 0]).astype(float)
        hoechst = tifffile.imread(_one(folder, "*-zlib.ome.tiff"), key=0).astype(float)
        inner = (slice(8, -8), slice(8, -8))
        fit = {
            (dx, dy): np.corrcoef(
                np.roll(red, (-dy, -dx), (0, 1))[inner].ravel(), hoechst[inner].ravel()
            )[0, 1]
            for dx in range(-3, 4)
            for dy in range(-3, 4)
        }
        assert min(fit, key=lambda k: fit[k]) == tuple(slide["shift_px"])


def test_the_summary_agrees_with_the_tables(cohort: CohortSummary) -> None:
    tables = [read_truth(cohort.out / "truth" / f"{name}.parquet") for name in cohort.folders]
    assert sum(len(t) for t in tables) == cohort.cells
    for name in TCELL_PANEL.names:
        truth = np.concatenate([t[name].to_numpy() for t in tables])
        best = np.concatenate([t[f"posterior_{name}"].to_numpy() for t in tables])
        assert truth.sum() == cohort.positives[name]
        assert auroc(truth, best) == pytest.approx(cohort.best_auroc[name])
    share = cohort.positives["CD45"] / cohort.cells
    assert share == pytest.approx(1 / 3, abs=0.08)
    record = json.loads((cohort.out / "truth" / "cohort.json").read_text())
    assert {s["patient"] for s in record["slides"]} == {1, 11, 33}
    assert record["model"]["cd8_shift"]


def test_a_slide_is_the_same_bytes_in_any_cohort_of_its_seed(
    tmp_path: Path, cohort: CohortSummary
) -> None:
    again = simulate_cohort(
        tmp_path / "again", slides=1, size=768, seed=3, imbalance="rich", workers=1
    )
    assert again.folders == ("CRC01",)
    for path in (again.out / "data" / "CRC01").iterdir():
        assert path.read_bytes() == (cohort.out / "data" / "CRC01" / path.name).read_bytes()
    truth = "truth/CRC01.parquet"
    assert (again.out / truth).read_bytes() == (cohort.out / truth).read_bytes()


def test_all_41_slides_have_unique_names_and_orions_batches() -> None:
    plans = plan_cohort(41)
    assert len({p.folder for p in plans}) == 41
    assert len({p.patient for p in plans}) == 40
    assert sorted(sum(BATCHES, ())) == list(range(1, 41))
    by_folder = {p.folder: p.files for p in plans}
    assert by_folder["CRC33_01"]["he"].endswith("-2-registered.ome.tif")
    assert "P37-S83_" in by_folder["CRC40"]["he"]
    assert {p.folder for p in plan_cohort(4)} <= {p.folder for p in plan_cohort(9)}


@pytest.mark.parametrize("slides", [0, 42])
def test_a_number_of_slides_that_cannot_be_is_refused(slides: int) -> None:
    with pytest.raises(DataError, match="1 to 41"):
        plan_cohort(slides)


def test_all_problems_of_ratios_are_named_at_once() -> None:
    with pytest.raises(DataError, match=r"CD19.*CD8a has no ratio.*CD4 has ratio -1"):
        marker_shares({"CD45": 0.2, "CD3e": 0.04, "CD4": -1, "CD19": 0.1})
    with pytest.raises(DataError, match="more than their parent CD3e"):
        marker_shares({"CD45": 0.5, "CD3e": 0.1, "CD4": 0.09, "CD8a": 0.09})


def test_bad_arguments_and_existing_cohorts_are_refused(
    tmp_path: Path, cohort: CohortSummary
) -> None:
    with pytest.raises(DataError, match="choose from"):
        simulate_cohort(tmp_path / "x", imbalance="other")
    with pytest.raises(DataError, match="256"):
        simulate_cohort(tmp_path / "x", size=64)
    with pytest.raises(ResultError, match="holds a cohort already"):
        simulate_cohort(cohort.out)
    assert not (tmp_path / "x").exists()
