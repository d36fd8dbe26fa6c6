"""Filling a patch store row by row, so that it can be killed at any moment and go on."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lymphinfer.errors import ResultError
from lymphinfer.orion.patch_store import (
    CHUNK_ROWS,
    FORMAT,
    VERSION,
    Bytes,
    StoreCells,
    StoreInfo,
    store_group,
)


class PatchWriter:
    """Fill a store row by row; killed at any moment, the next writer goes on at `rows_done`.

    A store of another fingerprint, or one that is no store of this version, is made afresh.

    Parameters
    ----------
    path : Path
        The ``.zarr`` folder to make or go on with.
    info : StoreInfo
    cells : StoreCells
        All cells, in the order in which patches will be appended.

    Attributes
    ----------
    rows_done : int
        Patches that are on disk.
    complete : bool

    Raises
    ------
    ResultError
        The folder cannot be written.
    """

    def __init__(self, path: Path, info: StoreInfo, cells: StoreCells) -> None:
        self.path, self.info = path, info
        self._total = len(cells)
        try:
            group = store_group(path, writable=True)
            if group is None or group.attrs["fingerprint"] != info.fingerprint:
                group = _create(path, info, cells)
        except OSError as error:
            raise _cannot_write(path, error) from error
        self._group = group
        self.rows_done = int(group.attrs["rows_done"])
        self.complete = bool(group.attrs["complete"])
        self._pending: list[Bytes] = []
        self._n_pending = 0

    def append(self, patches: Bytes) -> None:
        """Add the patches of the next rows.

        Parameters
        ----------
        patches : ndarray of uint8, (B, S, S, 3)
            Written whole chunks at a time; the rest waits for the next call or `finish`.
        """
        self._pending.append(patches)
        self._n_pending += len(patches)
        if self._n_pending >= CHUNK_ROWS:
            self._flush(self._n_pending // CHUNK_ROWS * CHUNK_ROWS)

    def finish(self) -> None:
        """Write what is left and mark the store complete.

        Raises
        ------
        ValueError
            Fewer or more patches came than there are cells.
        """
        if self.rows_done + self._n_pending != self._total:
            raise ValueError(f"{self.rows_done + self._n_pending} patches, {self._total} cells")
        if self._n_pending:
            self._flush(self._n_pending)
        self._group.attrs.update({"complete": True})
        self.complete = True

    def _flush(self, count: int) -> None:
        rows = np.concatenate(self._pending)
        self._pending, self._n_pending = [rows[count:]], len(rows) - count
        try:
            self._group["patches"][self.rows_done : self.rows_done + count] = rows[:count]
            # Recorded after the pixels: what counts as done is on disk.
            self._group.attrs.update({"rows_done": self.rows_done + count})
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.rows_done += count


def _create(path: Path, info: StoreInfo, cells: StoreCells) -> Any:
    import zarr
    from zarr.codecs import ZstdCodec

    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(path, mode="w")
    zstd = ZstdCodec(level=3)
    for name in ("cell_id", "x", "y", "labels"):
        group.create_array(name, data=getattr(cells, name), compressors=zstd)
    side = info.patch_px
    group.create_array(
        "patches",
        shape=(len(cells), side, side, 3),
        chunks=(CHUNK_ROWS, side, side, 3),
        dtype="uint8",
        compressors=zstd,
    )
    # The attributes make it a store, so they come last.
    attrs: dict[str, Any] = {**asdict(info), "panel": list(info.panel)}
    attrs |= {"format": FORMAT, "version": VERSION, "rows_done": 0, "complete": False}
    group.attrs.update(attrs)
    return group


def _cannot_write(path: Path, error: OSError) -> ResultError:
    return ResultError(
        f"{path}: the patch store cannot be written ({error.strerror or error}). "
        "Free some space, or choose another folder."
    )
