"""Immunofluorescence in the frame of an H&E that it is not aligned with, by an affine transform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lymphinfer.cells.files import atomic_write
from lymphinfer.errors import DataError
from lymphinfer.slides.planes import Planes
from lymphinfer.textfiles import read_toml
from lymphinfer.validation import checked, table

FORMAT, VERSION = "lymphinfer-transform", 1
_Row = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]


@dataclass(frozen=True)
class Affine:
    """An affine transform of points.

    Attributes
    ----------
    matrix : ndarray of float64, (2, 3)
        ``(x', y') = matrix @ (x, y, 1)``, level-0 px of the H&E to those of the
        immunofluorescence, pixel centres at whole numbers in both.
    """

    matrix: NDArray[np.float64]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform points (x, y), float64 (N, 2)."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2])

    def inverse(self) -> Affine:
        """The way back."""
        linear = np.linalg.inv(self.matrix[:, :2])
        return Affine(np.column_stack([linear, -linear @ self.matrix[:, 2]]))


@table
@dataclass(frozen=True)
class _TransformFile:
    matrix: Annotated[tuple[_Row, ...], Field(min_length=2, max_length=2)]
    format: str = FORMAT
    version: int = VERSION
    error_um: float = 0.0
    shift_um: float = 0.0
    agreeing: float = 0.0
    made_by: str = ""


def read_transform(path: Path) -> Affine:
    """Read a transform's file; DataError with every problem."""
    try:
        document = read_toml(path, DataError, "the transform")
    except OSError as error:
        raise DataError(f"{path}: the transform cannot be read ({error}).") from error
    found = checked(_TransformFile, document, DataError, path)
    affine = Affine(np.array(found.matrix, np.float64))
    if abs(np.linalg.det(affine.matrix[:, :2])) < 1e-6:
        raise DataError(f"{path}: the transform maps the slide onto a line. Register it again.")
    return affine


def write_transform(path: Path, affine: Affine, quality: dict[str, float], made_by: str) -> None:
    """Write a transform and how good it is, whole or not at all; ResultError if it cannot be."""
    import tomli_w

    document = {
        "format": FORMAT,
        "version": VERSION,
        "matrix": [[float(v) for v in row] for row in affine.matrix],
        **{name: float(value) for name, value in quality.items()},
        "made_by": made_by,
    }
    text = "# From level-0 px of the H&E to those of the immunofluorescence.\n"
    with atomic_write(path) as file:
        file.write((text + tomli_w.dumps(document)).encode())


class AlignedPlanes(Planes):
    """Planes of an immunofluorescence, read by rectangles of the H&E's level 0.

    Parameters
    ----------
    path : Path
    to_if : Affine, optional
        None where both share one frame.

    Raises
    ------
    SlideError
        No such image.
    """

    def __init__(self, path: Path, to_if: Affine | None = None) -> None:
        super().__init__(path)
        self.to_if = to_if

    def read_plane(self, plane: int, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        """As `Planes.read_plane`; where the frames differ, interpolated linearly."""
        if self.to_if is None:
            return super().read_plane(plane, x, y, width, height)
        from scipy.ndimage import affine_transform

        corners = np.array(
            [(x, y), (x + width, y), (x, y + height), (x + width, y + height)], np.float64
        )
        found = self.to_if(corners)
        left, top = (int(v) - 2 for v in np.floor(found.min(axis=0)))
        right, bottom = (int(v) + 3 for v in np.ceil(found.max(axis=0)))
        source = super().read_plane(plane, left, top, right - left, bottom - top)
        origin = self.to_if(np.array([[x, y]], np.float64))[0] - (left, top)
        linear = self.to_if.matrix[:, :2]
        # scipy's axes are (row, column), the transform's (x, y).
        warped = affine_transform(
            source.astype(np.float32),
            linear[::-1, ::-1],
            offset=origin[::-1],
            output_shape=(height, width),
            order=1,
        )
        if np.issubdtype(source.dtype, np.integer):
            warped = np.rint(warped)
        return np.asarray(warped).astype(source.dtype)
