"""Annotations as PanNuke and MoNuSeg publish them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lymphinfer.errors import DataError
from lymphinfer.nuclei.layouts import read_any_folder
from tests.nuclei.test_training_data import write_image


def test_our_own_layout_is_read(tmp_path):
    write_image(tmp_path / "own")
    assert [i.n_nuclei for i in read_any_folder(tmp_path / "own", mpp=0.3)] == [2]


def test_pannuke_s_arrays_give_instances_and_leukocytes(tmp_path):
    masks = np.zeros((2, 64, 64, 6))
    masks[0, 5:12, 5:12, 0] = 4
    masks[0, 20:30, 20:30, 1] = 4
    masks[0, 40:50, 40:50, 1] = 9
    masks[..., 5] = 1 - np.minimum(masks[..., :5].sum(axis=-1), 1)
    (tmp_path / "images" / "fold1").mkdir(parents=True)
    (tmp_path / "masks" / "fold1").mkdir(parents=True)
    np.save(tmp_path / "images" / "fold1" / "images.npy", np.full((2, 64, 64, 3), 200.0))
    np.save(tmp_path / "masks" / "fold1" / "masks.npy", masks)
    first, second = read_any_folder(tmp_path)
    assert first.image.dtype == np.uint8 and first.image.max() == 200
    assert first.leukocyte.tolist() == [-1, 0, 1, 1]
    assert [(first.instances == i).sum() for i in (1, 2, 3)] == [49, 100, 100]
    assert second.n_nuclei == 0


def test_arrays_with_pickles_or_of_other_sizes_are_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8, 3)))
    np.save(tmp_path / "masks.npy", np.zeros((1, 9, 9, 6)))
    with pytest.raises(DataError, match="differ"):
        read_any_folder(tmp_path)
    np.save(tmp_path / "masks.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="not PanNuke"):
        read_any_folder(tmp_path)


def test_monuseg_s_outlines_are_drawn(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Tissue Images").mkdir()
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(tmp_path / "Tissue Images" / "TCGA-1.tif")
    corners = ((10, 5), (30, 5), (30, 15), (10, 15))
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
    path = tmp_path / "Annotations" / "TCGA-1.xml"
    path.write_text(
        f"<Annotations><Annotation><Regions><Region><Vertices>{vertices}</Vertices></Region>"
        '<Region><Vertices><Vertex X="1" Y="1"/></Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    )
    (item,) = read_any_folder(tmp_path)
    assert item.n_nuclei == 1 and item.leukocyte.tolist() == [-1, -1]
    assert item.instances[10, 20] == 1 and item.instances[20, 20] == 0
    path.write_text("<Annotations>")
    with pytest.raises(DataError, match="ImageScope"):
        read_any_folder(tmp_path)
