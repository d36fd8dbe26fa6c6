"""Small rectangles of one channel of an immunofluorescence image, however large the file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.orion.manifest import CHANNELS
from lymphinfer.orion.planes import Planes


class FluorescenceImage(Planes):
    """Level 0 of an OME-TIFF of ORION's 19 channels, uint16. Threads may share it.

    Parameters
    ----------
    path : Path
        The ``*-zlib.ome.tiff``.
    size_level0 : tuple of int
        (width, height) of the H&E, whose frame it must share, px.

    Raises
    ------
    SlideError
        No such image, or one of another size.
    """

    def __init__(self, path: Path, size_level0: tuple[int, int]) -> None:
        super().__init__(path)
        if len(self) != len(CHANNELS) or self.size != size_level0:
            self.close()
            raise SlideError(
                f"{path}: {len(self)} channels of {self.size[0]:,} x {self.size[1]:,} px, where "
                f"{len(CHANNELS)} of {size_level0[0]:,} x {size_level0[1]:,} px, as the H&E has, "
                "are expected. It belongs to another slide: download it again."
            )

    def read(self, channel: str, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        """Read a rectangle of one of ORION's channels, uint16 (height, width); 0 outside.

        Raises
        ------
        SlideError
            The file's data cannot be decoded there.
        """
        found = self.read_plane(CHANNELS.index(channel), x, y, width, height)
        return found.astype(np.uint16, copy=False)
