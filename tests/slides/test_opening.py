from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL import Image

from lymphinfer.errors import SlideError
from lymphinfer.slides import SLIDE_SUFFIXES, image_reader, open_slide

from .made import write_ome, write_svs


def test_content_and_not_the_suffix_chooses_the_reader(tmp_path, pixels):
    svs = write_svs(tmp_path / "a.tif", pixels)
    ome = write_ome(tmp_path / "b.svs", pixels)
    png = tmp_path / "c.tiff"
    Image.fromarray(pixels).save(png, format="PNG")
    for path, reader in [(svs, "openslide:aperio"), (ome, "tifffile:ome"), (png, "image")]:
        with open_slide(str(path), mpp=0.25) as slide:
            assert slide.reader == reader
            assert slide.path == path


def test_the_import_loads_no_reader():
    code = "import sys, lymphinfer.slides; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "lymphinfer.slides.opening" in loaded
    assert not loaded & {"openslide", "tifffile", "PIL", "scipy", "torch"}


def test_every_suffix_is_lower_case_and_found_by_path_suffix():
    assert all(Path(f"a{s}").suffix == s.lower() for s in SLIDE_SUFFIXES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SlideError, match=r"gone\.svs: no such file") as caught:
        open_slide(tmp_path / "gone.svs")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_folder_is_not_a_slide(tmp_path):
    (tmp_path / "x.svs").mkdir()
    with pytest.raises(SlideError, match=r"x\.svs: a folder.*DICOM"):
        open_slide(tmp_path / "x.svs")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"cell,x,y\n1,2,3\n", "a text file that begins 'cell,x,y"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "the download has failed"),
        (b"PK\x03\x04abc", "ZIP"),
        (b"\x00\x01\x02\xff\xfe", "unknown format .it begins 00 01 02 ff fe"),
        (b"II*\x00\x08\x00\x00\x00\xff\xff", "damaged"),
        (b"II*\x00", "cut short"),
        (b"\x89PNG\r\n\x1a\nabc", "damaged"),
        (b"\xff\xd8\xff\xe0abcdef", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.png"])
def test_a_file_that_is_no_slide_says_what_it_is(tmp_path, content, found, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SlideError, match=found) as caught:
        open_slide(path, mpp=0.25)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_real_slide_cut_short_is_refused_on_opening(tmp_path, real_svs, share):
    content = real_svs.read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SlideError, match=r"cut\.svs.*[Cc]opy"):
        open_slide(path, mpp=0.5)


@pytest.mark.parametrize("suffix", ["svs", "ome.tif", "tif", "png", "jpg"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_made_file_cut_short_is_refused_on_opening(tmp_path, pixels, suffix, share):
    path = tmp_path / f"a.{suffix}"
    if suffix == "svs":
        write_svs(path, pixels, levels=1)
    elif suffix == "ome.tif":
        write_ome(path, pixels)
    elif suffix == "tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(SlideError, match=r"Copy|copy") as caught:
        open_slide(path, mpp=0.25)
    assert str(path) in str(caught.value)


def test_an_svs_with_a_tile_beyond_its_end_is_refused_on_opening(tmp_path, pixels):
    path = write_svs(tmp_path / "a.svs", pixels)
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags["TileOffsets"].valueoffset
    with path.open("r+b") as file:
        file.seek(place + 4)
        file.write((1 << 30).to_bytes(4, "little"))
    with pytest.raises(SlideError, match="cut short"):
        open_slide(path)


def test_permission_denied_is_named_with_a_fix(tmp_path, monkeypatch):
    path = tmp_path / "a.svs"
    path.write_bytes(b"II*\0")

    def deny(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(SlideError, match=r"a\.svs: permission denied.*read access") as caught:
        open_slide(path)
    assert isinstance(caught.value.__cause__, PermissionError)


def test_a_mirax_file_without_its_folder_says_so(tmp_path, pixels):
    path = tmp_path / "a.mrxs"
    Image.fromarray(pixels).save(path, format="JPEG")
    with pytest.raises(SlideError, match="without its folder"):
        open_slide(path, mpp=0.25)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((19, 200, 200), np.uint16),
        np.zeros((200, 200, 3), np.float32),
        np.zeros((200, 200), np.uint8),
        np.zeros((3, 200, 200, 3), np.uint8),
    ],
    ids=["19-channels", "fractions", "grey", "stack"],
)
@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
def test_what_is_not_rgb_is_refused_as_such(tmp_path, image, name):
    photometric = "rgb" if image.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(tmp_path / name, image, photometric=photometric, tile=(64, 64))
    with pytest.raises(SlideError, match="not an RGB H&E image"):
        open_slide(tmp_path / name, mpp=0.25)


def test_three_fluorescence_channels_are_not_taken_for_rgb(tmp_path, pixels):
    metadata = {"axes": "CYX", "Channel": {"Name": ["Hoechst", "AF1", "CD31"]}}
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", planes, photometric="minisblack", tile=(64, 64), metadata=metadata
    )
    with pytest.raises(SlideError, match="fluorescence"):
        open_slide(tmp_path / "a.ome.tif", mpp=0.25)


def test_a_tiff_in_printing_colours_is_refused(tmp_path):
    image = np.zeros((64, 64, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="separated")
    with pytest.raises(SlideError, match="stored as SEPARATED"):
        open_slide(tmp_path / "a.tif", mpp=0.25)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_plain_image_that_is_not_rgb_is_refused(tmp_path, pixels, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).convert(mode).save(path)
    with pytest.raises(SlideError, match=f"not an RGB H&E image: its colour mode is '{mode}'"):
        open_slide(path, mpp=0.25)


def test_a_palette_png_is_read_as_rgb(tmp_path, pixels):
    image = Image.fromarray(pixels).quantize(64)
    image.save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.25) as slide:
        region = slide.read_region(0, 0, 603, 500, 0.25)
    assert np.array_equal(region, np.asarray(image.convert("RGB")))


def test_a_field_above_pillow_s_limit_opens_and_one_above_ours_is_refused(
    tmp_path, pixels, monkeypatch
):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.dimensions == (603, 500)
    monkeypatch.setattr(image_reader, "MAX_PIXELS", 1000)
    with pytest.raises(SlideError, match=r"603 x 500 px, too large.*tiffsave"):
        open_slide(path, mpp=0.25)


class TestIdentity:
    def test_it_survives_a_new_name_and_changes_with_content(self, tmp_path, pixels):
        first = write_svs(tmp_path / "a.svs", pixels)
        copy = tmp_path / "elsewhere" / "b.svs"
        copy.parent.mkdir()
        shutil.copy(first, copy)
        other = write_svs(tmp_path / "c.svs", 255 - pixels)
        names = [first, copy, other]
        ids = []
        for name in names:
            with open_slide(name) as slide:
                ids.append(slide.identity())
        assert ids[0] == ids[1] != ids[2]
        assert len(ids[0]) == 64

    def test_it_samples_start_middle_and_end_of_a_large_file(self, tmp_path):
        from lymphinfer.slides.identity import file_identity

        path = tmp_path / "large.svs"
        size = 20 << 20
        seen = set()
        for place in (None, 0, size // 2, size - 1):
            with path.open("wb") as file:
                file.truncate(size)
                if place is not None:
                    file.seek(place)
                    file.write(b"x")
            seen.add(file_identity(path))
        assert len(seen) == 4

    def test_mirax_counts_its_folder(self, tmp_path):
        from lymphinfer.slides.identity import file_identity

        path, folder = tmp_path / "a.mrxs", tmp_path / "a"
        path.write_bytes(b"mirax")
        alone = file_identity(path)
        folder.mkdir()
        (folder / "Slidedat.ini").write_text("[GENERAL]")
        (folder / "Data0000.dat").write_bytes(b"1234")
        whole = file_identity(path)
        (folder / "Data0000.dat").write_bytes(b"12345")
        assert len({alone, whole, file_identity(path)}) == 3
        (folder / "Data0000.dat").write_bytes(b"1234")
        folder.rename(tmp_path / "b")
        path.rename(tmp_path / "b.mrxs")
        assert file_identity(tmp_path / "b.mrxs") == whole

    def test_a_file_that_has_gone_is_a_slide_error(self, tmp_path):
        from lymphinfer.slides.identity import file_identity

        with pytest.raises(SlideError, match="identify"):
            file_identity(tmp_path / "gone.svs")
