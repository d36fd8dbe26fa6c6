"""The patch store: what is written comes back, whole or not at all."""

import pickle

import numpy as np
import pytest
import zarr

from lymphinfer.errors import DataError
from lymphinfer.orion.patch_store import CHUNK_ROWS, PatchStore, StoreCells, StoreInfo
from lymphinfer.orion.patch_writer import PatchWriter

N, SIDE = CHUNK_ROWS * 2 + 37, 8
PANEL = ("CD45", "CD3e", "CD4", "CD8a")


def info(fingerprint: str = "f1") -> StoreInfo:
    return StoreInfo("CRC01", "C1", "train", SIDE, 0.325, "abc", PANEL, fingerprint)


@pytest.fixture
def cells() -> StoreCells:
    rng = np.random.default_rng(0)
    return StoreCells(
        np.arange(1, N + 1),
        rng.random(N) * 1e4,
        rng.random(N) * 1e4,
        rng.integers(-1, 2, (N, 4)).astype(np.int8),
    )


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


def write(path, pixels, cells, fingerprint="f1", batch=100) -> None:
    writer = PatchWriter(path, info(fingerprint), cells)
    for start in range(writer.rows_done, N, batch):
        writer.append(pixels[start : start + batch])
    writer.finish()


def test_rows_come_back_in_the_order_asked_for(tmp_path, pixels, cells):
    write(tmp_path / "a.zarr", pixels, cells)
    store = PatchStore.open(tmp_path / "a.zarr")
    rows = np.random.default_rng(2).integers(0, N, 300)
    assert np.array_equal(store.read(rows), pixels[rows])
    assert store.read([]).shape == (0, SIDE, SIDE, 3)
    assert np.array_equal(store.labels, cells.labels) and store.labels.dtype == np.int8
    assert np.array_equal(store.cells.cell_id, cells.cell_id)
    assert (len(store), store.info) == (N, info())
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(rows), pixels[rows])


def test_format_on_disk_is_the_documented_one(tmp_path, pixels, cells):
    write(tmp_path / "a.zarr", pixels, cells)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    shapes = {name: (array.shape, str(array.dtype)) for name, array in group.arrays()}
    assert shapes == {
        "patches": ((N, SIDE, SIDE, 3), "uint8"),
        "labels": ((N, 4), "int8"),
        "cell_id": ((N,), "int64"),
        "x": ((N,), "float64"),
        "y": ((N,), "float64"),
    }
    assert group["patches"].chunks == (256, SIDE, SIDE, 3)
    assert group.attrs["panel"] == list(PANEL) and group.attrs["complete"] is True


def test_a_stopped_writer_goes_on_after_its_last_whole_chunk(tmp_path, pixels, cells):
    path = tmp_path / "a.zarr"
    PatchWriter(path, info(), cells).append(pixels[:300])
    with pytest.raises(DataError, match=r"unfinished \(256 of 549"):
        PatchStore(path)
    assert PatchWriter(path, info(), cells).rows_done == 256
    write(path, pixels, cells)
    assert np.array_equal(PatchStore(path).read(np.arange(N)), pixels)


def test_another_fingerprint_starts_afresh(tmp_path, pixels, cells):
    path = tmp_path / "a.zarr"
    write(path, pixels, cells)
    assert PatchWriter(path, info(), cells).complete
    writer = PatchWriter(path, info("f2"), cells)
    assert (writer.rows_done, writer.complete) == (0, False)


def test_a_half_made_or_foreign_folder_is_no_store_and_is_made_afresh(tmp_path, pixels, cells):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="no patch store"):
        PatchStore(path)
    write(path, pixels, cells)
    assert len(PatchStore(path)) == N


def test_wrong_number_of_patches_and_rows_are_refused(tmp_path, pixels, cells):
    writer = PatchWriter(tmp_path / "a.zarr", info(), cells)
    writer.append(pixels[:10])
    with pytest.raises(ValueError, match="10 patches"):
        writer.finish()
    write(tmp_path / "a.zarr", pixels, cells)
    with pytest.raises(IndexError):
        PatchStore(tmp_path / "a.zarr").read([N])
