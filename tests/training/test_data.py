"""Every patch comes once an epoch, in an order that only seed and epoch decide."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lymphinfer.errors import DataError
from lymphinfer.orion import patch_writer
from lymphinfer.training.data import (
    EpochBatches,
    StoreSet,
    augment_patch,
    epoch_order,
    window_rows,
)
from tests.training.training_made import make_sets, make_store


@pytest.fixture
def stores(tmp_path, monkeypatch):
    monkeypatch.setattr(patch_writer, "CHUNK_ROWS", 20)
    return make_sets(tmp_path)[0]


def batches(stores, epoch=0, rank=0, ranks=1, batch_size=8, augmentation=None):
    chunks = stores.chunks()
    window = window_rows(chunks, 3, batch_size * ranks)
    order = epoch_order(chunks, window=window, seed=5, epoch=epoch)
    return EpochBatches(
        stores,
        order,
        batch_size=batch_size,
        seed=5,
        epoch=epoch,
        augmentation=augmentation,
        rank=rank,
        ranks=ranks,
    )


def test_chunks_cover_every_row_once(stores):
    spans = stores.chunks()
    rows = np.concatenate([np.arange(a, b) for a, b in spans])
    assert rows.tolist() == list(range(len(stores)))
    assert (spans[:, 1] - spans[:, 0]).max() == 20


def test_an_epoch_has_every_row_once_and_the_next_another_order(stores):
    first, second = (batches(stores, epoch).order.rows for epoch in (0, 1))
    assert sorted(first) == list(range(len(stores)))
    assert first.tolist() != second.tolist()
    assert first.tolist() == batches(stores).order.rows.tolist()


def test_patches_and_labels_belong_together(stores):
    items = batches(stores)
    for index in (0, 7, len(items) - 1):
        _, labels = items[index]
        rows = items.order.rows[index * 8 : index * 8 + 8]
        assert labels.numpy().tolist() == stores.labels[rows].tolist()
        np.testing.assert_array_equal(items._read(index * 8, rows), stores.read(rows))
        which = np.searchsorted(stores.first, rows, "right") - 1
        one = stores.stores[which[0]].read([rows[0] - stores.first[which[0]]])
        np.testing.assert_array_equal(stores.read(rows)[:1], one)


def test_workers_and_a_later_start_change_nothing(stores):
    from lymphinfer.training.data import AUGMENTATION

    items = batches(stores, augmentation=AUGMENTATION)
    plain = [items[i] for i in range(len(items))]
    loaded = list(DataLoader(items, batch_size=None, num_workers=2))
    assert len(plain) == len(loaded)
    for (x, y), (u, v) in zip(plain, loaded, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    late = batches(stores, augmentation=AUGMENTATION)[9]
    assert torch.equal(late[0], plain[9][0])


def test_two_devices_share_out_each_batch(stores):
    whole = batches(stores, batch_size=8)
    parts = [batches(stores, batch_size=4, rank=r, ranks=2) for r in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(stores) // 8
    seen = [y for i in range(len(parts[0])) for p in parts for y in p[i][1].tolist()]
    assert len(seen) == len(parts[0]) * 8
    assert whole.order.window % 8 == parts[0].order.window % 8 == 0


def test_turning_and_mirroring_keep_the_pixels():
    patch = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    views = {augment_patch(patch, np.random.default_rng(s), None).tobytes() for s in range(60)}
    assert len(views) == 8
    assert patch.tobytes() in views


def test_stores_of_different_sizes_are_refused(tmp_path, monkeypatch):
    from tests.training import training_made

    first = make_store(tmp_path / "a.zarr", patient="C1", split="train")
    monkeypatch.setattr(training_made, "SIDE", 24)
    second = make_store(tmp_path / "b.zarr", patient="C2", split="train")
    with pytest.raises(DataError, match="different patch size"):
        StoreSet([first, second])
    with pytest.raises(DataError, match="no patch store"):
        StoreSet([])
