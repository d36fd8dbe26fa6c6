"""Which blur the focus measure sees: real tissue in focus, and the same blurred by known Gaussians.

    python benchmarks/focus.py --data DIR

`DIR` holds `consep/train`, `brca-m2c/train`, `tnbc` and `orion-c01-tiles`, images alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from lymphinfer.slides.focus import BLURRED, focus_of

SETS = {"consep/train": 0.25, "tnbc": 0.25, "brca-m2c/train": 0.5, "orion-c01-tiles": 0.5}
SIGMAS_UM = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
CAMERA_NOISE = 1.5
FIELD_UM = 112.0


def fields(folder: Path, mpp: float, most: int) -> list[np.ndarray]:
    """The middle of some images of a folder, evenly chosen."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg"))
    side = round(FIELD_UM / mpp)
    found = []
    for path in paths[:: -(-len(paths) // most)]:
        image = np.asarray(Image.open(path).convert("RGB"))
        top, left = ((n - side) // 2 for n in image.shape[:2])
        found.append(image[max(top, 0) :, max(left, 0) :, 1][:side, :side])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=25, help="of each set")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print("focus: 2nd percentile, median, 98th percentile (share called out of focus)")
    print("| blur, µm |", " | ".join(SETS), "|")
    print("| --- " * (len(SETS) + 1) + "|")
    read = {name: fields(options.data / name, mpp, options.images) for name, mpp in SETS.items()}
    for sigma in SIGMAS_UM:
        cells = []
        for name, mpp in SETS.items():
            values = []
            for green in read[name]:
                soft = ndimage.gaussian_filter(green.astype(np.float32), sigma / mpp)
                noisy = soft + (rng.normal(0, CAMERA_NOISE, soft.shape) if sigma else 0)
                values.append(focus_of(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), mpp))
            low, middle, high = np.percentile(values, (2, 50, 98))
            share = np.mean(np.array(values) < BLURRED)
            cells.append(f"{low:.3f} {middle:.3f} {high:.3f} ({share:.0%})")
        print(f"| {sigma:g} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
