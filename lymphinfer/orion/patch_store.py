"""The patch store: one Zarr group a slide, with the patches and labels that training reads.

======================  =======================================================================
array                   content
======================  =======================================================================
``patches``             uint8 (N, S, S, 3), RGB; chunks of (256, S, S, 3), zstd
``labels``              int8 (N, M), markers in panel order: 1 positive, 0 negative, -1 unknown
``cell_id``             int64 (N,), the cell table's ``CellID``
``x``, ``y``            float64 (N,), centroid, level-0 px
======================  =======================================================================

Attributes of the group: ``format``, ``version``, ``slide``, ``patient``, ``split`` (``train``,
``val`` or ``test``), ``patch_px``, ``mpp`` (µm/px of the patches), ``gates_sha256``, ``panel``
(marker names), ``fingerprint`` (of everything the content follows from), ``rows_done`` and
``complete``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lymphinfer.errors import DataError

FORMAT, VERSION = "lymphinfer-patches", 1
CHUNK_ROWS = 256
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class StoreInfo:
    """What a store's patches are.

    Attributes
    ----------
    slide : str
        The cohort's folder, such as ``"CRC33_01"``.
    patient : str
        Such as ``"C33"``.
    split : str
        ``"train"``, ``"val"`` or ``"test"``.
    patch_px : int
        Side of a patch, px.
    mpp : float
        Pixel size of the patches, µm/px.
    gates_sha256 : str
        Of the gates that the labels come from.
    panel : tuple of str
        Names of the markers, the columns of the labels.
    fingerprint : str
        Sha256 of everything that the content follows from.
    """

    slide: str
    patient: str
    split: str
    patch_px: int
    mpp: float
    gates_sha256: str
    panel: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class StoreCells:
    """The cells of a store, in its row order.

    Attributes
    ----------
    cell_id : ndarray of int64, (N,)
    x, y : ndarray of float64, (N,)
        Centroids, level-0 px.
    labels : ndarray of int8, (N, M)
        1 positive, 0 negative, -1 unknown; markers in panel order.
    """

    cell_id: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    labels: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.cell_id)

    def take(self, rows: NDArray[np.intp]) -> StoreCells:
        """Pick the cells at `rows`, in that order."""
        return StoreCells(self.cell_id[rows], self.x[rows], self.y[rows], self.labels[rows])


class PatchStore:
    """A finished patch store, opened for reading. Threads may share it; it can be pickled.

    Attributes
    ----------
    path : Path
    info : StoreInfo
    cells : StoreCells
        All in memory; `labels` is a shortcut.

    Parameters
    ----------
    path : str or path-like
        The ``.zarr`` folder.
    cache_bytes : int
        Bound on the decoded chunks kept for the next `read`; the newest stays in any case.

    Raises
    ------
    DataError
        No patch store, an unfinished one, or one of another version.
    """

    def __init__(self, path: Path | str, *, cache_bytes: int = 128 << 20) -> None:
        self.path = Path(path)
        group = store_group(self.path)
        if group is None:
            raise DataError(
                f"{self.path}: no patch store of this version of LymphInfer. "
                "Make it with `lymphinfer retrain`."
            )
        attrs = dict(group.attrs)
        if not attrs["complete"]:
            raise DataError(
                f"{self.path}: the patch store is unfinished ({attrs['rows_done']:,} of "
                f"{group['cell_id'].shape[0]:,} patches). Run the command that makes it again: "
                "it goes on where it stopped."
            )
        self.info = _info(attrs)
        self.cells = StoreCells(
            *(np.asarray(group[name][...]) for name in ("cell_id", "x", "y", "labels"))
        )
        self._patches = group["patches"]
        self._cache_bytes = cache_bytes
        self._reset()

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a finished store; see the class."""
        return cls(path)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def labels(self) -> NDArray[np.int8]:
        """Labels, int8 (N, M): 1 positive, 0 negative, -1 unknown."""
        return self.cells.labels

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded together; reading neighbours of one chunk costs no more."""
        return int(self._patches.chunks[0])

    def read(self, indices: ArrayLike) -> Bytes:
        """Read patches by row.

        Every chunk that is touched is decoded once, so sorted or neighbouring indices are cheap.

        Parameters
        ----------
        indices : array_like of int, (B,)
            Rows, in any order, repeated or not.

        Returns
        -------
        ndarray of uint8, (B, S, S, 3)
            RGB, in the order asked for.

        Raises
        ------
        IndexError
            A row outside the store.
        """
        rows = np.asarray(indices, dtype=np.intp).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"{self.path}: rows {rows.min()}-{rows.max()} of {len(self)}")
        side = self.info.patch_px
        out = np.empty((len(rows), side, side, 3), np.uint8)
        chunks = rows // self.chunk_rows
        for chunk in np.unique(chunks):
            here = np.flatnonzero(chunks == chunk)
            out[here] = self._chunk(int(chunk))[rows[here] - chunk * self.chunk_rows]
        return out

    def _chunk(self, chunk: int) -> Bytes:
        with self._lock:
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
                return self._cache[chunk]
        first = chunk * self.chunk_rows
        pixels: Bytes = np.asarray(self._patches[first : first + self.chunk_rows])
        with self._lock:
            self._cache[chunk] = pixels
            while len(self._cache) > 1 and len(self._cache) * pixels.nbytes > self._cache_bytes:
                self._cache.popitem(last=False)
        return pixels

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Bytes] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def store_info(path: Path) -> tuple[StoreInfo, bool]:
    """What a store is of, and whether it is finished.

    Raises
    ------
    DataError
        No patch store of this version.
    """
    group = store_group(path)
    if group is None:
        raise DataError(
            f"{path}: no patch store of this version of LymphInfer. Make it with `lymphinfer "
            "retrain`."
        )
    attrs = dict(group.attrs)
    return _info(attrs), bool(attrs["complete"])


def store_group(path: Path, *, writable: bool = False) -> Any:
    """Open a store's Zarr group; None where there is no store of this version."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r+" if writable else "r")
        known = group.attrs.get("format") == FORMAT and group.attrs.get("version") == VERSION
    # A folder of other content, or one that was cut off while it was made.
    except (FileNotFoundError, KeyError, ValueError, zarr.errors.BaseZarrError):
        return None
    return group if known else None


def _info(attrs: dict[str, Any]) -> StoreInfo:
    fields = {name: attrs[name] for name in StoreInfo.__dataclass_fields__}
    return StoreInfo(**{**fields, "panel": tuple(attrs["panel"])})
