"""One slide, many files."""

from __future__ import annotations

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.errors import PixelSizeError
from lymphinfer.slides import open_slide
from lymphinfer.slides.grouping import group_files, slide_of


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_pictures_of_a_vms_belong_to_it(tmp_path):
    touch(tmp_path / "a_map2.jpg", tmp_path / "a(1,0).jpg", tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "a.vms").write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\n"
        "ImageFile(1,0)=A(1,0).jpg\nMapFile=a_map2.jpg\nOptimisationFile=a.opt\n"
    )
    groups = group_files(tmp_path.iterdir())
    assert [group.path.name for group in groups] == ["a.vms", "b.jpg"]
    assert len(groups[0].members) == 4
    assert [job.slide.name for job in find_jobs(tmp_path, tmp_path / "out")] == ["a.vms", "b.jpg"]


def test_the_files_in_a_mirax_folder_and_a_zarr_store_belong_to_them(tmp_path):
    touch(tmp_path / "m.mrxs", tmp_path / "m" / "x.jpg", tmp_path / "z.zarr" / "0" / "t.tif",
          tmp_path / "n.tif")  # fmt: skip
    given = [tmp_path / "m.mrxs", tmp_path / "m" / "x.jpg", tmp_path / "z.zarr",
             tmp_path / "z.zarr" / "0" / "t.tif", tmp_path / "n.tif"]  # fmt: skip
    assert [g.path.name for g in group_files(given)] == ["m.mrxs", "n.tif", "z.zarr"]


def test_files_that_are_no_dicom_stand_alone_whatever_their_name(tmp_path):
    touch(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    assert [g.path.name for g in group_files(tmp_path.iterdir())] == ["a.dcm", "b.dcm"]
    assert slide_of(tmp_path / "b.dcm") == tmp_path / "b.dcm"
    assert slide_of(tmp_path / "gone.dcm") == tmp_path / "gone.dcm"


@pytest.mark.parametrize("name", ["camelyon_jpeg.dcm", "camelyon_j2k.dcm"])
def test_real_dicom_opens_where_its_pixel_size_is_given(real_svs, name):
    path = real_svs.with_name(name)
    with pytest.raises(PixelSizeError, match=r"28\.9\d+ µm/px, outside"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.reader == "openslide:dicom"
        assert slide.read_region(0, 0, 64, 64, 0.5).std() >= 0
    assert len(group_files(real_svs.parent.glob("*.dcm"))) == 2
