"""A connection to a Dask cluster, or a small one of this machine's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lymphinfer.batch.options import BatchOptions
from lymphinfer.errors import LymphinferError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 30
LOCAL_WORKERS = 2
THREADS = "LYMPHINFER_THREADS"
"""Environment variable: threads of the networks in a Dask worker; by default its ``--nthreads``."""


@contextmanager
def connect(scheduler: str | None, options: BatchOptions) -> Iterator[Client]:
    """Connect to a scheduler, or start one with workers on this machine.

    Parameters
    ----------
    scheduler : str or None
        Address.
    options : BatchOptions
        Without a scheduler, as many workers as it has devices.

    Yields
    ------
    distributed.Client

    Raises
    ------
    LymphinferError
        dask.distributed is not installed, or the scheduler cannot be reached.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise LymphinferError(
            "--engine dask needs dask.distributed: pip install 'lymphinfer[cluster]'"
        ) from error
    if scheduler is None:
        count = len(options.devices) or LOCAL_WORKERS
        threads = max(1, (os.cpu_count() or 1) // count)
        with (
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                dashboard_address=None,
                env={THREADS: str(threads)},
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise LymphinferError(
            f"no Dask scheduler answers at {scheduler} ({error}): start one with `dask scheduler`, "
            "or check the address and the firewall"
        ) from error
    try:
        yield client
    finally:
        if client.status != "running":
            # It would tell of its own attempts to reconnect, page by page.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
        client.close(timeout=5)
