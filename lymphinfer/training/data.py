"""Patches for training: in an order that follows from seed and epoch alone, read chunk-wise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lymphinfer.errors import DataError
from lymphinfer.nuclei.augment import Augmentation, perturb_optics, perturb_stain
from lymphinfer.orion.patches import PatchStore

# Gentler optics than the detector's: a patch is one nucleus, and blur hides its chromatin.
AUGMENTATION = Augmentation(blur=0.7, jpeg=0.3, noise=3.0)

Batch = tuple[Tensor, Tensor]


class StoreSet:
    """Several patch stores read as one array, store after store.

    Parameters
    ----------
    paths : sequence of Path
        Finished stores of one patch size, pixel size and panel.

    Attributes
    ----------
    labels : ndarray of int8, (N, M)
        1 positive, 0 negative, -1 unknown.
    patients, slides : ndarray of str, (N,)
    cell_id : ndarray of int64, (N,)
    x, y : ndarray of float64, (N,)
        Centroids, level-0 px.

    Raises
    ------
    DataError
        No store, or stores that do not fit together.
    """

    def __init__(self, paths: Sequence[Path]):
        # What a batch reads next lies in another chunk, and the window is kept here.
        self.stores = [PatchStore(path, cache_bytes=0) for path in paths]
        if not self.stores:
            raise DataError("no patch store to read; run `lymphinfer retrain` to make them")
        kinds = {(s.info.patch_px, s.info.mpp, s.info.panel) for s in self.stores}
        if len(kinds) > 1:
            raise DataError(
                "patch stores of different patch size, pixel size or panel cannot be mixed: "
                + ", ".join(f"{px} px at {mpp} µm/px" for px, mpp, _ in sorted(kinds))
            )
        self.patch_px, self.mpp, self.panel = kinds.pop()
        self.sizes = np.array([len(s) for s in self.stores])
        self.first = np.r_[0, np.cumsum(self.sizes)]
        self.labels: NDArray[np.int8] = np.concatenate([s.labels for s in self.stores])
        self.cell_id = np.concatenate([s.cells.cell_id for s in self.stores])
        self.x = np.concatenate([s.cells.x for s in self.stores])
        self.y = np.concatenate([s.cells.y for s in self.stores])
        self.patients = np.repeat([s.info.patient for s in self.stores], self.sizes)
        self.slides = np.repeat([s.info.slide for s in self.stores], self.sizes)

    def __len__(self) -> int:
        return int(self.first[-1])

    def chunks(self) -> NDArray[np.int64]:
        """First and last row (exclusive) of every chunk that is decoded together, (C, 2)."""
        spans = []
        for start, store in zip(self.first[:-1], self.stores, strict=True):
            edges = np.r_[np.arange(0, len(store), store.chunk_rows), len(store)] + start
            spans.append(np.stack([edges[:-1], edges[1:]], axis=1))
        return np.concatenate(spans).astype(np.int64)

    def read(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Read patches, uint8 (B, S, S, 3), in the order of `rows`; each chunk is decoded once."""
        out = np.empty((len(rows), self.patch_px, self.patch_px, 3), np.uint8)
        which = np.searchsorted(self.first, rows, "right") - 1
        for index in np.unique(which):
            here = np.flatnonzero(which == index)
            out[here] = self.stores[index].read(rows[here] - self.first[index])
        return out


@dataclass(frozen=True)
class EpochOrder:
    """The rows of one epoch, in windows of chunks from anywhere, shuffled inside each window.

    Attributes
    ----------
    rows : ndarray of int64, (N,)
    window : int
        Patches in a window (the last may hold fewer).
    """

    rows: NDArray[np.int64]
    window: int


def epoch_order(chunks: NDArray[np.int64], *, window: int, seed: int, epoch: int) -> EpochOrder:
    """Shuffle chunks, then patches within windows of consecutive chunks.

    Parameters
    ----------
    chunks : ndarray of int, (C, 2)
        First and last row (exclusive).
    window : int
        Patches in a window.
    seed, epoch : int
        The order follows from them alone.

    Returns
    -------
    EpochOrder
        Every row once.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = np.concatenate([np.arange(a, b) for a, b in chunks[rng.permutation(len(chunks))]])
    for start in range(0, len(rows), window):
        rng.shuffle(rows[start : start + window])
    return EpochOrder(rows.astype(np.int64), window)


def augment_patch(
    patch: NDArray[np.uint8], rng: np.random.Generator, augmentation: Augmentation | None
) -> NDArray[np.uint8]:
    """Turn, mirror and (unless None) change stain and optics of a patch, uint8 (S, S, 3)."""
    patch = np.rot90(patch, int(rng.integers(4)))
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if augmentation is None:
        return patch
    return perturb_optics(perturb_stain(patch, rng, augmentation), rng, augmentation)


class EpochBatches(Dataset[Batch]):
    """Batches of one epoch; item i is the same for any number of workers and after a resumption.

    With several devices each batch of ``batch_size`` x ``ranks`` patches is dealt out in equal
    parts, and an incomplete last one is left out.

    Parameters
    ----------
    stores : StoreSet
    order : EpochOrder
        Its window a multiple of ``batch_size`` x ``ranks``.
    batch_size : int
        Patches a device.
    seed, epoch : int
        Of the augmentation.
    augmentation : Augmentation or None
    rank, ranks : int
    """

    def __init__(
        self,
        stores: StoreSet,
        order: EpochOrder,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        augmentation: Augmentation | None = AUGMENTATION,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.stores, self.order, self.batch_size = stores, order, batch_size
        self.seed, self.epoch, self.augmentation = seed, epoch, augmentation
        self.rank, self.ranks = rank, ranks
        self._window = -1
        self._rows: NDArray[np.int64] = np.empty(0, np.int64)
        self._pixels: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __len__(self) -> int:
        full, rest = divmod(len(self.order.rows), self.batch_size * self.ranks)
        # On one device a smaller last batch is no trouble; batch normalisation wants two patches.
        return full + int(self.ranks == 1 and rest > 1)

    def __getitem__(self, index: int) -> Batch:
        """Patches uint8 (B, 3, S, S) and labels int8 (B, M) of batch `index`."""
        first = (index * self.ranks + self.rank) * self.batch_size
        rows = self.order.rows[first : first + self.batch_size]
        if not len(rows):
            raise IndexError(index)
        pixels = self._read(first, rows)
        patches = np.empty((len(rows), 3, *pixels.shape[1:3]), np.uint8)
        for i, patch in enumerate(pixels):
            rng = np.random.default_rng([self.seed, self.epoch, first + i])
            patches[i] = augment_patch(patch, rng, self.augmentation).transpose(2, 0, 1)
        return torch.from_numpy(patches), torch.from_numpy(self.stores.labels[rows])

    def _read(self, first: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        window = first // self.order.window
        if window != self._window:
            begin = window * self.order.window
            self._rows = np.sort(self.order.rows[begin : begin + self.order.window])
            self._pixels = self.stores.read(self._rows)
            self._window = window
        pixels: NDArray[np.uint8] = self._pixels[np.searchsorted(self._rows, rows)]
        return pixels


def window_rows(chunks: NDArray[np.int64], window_chunks: int, batch: int) -> int:
    """Patches in a window of about `window_chunks` chunks, a multiple of a global batch."""
    largest = int((chunks[:, 1] - chunks[:, 0]).max())
    return max(1, largest * window_chunks // batch) * batch
