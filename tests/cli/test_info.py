"""``lymphinfer info``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lymphinfer.cli.app import app

from ..slides.made import write_ome, write_svs


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.full((300, 400, 3), (225, 165, 200)) + rng.normal(0, 6, (300, 400, 3))
    image[::16, ::16] = (90, 60, 140)
    return np.clip(image, 0, 255).astype(np.uint8)


def info(*arguments: object):
    return CliRunner().invoke(app, ["info", *map(str, arguments)])


def test_it_names_images_sizes_and_what_predict_would_read(tmp_path, picture):
    path = tmp_path / "a.ome.tif"
    options = {"photometric": "rgb", "compression": "zlib", "tile": (128, 128)}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(np.ascontiguousarray(255 - picture[:99, :99]), **options,
                  metadata={"axes": "YXS", "Name": "macro", "PhysicalSizeX": 9.0,
                            "PhysicalSizeY": 9.0})  # fmt: skip
        tif.write(picture, **options, metadata={"axes": "YXS", "Name": "scan",
                  "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})  # fmt: skip
    done = info(path)
    assert done.exit_code == 0
    for text in ("macro", "400 x 300", "0.25 µm/px, by OME-XML", "tifffile:ome", "--series",
                 "predict would read image 1 'scan'"):  # fmt: skip
        assert text in done.stdout
    (facts,) = json.loads(info(path, "--json").stdout)
    assert [image["read"] for image in facts["images"]] == [False, True]
    assert facts["mpp"] == 0.25 and facts["refusal"] == ""


def test_what_predict_would_refuse_is_shown_all_the_same(tmp_path, picture):
    path = write_ome(tmp_path / "a.ome.tif", picture, mpp=None)
    done = info(path)
    assert done.exit_code == 0
    assert "predict would refuse it" in done.stdout and "PhysicalSizeX" in done.stdout
    assert "pixel size: none" in done.stdout and "400 x 300" in done.stdout
    (tmp_path / "b.svs").write_text("no slide")
    broken = info(tmp_path / "b.svs")
    assert broken.exit_code == 2 and "a text file" in broken.stdout


def test_a_pixel_size_that_cannot_be_used_is_shown_as_it_is(tmp_path, picture):
    done = info(write_svs(tmp_path / "a.svs", picture, mpp=29.0))
    assert "pixel size: 29 µm/px, by metadata, at which no nucleus is seen" in done.stdout
    assert "extent: 11.6 x 8.7 mm" in done.stdout
    assert "predict would refuse it" in done.stdout
    # No word of a size that nobody has given.
    assert "--mpp 0.25 is used" not in done.output


def test_a_folder_of_folders_says_which_there_are(tmp_path, picture):
    (tmp_path / "case_A").mkdir()
    done = info(tmp_path)
    assert done.exit_code != 0
    assert "not looked into: case_A" in (done.output + str(done.exception))


def test_a_folder_is_shown_slide_by_slide(tmp_path, picture):
    write_svs(tmp_path / "a.svs", picture)
    write_svs(tmp_path / "b.svs", picture)
    done = info(tmp_path, "--json")
    assert [each["path"][-5:] for each in json.loads(done.stdout)] == ["a.svs", "b.svs"]
    assert all(each["vendor"] == "aperio" for each in json.loads(done.stdout))
