"""Mutated headers: every file ends as a result or a reason, none as the end of the batch.

``LYMPHINFER_MUTATIONS=300 pytest tests/batch/test_fuzz.py -s`` takes the long way.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import tifffile

from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.run import predict_folder
from lymphinfer.batch.state import Status
from tests.predict.conftest import MPP, disc_image, write_svs

from ..slides.made import write_ome
from .made_batch import settings

MUTATIONS = int(os.environ.get("LYMPHINFER_MUTATIONS", "40"))
TIMEOUT_S = 20
MEMORY_GB = 4.0
_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def header_spans(path: Path) -> list[range]:
    """Bytes that describe the pixels: the header, each directory entry, and each tag's value."""
    size = path.stat().st_size
    spans = [range(8)]
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            spans.append(range(page.offset, page.offset + 2))
            for tag in page.tags.values():
                spans.append(range(tag.offset, tag.offset + 12))
                spans.append(range(tag.valueoffset, min(tag.valueoffset + 60, size)))
    return spans


def mutate(data: bytes, spans: list[range], rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        position = rng.choice(spans[rng.integers(len(spans))])
        known = rng.random() < 0.6
        changed[position] = rng.choice(_VALUES) if known else rng.integers(256)
    if rng.random() < 0.05:
        del changed[rng.integers(8, len(changed)) :]
    return bytes(changed)


def write_mutations(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir()
    image, _ = disc_image(400, 320)
    originals = [
        write_svs(folder / "a.svs", image),
        write_ome(folder / "b.ome.tif", image, mpp=MPP),
        folder / "c.tif",
    ]
    per_cm = 1e4 / MPP
    tifffile.imwrite(
        originals[2], image, tile=(256, 256), photometric="rgb", compression="deflate",
        resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    known = [(path.read_bytes(), header_spans(path), path) for path in originals]
    for path in originals:
        path.unlink()
    for i in range(count):
        data, spans, path = known[i % len(known)]
        (folder / f"{i:03d}-{path.name}").write_bytes(mutate(data, spans, rng))
    return folder


class PeakMemory:
    """Largest resident memory of any child process while the block runs, bytes."""

    def __enter__(self) -> PeakMemory:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.05):
            for child in me.children(recursive=True):
                try:
                    self.peak = max(self.peak, child.memory_info().rss)
                except psutil.Error:
                    continue


def test_mutated_headers_end_as_results_or_reasons(disc_bundle, tmp_path):
    slides = write_mutations(tmp_path / "in", MUTATIONS)
    began = time.monotonic()
    with PeakMemory() as memory:
        result = predict_folder(
            slides, tmp_path / "out", settings=settings(disc_bundle),
            options=BatchOptions(slide_timeout=TIMEOUT_S, memory_limit_gb=0.75 * MEMORY_GB),
        )  # fmt: skip
    seconds = time.monotonic() - began
    assert len(result.outcomes) == MUTATIONS and not result.stopped
    assert {o.status for o in result.outcomes} <= {Status.DONE, Status.FAILED}
    assert all(o.reason for o in result.failed)
    assert memory.peak < MEMORY_GB * 1e9
    kinds = Counter(o.reason.split(".svs: ")[-1].split(".tif: ")[-1][:60] for o in result.failed)
    kinds["done"] = len(result.done)
    print(f"\n{MUTATIONS} mutations in {seconds:.0f} s, peak {memory.peak / 1e9:.2f} GB")
    for kind, count in kinds.most_common(12):
        print(f"{count:4d} {kind}")
