"""Readers that go wrong on slides of certain names; each worker installs one by its setup."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np

from lymphinfer.slides import openslide_reader


def _on_read(name: str, act) -> None:
    original = openslide_reader.OpenSlideSlide._read_level

    def read(self, *arguments):
        if name in self.path.name:
            act(self)
        return original(self, *arguments)

    openslide_reader.OpenSlideSlide._read_level = read


def all_wrong() -> None:
    """Abort, hang, eat all memory, or raise what nobody expects."""
    hoard = []

    def eat(slide) -> None:
        for _ in range(40):
            hoard.append(np.ones((1 << 26,), np.uint8))
        time.sleep(3600)

    def fail(slide) -> None:
        raise ZeroDivisionError("by a made reader")

    _on_read("abort", lambda slide: os.abort())
    _on_read("hang", lambda slide: time.sleep(3600))
    _on_read("hungry", eat)
    _on_read("odd", fail)


def full_disk() -> None:
    """The disk is full while a file of the name in ``$LYMPHINFER_TEST_FULL`` is there."""
    real = os.fsync
    calls = iter(range(1 << 30))

    def fsync(descriptor: int) -> None:
        if next(calls) >= 6 and Path(os.environ["LYMPHINFER_TEST_FULL"]).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    os.fsync = fsync


def out_of_memory() -> None:
    """A device that holds tiles of 256 px with halo and batches of 20 patches, no more."""
    from lymphinfer.markers import model
    from lymphinfer.nuclei.stardist import detector

    infer, classify = detector.StarDistDetector.infer, model.MarkerModel.logits

    def small_infer(self, tile):
        if max(tile.shape[:2]) > 500:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (made)")
        return infer(self, tile)

    def small_classify(self, patches, *others):
        if len(patches) > 20:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (made)")
        return classify(self, patches, *others)

    detector.StarDistDetector.infer = small_infer
    model.MarkerModel.logits = small_classify
