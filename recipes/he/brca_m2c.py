"""BRCA-M2C: breast tissue of many hospitals, its cells dotted by class (Abousamra et al. 2021).

Nearly every cell has a dot; macrophages and granulocytes have no class and so no dot. Each image is
a JPEG with a csv of the same stem beside it: ``x,y,label``, whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MPP = 0.5
LYMPHOCYTE, EPITHELIAL, STROMAL = 1, 2, 3


@dataclass(frozen=True)
class DottedImage:
    """An image and its dots.

    Attributes
    ----------
    name : str
        Stem of its file; what stands before the first ``_`` is the TCGA slide.
    image : ndarray of uint8, (H, W, 3)
    mpp : float
        Pixel size, µm/px.
    points : ndarray of float64, (N, 2)
        Places (x, y) of the dots in px; the middle of the upper left pixel is (0.5, 0.5).
    labels : ndarray of int8, (N,)
        `LYMPHOCYTE`, `EPITHELIAL` (tumour or not) or `STROMAL`.
    """

    name: str
    image: NDArray[np.uint8]
    mpp: float
    points: NDArray[np.float64]
    labels: NDArray[np.int8]

    @property
    def patient(self) -> str:
        """TCGA's name of the patient: images of one patient stand on one side of a split."""
        return "-".join(self.name.split("-")[:3])

    def at(self, mpp: float) -> DottedImage:
        """The same image resampled to another pixel size, its dots with it."""
        height, width = (max(1, round(n * self.mpp / mpp)) for n in self.image.shape[:2])
        picture = Image.fromarray(self.image).resize((width, height), Image.Resampling.BILINEAR)
        # Sides are whole pixels, so that the zoom of each may differ a little from the ratio.
        zoom = np.array([width / self.image.shape[1], height / self.image.shape[0]])
        return DottedImage(self.name, np.asarray(picture), mpp, self.points * zoom, self.labels)


def read_dotted(path: Path) -> DottedImage:
    """Read an image and the dots beside it.

    Parameters
    ----------
    path : Path
        The JPEG.

    Returns
    -------
    DottedImage

    Raises
    ------
    ValueError
        The csv has other columns, a label that is not known, or a dot outside the image.
    """
    with Image.open(path) as picture:
        image = np.asarray(picture.convert("RGB"))
    table = path.with_suffix(".csv")
    lines = table.read_text("utf-8").split()
    if not lines or lines[0] != "x,y,label":
        raise ValueError(f"{table}: expected the columns x,y,label")
    rows = np.array([[float(v) for v in line.split(",")] for line in lines[1:]]).reshape(-1, 3)
    labels = rows[:, 2].astype(np.int8)
    if not np.isin(labels, (LYMPHOCYTE, EPITHELIAL, STROMAL)).all():
        raise ValueError(f"{table}: labels {sorted(set(labels.tolist()))}, expected 1 to 3")
    limits = np.array(image.shape[1::-1], np.float64)
    points = rows[:, :2] + 0.5
    if ((points < 0) | (points > limits)).any():
        raise ValueError(f"{table}: dots outside the image of {limits[0]:g} x {limits[1]:g} px")
    return DottedImage(path.stem, image, MPP, points, labels)


def read_all(folder: Path) -> Iterator[DottedImage]:
    """Images of a folder in the order of their names.

    Parameters
    ----------
    folder : Path
        ``brca-m2c/train`` or ``brca-m2c/val``.

    Yields
    ------
    DottedImage
    """
    for path in sorted(folder.glob("*.jpg")):
        yield read_dotted(path)
