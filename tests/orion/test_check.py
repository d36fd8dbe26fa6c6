import numpy as np
import pandas as pd
import pytest
import tifffile

from lymphinfer.orion.check import check_cohort
from tests.orion.made_cohort import HEIGHT, WIDTH, make_slide, write_he


@pytest.fixture
def root(tmp_path):
    for seed, folder in enumerate(("CRC01", "CRC02")):
        make_slide(tmp_path, folder, seed=seed, full=True)
    return tmp_path


def test_a_sound_cohort_has_nothing_wrong(root):
    report = check_cohort(root)
    assert (report.errors, report.warnings) == ((), ())
    first = report.slides[0]
    assert (first.folder, first.patient, first.size_level0) == ("CRC01", "C1", (WIDTH, HEIGHT))
    assert (first.mpp, first.cells) == (0.325, 400)
    assert first.files == ("he", "cells", "mask", "if", "markers")


def test_all_problems_of_all_slides_come_in_one_report(root):
    one, two = root / "CRC01", root / "CRC02"
    frame = pd.read_csv(one / "P37_S29-CRC01.csv")
    frame.loc[5, "CellID"] = 3
    frame.loc[7, "X_centroid"] = WIDTH + 50
    frame.loc[9, "CD4"] = np.nan
    frame.rename(columns={"SMA": "aSMA"}).to_csv(one / "P37_S29-CRC01.csv", index=False)
    write_he(next(one.glob("*registered*")), mpp=0.34)
    mask = next(two.glob("*mask*"))
    tifffile.imwrite(mask, np.zeros((HEIGHT, WIDTH - 1), np.uint8), ome=True)
    fluorescence = next(two.glob("*zlib*"))
    fluorescence.write_bytes(fluorescence.read_bytes()[:-1000])
    (two / "markers.csv").write_text("DAPI\nCD45\n")
    (two / "P37_S30-again.csv").write_text("CellID\n")
    (root / "CRC03").mkdir()

    report = check_cohort(root, progress=lambda *_: None)
    errors = "\n".join(report.errors)
    for part in (
        "CellID does not rise",
        "1 of 400 centroids lie outside",
        "no finite CD4 intensity",
        "no column SMA",
        "0.325 µm/px, but the H&E",
        "2 files match P*_S*.csv",
        "CRC03: no file matches *-registered.ome.tif",
        "CRC03: no file matches P*_S*.csv",
        "1 channels of uint8, where 1 of int32",
        "419 x 300 px, but the H&E",
        "has no OME-XML, so it is cut",
        "names the channels CD45",
    ):
        assert part in errors, part
    warnings = "\n".join(report.warnings)
    assert "says 0.34 µm/px" in warnings and "unknown column aSMA" in warnings


def test_a_truncated_h_and_e_and_a_swapped_file_are_told(root):
    he = next((root / "CRC01").glob("*registered*"))
    he.write_bytes(he.read_bytes()[: he.stat().st_size // 2])
    he = next((root / "CRC02").glob("*registered*"))
    he.write_bytes(next((root / "CRC02").glob("*zlib*")).read_bytes())
    errors = check_cohort(root).errors
    assert any("CRC01" in e and ("cut short" in e or "cut or damaged" in e) for e in errors)
    assert any("19 channels of uint16, where the H&E has 3 of uint8" in e for e in errors)


@pytest.mark.parametrize("header", ["Marker", "Marker,Channel", "channel_number,marker_name"])
def test_channel_names_are_read_with_or_without_a_header(root, header):
    path = root / "CRC01" / "markers.csv"
    names = path.read_text().split()
    if header.startswith("channel"):
        rows = [f"{i},{name}" for i, name in enumerate(names)]
    else:
        rows = [f"{name},1" if "," in header else name for name in names]
    path.write_text("\n".join([header, *rows]) + "\n")
    assert check_cohort(root).errors == ()


def test_planar_h_and_e_is_the_same_image(root):
    he = next((root / "CRC01").glob("*registered*"))
    tifffile.imwrite(
        he,
        np.zeros((3, HEIGHT, WIDTH), np.uint8),
        ome=True,
        photometric="rgb",
        planarconfig="separate",
        tile=(128, 128),
        metadata={"axes": "CYX", "PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm"},
    )
    report = check_cohort(root)
    assert report.errors == () and report.slides[0].mpp == pytest.approx(0.325)


def test_the_same_column_twice_is_an_error(root):
    path = root / "CRC01" / "P37_S29-CRC01.csv"
    path.write_text(path.read_text().replace("CD31", "CD45", 1))
    assert any("column CD45 stands there twice" in e for e in check_cohort(root).errors)


def test_the_size_and_the_pixel_size_are_those_of_the_scan_and_not_of_the_first_image(tmp_path):
    import numpy as np
    import tifffile

    from lymphinfer.orion.image_check import inspect_image

    path = tmp_path / "a.ome.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name, side, mpp in (("macro", 100, 16.0), ("scan", 300, 0.325)):
            size = {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "axes": "YXS", "Name": name}
            tif.write(np.zeros((side, side, 3), np.uint8), metadata=size, **options)
    facts, problems = inspect_image(path)
    assert problems == []
    assert facts is not None
    assert (facts.width, facts.mpp, facts.channels) == (300, 0.325, 3)
