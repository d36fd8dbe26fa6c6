import logging

import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import open_cohort, scan_cohort
from tests.orion.made_cohort import make_slide, write_he


def test_partial_downloads_are_whole_and_crc33_is_one_patient(cohort_dir):
    cohort = open_cohort(cohort_dir)
    assert cohort.folders == ("CRC01", "CRC02", "CRC03", "CRC33_01", "CRC33_02")
    assert cohort.patients == ("C1", "C2", "C3", "C33")
    assert [s.folder for s in cohort.of_patient("C33")] == ["CRC33_01", "CRC33_02"]
    assert cohort.slides[0].mask is None and cohort.slides[0].truth is None


def test_all_five_kinds_and_the_truth_are_found_under_data(tmp_path):
    home = make_slide(tmp_path / "data", "CRC40", full=True)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "CRC40.parquet").touch()
    (home / "._P37_S29-CRC40.csv").touch()
    (slide,) = open_cohort(tmp_path).slides
    found = (slide.mask, slide.if_, slide.markers_csv, slide.truth)
    assert all(path is not None and path.is_file() for path in found)
    (alone,) = open_cohort(home).slides
    assert alone.folder == "CRC40"


def test_every_missing_and_double_file_is_named_at_once(cohort_dir):
    next((cohort_dir / "CRC01").glob("*.tif")).unlink()
    next((cohort_dir / "CRC02").glob("*.csv")).unlink()
    (cohort_dir / "CRC03" / "P37_S99-copy.csv").write_text("CellID\n")
    (cohort_dir / "CRC04").mkdir()
    with pytest.raises(DataError) as caught:
        open_cohort(cohort_dir)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for folder, what in [
        ("CRC01", "no file matches *-registered.ome.tif"),
        ("CRC02", "no file matches P*_S*.csv"),
        ("CRC03", "2 files match P*_S*.csv (P37_S29-CRC03.csv, P37_S99-copy.csv)"),
        ("CRC04", "no file matches *-registered.ome.tif"),
    ]:
        assert any(folder in line and what in line for line in lines)
    cohort, _ = scan_cohort(cohort_dir)
    assert cohort.folders == ("CRC33_01", "CRC33_02")


def test_unfinished_downloads_do_not_count(cohort_dir):
    he = next((cohort_dir / "CRC01").glob("*.tif"))
    he.rename(he.with_name(he.name + ".part"))
    assert "no file matches" in scan_cohort(cohort_dir)[1][0]


def test_nothing_there_is_said(tmp_path):
    assert "no such folder" in scan_cohort(tmp_path / "nowhere")[1][0]
    assert "no slide folders" in scan_cohort(tmp_path)[1][0]


@pytest.mark.parametrize(("stated", "used"), [(0.325, 0.325), (None, 0.325), (0.34, 0.34)])
def test_pixel_size_is_the_files_or_the_configured_one(cohort_dir, stated, used, caplog):
    slide = open_cohort(cohort_dir).slides[0]
    write_he(slide.he, mpp=stated)
    with caplog.at_level(logging.WARNING), slide.open_he() as image:
        assert image.mpp == pytest.approx(used)
    assert bool(caplog.records) == (stated != 0.325)
