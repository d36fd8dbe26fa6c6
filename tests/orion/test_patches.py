import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from lymphinfer.markers.patches import cut_patches
from lymphinfer.orion.patch_store import StoreCells, StoreInfo
from lymphinfer.orion.patches import cut_store, tile_order
from lymphinfer.slides import open_slide
from tests.orion.made_cohort import HEIGHT, WIDTH, write_he

INFO = StoreInfo("CRC01", "C1", "train", 32, 0.325, "g", ("CD45",), "f")


def make_cells(n, seed=0, width=WIDTH, height=HEIGHT) -> StoreCells:
    rng = np.random.default_rng(seed)
    x, y = rng.random(n) * (width - 1), rng.random(n) * (height - 1)
    labels = rng.integers(-1, 2, (n, 1)).astype(np.int8)
    return StoreCells(rng.permutation(n) + 1, x, y, labels)


@pytest.fixture
def he(tmp_path):
    write_he(tmp_path / "a-registered.ome.tif")
    return tmp_path / "a-registered.ome.tif"


def test_patches_are_those_cut_from_the_whole_image(he, tmp_path):
    cells = make_cells(700)
    with open_slide(he) as slide:
        store = cut_store(slide, tmp_path / "a.zarr", INFO, cells, tile_px=64)
    own = store.cells
    whole = tifffile.imread(he)
    expected = cut_patches(whole, np.stack([own.x, own.y], axis=1), 32)
    assert np.array_equal(store.read(np.arange(len(store))), expected)
    # The same cells, each with its own labels.
    order = np.argsort(cells.cell_id)
    mine = np.argsort(own.cell_id)
    for name in ("cell_id", "x", "y", "labels"):
        assert np.array_equal(getattr(own, name)[mine], getattr(cells, name)[order])


def test_beyond_the_edge_patches_are_white(he, tmp_path):
    corner = StoreCells(np.array([1]), np.zeros(1), np.zeros(1), np.ones((1, 1), np.int8))
    with open_slide(he) as slide:
        patch = cut_store(slide, tmp_path / "a.zarr", INFO, corner).read([0])[0]
    assert (patch[:16] == 255).all() and (patch[:, :16] == 255).all()
    assert np.array_equal(patch[16:, 16:], tifffile.imread(he)[:16, :16])


def test_patches_at_another_pixel_size_are_centred_on_the_cell(tmp_path):
    image = np.full((300, 300, 3), 255, np.uint8)
    image[140:144, 180:184] = 0
    path = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325}
    tifffile.imwrite(
        path, image, ome=True, photometric="rgb", tile=(128, 128), metadata={"axes": "YXS"} | size
    )
    cells = StoreCells(
        np.array([1]), np.array([181.5]), np.array([141.5]), np.ones((1, 1), np.int8)
    )
    with open_slide(path) as slide:
        for mpp, side in ((0.65, 2), (0.1625, 8)):
            store = cut_store(slide, tmp_path / f"{mpp}.zarr", replace(INFO, mpp=mpp), cells)
            dark = 255.0 - store.read([0])[0, :, :, 0]
            y, x = (dark.sum(axis=1 - axis) @ np.arange(32) / dark.sum() for axis in (0, 1))
            assert (x, y) == pytest.approx((16, 16), abs=0.6)
            assert dark.sum() / 255 == pytest.approx(side**2, rel=0.3)


def test_order_goes_tile_by_tile():
    x, y = np.random.default_rng(0).random((2, 500)) * 1000
    order = tile_order(x, y, 256)
    tiles = (y[order] // 256 * 10 + x[order] // 256).astype(int)
    assert (np.diff(tiles) >= 0).all()
    assert sorted(order.tolist()) == list(range(500))


def test_every_tile_is_read_once(he, tmp_path):
    class Counting:
        def __init__(self, slide):
            self.slide, self.mpp, self.reads = slide, slide.mpp, 0

        def read_region(self, *args):
            self.reads += 1
            return self.slide.read_region(*args)

    with open_slide(he) as slide:
        counting = Counting(slide)
        cut_store(counting, tmp_path / "a.zarr", INFO, make_cells(700), tile_px=128)
        assert counting.reads == 4 * 3
        cut_store(counting, tmp_path / "a.zarr", INFO, make_cells(700), tile_px=128)
        assert counting.reads == 4 * 3


def test_a_slide_without_sampled_cells_has_an_empty_store(he, tmp_path):
    with open_slide(he) as slide:
        store = cut_store(slide, tmp_path / "a.zarr", INFO, make_cells(0))
    assert len(store) == 0 and store.read([]).shape == (0, 32, 32, 3)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.orion.test_patches import INFO, make_cells
from lymphinfer.orion import patch_writer
from lymphinfer.orion.patches import cut_store
from lymphinfer.slides import open_slide
flush = patch_writer.PatchWriter._flush
def slow(self, count):
    flush(self, count)
    print(self.rows_done, flush=True)
    time.sleep(0.2)
patch_writer.PatchWriter._flush = slow
with open_slide(sys.argv[1]) as slide:
    cut_store(slide, Path(sys.argv[2]), INFO, make_cells(1500), tile_px=64)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_kill_9_and_the_same_command_again_end_with_the_same_store(he, tmp_path):
    path = tmp_path / "a.zarr"
    here = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(he), str(path), here], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    seen = []
    with open_slide(he) as slide:
        store = cut_store(
            slide, path, INFO, make_cells(1500), tile_px=64, progress=lambda *a: seen.append(a)
        )
        whole = cut_store(slide, tmp_path / "b.zarr", INFO, make_cells(1500), tile_px=64)
    assert seen[0][0] >= 512 and seen[-1] == (1500, 1500)
    rows = np.arange(1500)
    assert np.array_equal(store.read(rows), whole.read(rows))
    assert np.array_equal(store.cells.cell_id, whole.cells.cell_id)
