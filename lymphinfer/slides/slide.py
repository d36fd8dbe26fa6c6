"""What every reader of slides offers, whatever the file format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lymphinfer.slides.grid import grid_dimensions
from lymphinfer.slides.identity import file_identity, image_identity
from lymphinfer.slides.images import SlideImage
from lymphinfer.slides.remote import remote_address, remote_name
from lymphinfer.textfiles import shown

RGB = NDArray[np.uint8]


class Slide(ABC):
    """An open slide. Level-0 pixels are the frame of every coordinate.

    Attributes
    ----------
    path : Path
        The file.
    reader : str
        What reads it: ``"openslide:aperio"``, ``"tifffile:ome"``, ``"image"``.
    dimensions : tuple of int
        Level-0 (width, height), px.
    mpp : float
        Level-0 pixel size, µm/px.
    mpp_source : str
        Where the pixel size comes from: ``"metadata"``, ``"OME-XML"``, ``"--mpp"``.
    bounds_offset : tuple of int
        Level-0 (x, y) of the corner at which QuPath's image begins; (0, 0) where it does not crop.
    images : tuple of SlideImage
        What the file holds, the image that is read among them; empty where it holds no other.
    other_files : tuple of str
        Files of the same set that hold other pixels.
    warnings : tuple of str
        What the reader of the numbers must know, a sentence or two each.
    icc_profile_bytes : int
        Size of the file's ICC profile, which is not applied; 0 where there is none.
    associated : tuple of str
        Pictures beside the scan that the format sets apart, such as its label.
    """

    path: Path
    reader: str
    dimensions: tuple[int, int]
    mpp: float
    mpp_source: str
    bounds_offset: tuple[int, int]
    images: tuple[SlideImage, ...] = ()
    other_files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    icc_profile_bytes: int = 0
    associated: tuple[str, ...] = ()

    @abstractmethod
    def read_region(self, x: int, y: int, width: int, height: int, mpp: float) -> RGB:
        """Read a rectangle of the slide's pixel grid at a pixel size.

        The grid at `mpp` starts at level-0 (0, 0): its pixel (i, j) covers level-0
        ``[i * mpp / self.mpp, (i + 1) * mpp / self.mpp)`` along x, likewise along y. Any two reads
        agree where they overlap, whatever their rectangles.

        Parameters
        ----------
        x, y : int
            First column and row on the grid at `mpp`; may be negative or beyond the slide.
        width, height : int
            Size in pixels of the grid at `mpp`.
        mpp : float
            Pixel size of the result, µm/px; finer or coarser than the slide's.

        Returns
        -------
        ndarray of uint8, (height, width, 3)
            RGB; white (255) outside the slide and where the file holds nothing.

        Raises
        ------
        SlideError
            The file's data cannot be decoded there.
        """

    def dimensions_at(self, mpp: float) -> tuple[int, int]:
        """(width, height) of the whole slide on the grid at `mpp`, the last pixels possibly cut."""
        return grid_dimensions(self.dimensions, self.mpp, mpp)

    def identity(self) -> str:
        """Sha256 (hex) of the file's size and samples of its content, whatever its name.

        Of a file that holds several images, each has an identity of its own.

        Raises
        ------
        SlideError
            The file cannot be read any more.
        """
        return image_identity(file_identity(self.path), self.image_number)

    @property
    def image_number(self) -> int:
        """Number of the image that is read, 0 where the file holds one."""
        return next((image.number for image in self.images if image.is_read), 0)

    def facts(self) -> dict[str, Any]:
        """What a summary says of the slide, as plain values."""
        address = remote_address(self.path)
        return {
            "name": shown(self.path.name if address is None else remote_name(address)),
            "reader": self.reader,
            "dimensions": list(self.dimensions),
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
            "bounds_offset": list(self.bounds_offset),
            "image": self.image_number,
            "images": [image.to_dict() for image in self.images],
            "other_files": [shown(name) for name in self.other_files],
            "icc_profile": {
                "present": self.icc_profile_bytes > 0,
                "bytes": self.icc_profile_bytes,
                "applied": False,
            },
        }

    @abstractmethod
    def close(self) -> None:
        """Release the file. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
