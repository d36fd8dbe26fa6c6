"""A worker: a process of its own that loads a bundle once and predicts what it is sent.

A reader that crashes, hangs or eats all memory takes this process with it and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from lymphinfer.batch.platform import ignore_interrupts, stdout_to_stderr
from lymphinfer.batch.tasks import (
    Advanced,
    Answer,
    Began,
    FinishTask,
    Logged,
    Message,
    PlanTask,
    Ready,
    ShardsTask,
    Started,
    Task,
    failure,
)
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.loading import Bundle
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.plan import predict_shards
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.predict.slide import load, open_plan, predict_slide

log = logging.getLogger(__name__)

MAX_BUNDLES = 2


class BundleCache:
    """Loaded bundles of this process, the least recently used one given up first."""

    def __init__(self, size: int = MAX_BUNDLES):
        self.size = size
        self._bundles: dict[tuple[str | None, ...], Bundle] = {}
        self._lock = threading.Lock()

    def get(self, settings: PredictSettings) -> Bundle:
        """Bundle of the settings on their device, loaded at most once."""
        key = (
            settings.bundle,
            settings.detector,
            settings.device,
            settings.precision,
            settings.runtime,
        )
        with self._lock:
            bundle = self._bundles.pop(key, None) or load(settings)
            while len(self._bundles) >= self.size:
                self._bundles.pop(next(iter(self._bundles)))
            self._bundles[key] = bundle
            return bundle


class Sender:
    """The worker's end of the pipe, for all of its threads."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> None:
        """Send; a supervisor that is gone hears nothing."""
        with self._lock:
            self.connection.send(message)


class _Progress:
    def __init__(self, send: Sender):
        self.send = send

    def start(self, slide: Path, tiles: int, done: int) -> None:
        self.send(Started(tiles, done))

    def advance(self, nuclei: int) -> None:
        self.send(Advanced(nuclei))


class _PipeHandler(logging.Handler):
    def __init__(self, send: Sender):
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.msg += "\n" + logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        try:
            self.send(Logged(record))
        # What cannot be pickled, or a supervisor that is gone.
        except Exception:
            self.handleError(record)


def main(
    connection: Connection,
    device: str,
    threads: int | None,
    log_level: int,
    setup: Callable[[], None] | None,
) -> None:
    """Serve tasks until the supervisor is gone.

    Parameters
    ----------
    connection : Connection
        Tasks in, messages out.
    device : str
        As `resolve_device` takes it.
    threads : int or None
        Of the networks on the CPU; torch's own choice by default.
    log_level : int
    setup : callable, optional
        Called once before any task, such as to register a reader.
    """
    ignore_interrupts()
    stdout_to_stderr()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    send = Sender(connection)
    root = logging.getLogger()
    root.handlers, root.level = [_PipeHandler(send)], log_level
    if threads:
        torch.set_num_threads(threads)
    if setup is not None:
        setup()
    bundles = BundleCache()
    try:
        send(Ready())
        while True:
            task: Task | None = connection.recv()
            if task is None:
                return
            send(_answer(task, device, bundles, send))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(task: Task, device: str, bundles: BundleCache, send: Sender) -> Answer:
    try:
        return _do(task, replace(task.settings, device=device), bundles, send)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        log.info("%s failed", type(task).__name__, exc_info=True)
        return failure(error)


def _do(task: Task, settings: PredictSettings, bundles: BundleCache, send: Sender) -> Answer:
    progress = _Progress(send)
    if isinstance(task, FinishTask):
        send(Began())
        return finish_slide(
            task.plan,
            used_manifest(settings.bundle, settings.detector),
            seconds=task.seconds,
            total_seconds=task.total_seconds,
        )
    bundle = bundles.get(settings)
    send(Began())
    if isinstance(task, PlanTask):
        began = time.perf_counter()
        plan = open_plan(task.path, task.folder, settings, bundle)
        log.info("planned %s in %.1f s", task.path, time.perf_counter() - began)
        return plan
    if isinstance(task, ShardsTask):
        ids = [shard.id for shard in task.plan.shards]
        return predict_shards(task.plan, ids, bundle, on_tile=progress.advance)
    return predict_slide(
        task.path, task.folder, settings=settings, bundle=bundle, progress=progress
    )


def _end_with_parent() -> None:
    """End this process, busy or not, when the supervisor is gone."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
