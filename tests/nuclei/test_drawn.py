"""Nuclei drawn in QuPath become training images: the pixels and outlines that were drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lymphinfer.errors import DataError
from lymphinfer.nuclei.layouts import read_any_folder
from tests.predict.conftest import MPP, disc_image, write_svs


def feature(ring, kind="detection"):
    return {"type": "Feature", "properties": {"objectType": kind},
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}}  # fmt: skip


def square(x, y, side=16):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def written(path: Path, features) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def image(tmp_path):
    picture, _ = disc_image(200, 160)
    Image.fromarray(picture).save(tmp_path / "a.png")
    return picture


def test_an_image_with_detections_is_taken_whole(image, tmp_path):
    written(tmp_path / "a.geojson", [feature(square(20, 30)), feature(square(100, 90))])
    (found,) = read_any_folder(tmp_path, mpp=0.25)
    assert (found.image == image).all() and found.n_nuclei == 2 and found.mpp == 0.25
    # Pixel (20, 30) is the first inside a square from its corner on.
    rows, columns = np.nonzero(found.instances == 1)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (20, 35, 30, 45)


def test_regions_are_cut_out_and_what_lies_outside_is_no_background(image, tmp_path):
    region = feature([[10, 20], [90, 20], [90, 100], [10, 100]], "annotation")
    nuclei = [feature(square(20, 30), "annotation"), feature(square(150, 90), "annotation")]
    written(tmp_path / "a.geojson", [region, *nuclei])
    (found,) = read_any_folder(tmp_path, mpp=0.5)
    assert found.image.shape == (80, 80, 3) and (found.image == image[20:100, 10:90]).all()
    assert found.n_nuclei == 1
    assert found.instances[10, 10] == 1 and found.instances[9, 9] == 0


def test_a_slide_is_read_in_its_regions_at_its_own_pixel_size(tmp_path):
    picture, _ = disc_image(400, 300)
    write_svs(tmp_path / "s.svs", picture)
    region = feature([[100, 50], [228, 50], [228, 178], [100, 178]], "annotation")
    written(tmp_path / "s.svs.geojson", [region, feature(square(120, 70))])
    (found,) = read_any_folder(tmp_path)
    assert found.mpp == pytest.approx(MPP) and found.image.shape == (128, 128, 3)
    assert np.abs(found.image.astype(int) - picture[50:178, 100:228]).mean() < 6
    assert found.instances[25, 25] == 1
    written(tmp_path / "s.svs.geojson", [feature(square(120, 70))])
    with pytest.raises(DataError, match="no region on the slide"):
        read_any_folder(tmp_path)


def test_both_kinds_of_labels_stand_beside_each_other(image, tmp_path):
    written(tmp_path / "a.geojson", [feature(square(20, 30))])
    Image.fromarray(image).save(tmp_path / "b.png")
    np.savez(tmp_path / "b.npz", inst_map=np.eye(200, dtype=np.int32)[:160])
    assert [each.name.rsplit("/", 1)[1] for each in read_any_folder(tmp_path)] == ["a", "b"]


def test_only_large_outlines_are_told(image, tmp_path):
    written(tmp_path / "a.geojson", [feature([[0, 0], [150, 0], [150, 150]], "annotation")])
    with pytest.raises(DataError, match="no nucleus among its 1 outlines"):
        read_any_folder(tmp_path)
