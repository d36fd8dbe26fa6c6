"""CPU seconds of reading an Aperio slide: by OpenSlide alone, and with its tiles decoded apart.

Both take turns, each time with nothing held from the time before.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from openslide import OpenSlideCache

from lymphinfer.slides import open_slide
from lymphinfer.slides.openslide_reader import OpenSlideSlide

_CACHE_BYTES = 32 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+", metavar="SLIDE")
    parser.add_argument("--side", type=int, default=2304, help="px of the region")
    parser.add_argument("--mpp", type=float, default=0.325, help="its pixel size, µm")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    side, mpp = arguments.side, arguments.mpp
    print("| slide | OpenSlide alone: least, median CPU s | tiles apart | times |")
    print("| --- | --- | --- | --- |")
    for path in arguments.slides:
        with open_slide(path) as ours, open_slide(path) as alone:
            if not isinstance(ours, OpenSlideSlide) or not isinstance(alone, OpenSlideSlide):
                raise SystemExit(f"{path}: OpenSlide does not read it")
            alone._tiles = {}
            width, height = ours.dimensions_at(mpp)
            box = (max(0, (width - side) // 2), max(0, (height - side) // 2), side, side, mpp)
            seconds: dict[OpenSlideSlide, list[float]] = {alone: [], ours: []}
            pixels = []
            for slide in [alone, ours] * arguments.repeats:
                if slide._store is not None:
                    slide._store.forget()
                slide._handle.set_cache(OpenSlideCache(_CACHE_BYTES))
                start = time.process_time()
                pixels = [*pixels[-1:], slide.read_region(*box)]
                seconds[slide].append(time.process_time() - start)
            if not np.array_equal(*pixels):
                raise SystemExit(f"{path}: the pixels differ")
            before, after = ((min(s), float(np.median(s))) for s in seconds.values())
            shares = ", ".join(f"{b / a:.2f}" for b, a in zip(before, after, strict=True))
            print(
                f"| {path.name} | {before[0]:.3f}, {before[1]:.3f} | "
                f"{after[0]:.3f}, {after[1]:.3f} | {shares} |"
            )


if __name__ == "__main__":
    main()
