"""Logits of whole patch stores, in row order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lymphinfer.markers.classifier import MarkerClassifier, classify_patches
from lymphinfer.training.data import StoreSet

if TYPE_CHECKING:
    from accelerate import Accelerator

Rows = NDArray[np.int64]


def _read_ahead(
    stores: StoreSet, spans: NDArray[np.int64]
) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """Chunks of patches; the next is decoded while the device works on this one."""
    with ThreadPoolExecutor(1) as pool:
        rows = [np.arange(a, b) for a, b in spans]
        waiting = pool.submit(stores.read, rows[0]) if rows else None
        for index, here in enumerate(rows):
            if waiting is None:
                return
            pixels = waiting.result()
            last = index + 1 == len(rows)
            waiting = None if last else pool.submit(stores.read, rows[index + 1])
            yield here, pixels


def predict_stores(
    net: MarkerClassifier,
    stores: StoreSet,
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Classify every patch.

    Parameters
    ----------
    net : MarkerClassifier
        On `device`; put in evaluation mode, and back into the mode it came in.
    stores : StoreSet
    device : torch.device or str
    autocast : torch.dtype or None
    batch_size : int
    accelerator : accelerate.Accelerator, optional
        Divides the work among its processes; every one gets the whole result.
    advance : callable, optional
        Told the number of patches after each chunk.

    Returns
    -------
    ndarray of float32, (N, n_markers)
        Logits, in the stores' row order.
    """
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    logits = np.zeros((len(stores), len(net.config.markers)), np.float32)
    mode = net.training
    net.eval()
    for rows, pixels in _read_ahead(stores, stores.chunks()[rank::ranks]):
        logits[rows] = classify_patches(
            net, pixels, device=device, autocast=autocast, batch_size=batch_size
        )
        if advance is not None:
            advance(len(rows))
    net.train(mode)
    if accelerator is not None and ranks > 1:
        # Each process left zeros in the rows of the others.
        total = accelerator.reduce(torch.from_numpy(logits).to(accelerator.device), "sum")
        logits = total.cpu().numpy()
    return logits
