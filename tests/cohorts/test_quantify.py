from __future__ import annotations

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lymphinfer.cells.outlines import Rings
from lymphinfer.cli.app import app
from lymphinfer.cohorts.quantify import RingLabels, measure
from lymphinfer.errors import DataError
from lymphinfer.orion.align import Affine, AlignedPlanes
from lymphinfer.orion.celltable import read_cells
from lymphinfer.orion.cohort import open_cohort
from tests.orion.made_cohort import write_he
from tests.predict.conftest import disc_bundle, disc_image

__all__ = ["disc_bundle"]

WIDTH, HEIGHT = 420, 300
COHORT = """
format = "lymphinfer-cohort"
version = 1
mpp = 0.325
panel = "one"
[image]
channels = ["DAPI", "Marker"]
nuclei = "DAPI"
[cells]
source = "measure"
[[marker]]
name = "Marker"
color = [1, 2, 3]
[[slide]]
name = "a"
he = "he.ome.tif"
if = "if.ome.tif"
mask = "mask.ome.tif"
"""


def write_planes(path, image, axes):
    tifffile.imwrite(
        path, image, ome=True, photometric="minisblack", tile=(128, 128), metadata={"axes": axes}
    )


@pytest.fixture
def cohort(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((HEIGHT, WIDTH), np.int32)
    for label, (x, y) in enumerate(rng.integers(0, (WIDTH - 12, HEIGHT - 12), (200, 2)), start=1):
        mask[y : y + 11, x : x + 9] = label
    image = rng.integers(0, 4000, (2, HEIGHT, WIDTH)).astype(np.uint16)
    write_he(tmp_path / "he.ome.tif")
    write_planes(tmp_path / "mask.ome.tif", mask, "YX")
    write_planes(tmp_path / "if.ome.tif", image, "CYX")
    (tmp_path / "cohort.toml").write_text(COHORT)
    return tmp_path, mask, image


def quantified(*words):
    return CliRunner().invoke(app, ["cohort", "quantify", *map(str, words)])


def test_every_cell_of_a_mask_gets_its_mean_and_centroid(cohort):
    root, mask, image = cohort
    done = quantified(root)
    assert done.exit_code == 0, done.output
    cells = read_cells(root / "measured" / "a.csv", ("DAPI", "Marker"),
                       open_cohort(root).slides[0].table_format)  # fmt: skip
    labels = np.unique(mask)[1:]
    assert cells.cell_id.tolist() == labels.tolist()
    for label, mean, x in zip(cells.cell_id, cells.intensities["Marker"], cells.x, strict=True):
        own = mask == label
        assert mean == pytest.approx(image[1][own].mean(), rel=1e-4)
        assert x == pytest.approx(np.nonzero(own)[1].mean(), abs=1e-3)


def test_a_cell_that_blocks_cut_is_measured_whole(cohort):
    root, mask, _ = cohort

    class Whole:
        size = (WIDTH, HEIGHT)

        def read(self, x, y, width, height):
            return mask[y : y + height, x : x + width].astype(np.int64)

    with AlignedPlanes(root / "if.ome.tif") as planes:
        small = measure(Whole(), planes, [0, 1], block_px=37)
        large = measure(Whole(), planes, [0, 1], block_px=1000)
    top = mask.max() + 1
    np.testing.assert_array_equal(small.count[:top], large.count[:top])
    np.testing.assert_allclose(small.channels[:top], large.channels[:top])


def test_a_table_of_the_same_images_is_kept_and_of_others_made_anew(cohort):
    root, _, image = cohort
    quantified(root)
    assert "was there" in quantified(root).output
    write_planes(root / "if.ome.tif", image + 1, "CYX")
    assert "was there" not in quantified(root).output


def test_a_cohort_that_is_not_measured_yet_says_what_to_run(cohort):
    with pytest.raises(DataError, match=r"has not been measured\. Run `lymphinfer cohort quantify"):
        open_cohort(cohort[0])


def test_nuclei_are_dilated_but_not_into_one_another():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    rings = Rings(np.concatenate([square + 20, square + np.array([33, 20])]), np.array([0, 4, 8]))
    labels = RingLabels(rings, (80, 60), 4.0).read(0, 0, 80, 60)
    assert labels[25, 25] == 1 and labels[25, 17] == 1 and labels[25, 14] == 0
    assert labels[25, 30] == 1 and labels[25, 32] == 2
    part = RingLabels(rings, (80, 60), 4.0).read(31, 18, 9, 9)
    np.testing.assert_array_equal(part, labels[18:27, 31:40])


def test_an_image_in_another_frame_is_read_in_the_frame_of_the_h_e(tmp_path):
    yy, xx = np.mgrid[:200, :300].astype(np.float64)
    write_planes(tmp_path / "if.ome.tif", (10 * xx + yy).astype(np.float32)[None], "CYX")
    to_if = Affine(np.array([[0.5, -0.1, 40.0], [0.1, 0.5, 30.0]]))
    with AlignedPlanes(tmp_path / "if.ome.tif", to_if) as planes:
        found = planes.read_plane(0, 12, 8, 50, 40)
    points = np.stack(np.meshgrid(np.arange(12, 62), np.arange(8, 48)), -1).reshape(-1, 2)
    there = to_if(points.astype(float))
    np.testing.assert_allclose(found.ravel(), 10 * there[:, 0] + there[:, 1], rtol=1e-4)
    np.testing.assert_allclose(to_if.inverse()(there), points, atol=1e-9)


def test_without_a_mask_nuclei_are_found_on_the_h_e_and_dilated(tmp_path, disc_bundle):
    rgb, centers = disc_image(420, 340)
    tifffile.imwrite(
        tmp_path / "he.ome.tif", rgb, ome=True, photometric="rgb", tile=(128, 128),
        metadata={"axes": "YXS", "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325},
    )  # fmt: skip
    yy, xx = np.mgrid[:340, :420]
    image = np.zeros((2, 340, 420), np.uint16)
    light = np.arange(1, len(centers) + 1) * 10
    for (x, y), value in zip(centers, light, strict=True):
        image[1][(xx - x) ** 2 + (yy - y) ** 2 <= 15**2] = value
    write_planes(tmp_path / "if.ome.tif", image, "CYX")
    (tmp_path / "cohort.toml").write_text(COHORT.replace('mask = "mask.ome.tif"', ""))
    done = quantified(tmp_path, "--bundle", disc_bundle, "--device", "cpu")
    assert done.exit_code == 0, done.output
    cells = read_cells(tmp_path / "measured" / "a.csv", ("Marker",))
    place = np.column_stack([cells.x, cells.y])
    distance = np.hypot(*(place[:, None] - (centers - 0.5)).transpose(2, 0, 1))
    assert len(cells) == len(centers) and distance.min(axis=1).max() < 2
    # Some made cells reach into their neighbours.
    np.testing.assert_allclose(
        cells.intensities["Marker"], light[distance.argmin(axis=1)], rtol=0.05
    )
