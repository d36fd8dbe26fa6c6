"""Small rectangles of one channel of an immunofluorescence image, however large the file is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lymphinfer.errors import SlideError
from lymphinfer.orion.align import AlignedPlanes
from lymphinfer.orion.cohort import OrionSlide


class FluorescenceImage(AlignedPlanes):
    """Level 0 of a slide's immunofluorescence, in the H&E's frame. Threads may share it.

    Parameters
    ----------
    slide : OrionSlide
    size_level0 : tuple of int
        (width, height) of the H&E, whose frame it must share, px.

    Raises
    ------
    SlideError
        No such image, or one of another size or number of channels.
    """

    def __init__(self, slide: OrionSlide, size_level0: tuple[int, int]) -> None:
        if slide.if_ is None:
            raise SlideError(f"{slide.folder}: there is no immunofluorescence image.")
        super().__init__(slide.if_, slide.to_if)
        self._layout = slide.layout
        channels = len(self._layout.channels)
        aligned = self.to_if is not None or self.size == size_level0
        if len(self) != channels or not aligned:
            self.close()
            raise SlideError(
                f"{slide.if_}: {len(self)} channels of {self.size[0]:,} x {self.size[1]:,} px, "
                f"where {channels} of {size_level0[0]:,} x {size_level0[1]:,} px, as the H&E has, "
                "are expected. It belongs to another slide: download it again."
            )

    def read(self, channel: str, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        """Read a rectangle of a marker's channel, uint16 (height, width); 0 outside.

        Raises
        ------
        SlideError
            The cohort has no picture of it, or the file's data cannot be decoded there.
        """
        plane = self._layout.plane_of(channel)
        if plane is None:
            raise SlideError(
                f"{self.path}: no plane of {channel}; it has {', '.join(self._layout.channels)}."
            )
        return self._read(plane, x, y, width, height)

    def nuclei(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        """Read the nuclear stain; zeros where the cohort has none."""
        plane = self._layout.nuclei_plane
        if plane is None:
            return np.zeros((height, width), np.uint16)
        return self._read(plane, x, y, width, height)

    def _read(self, plane: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        found = self.read_plane(plane, x, y, width, height)
        limited: NDArray[np.uint16] = np.clip(found, 0, 65535).astype(np.uint16, copy=False)
        return limited
