"""How a page's samples become RGB: the compressed data's own word goes before the TIFF's tag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lymphinfer.slides.jpeg_colours import (
    Colours,
    component_ids,
    jpeg_colours,
    uses_colour_transform,
)
from lymphinfer.slides.source import ByteSource

Pixels = NDArray[np.uint8]

_JPEG = {7, 33007}
_JPEG2000 = {33003, 33004, 33005, 34712}
_JPEG2000_YCBCR = 33003
# Formats whose decoders give RGB whatever the tag says: JPEG XR, WebP, JPEG XL.
_RGB_BY_NATURE = {22610, 34927, 34933, 34934, 50001, 50002, 52546}
_YCBCR_TAG = 6
_HEADER_BYTES = 1 << 16
_LOOKED_AT = 6


@dataclass(frozen=True)
class PageColours:
    """How a page's samples become RGB.

    Attributes
    ----------
    jpeg : Colours or None
        The colour space of interleaved JPEG segments; None for all other pages.
    converts : bool
        Whether decoded samples are YCbCr still.
    is_jpeg2000 : bool
        Whether the segments are JPEG 2000 of all samples.
    """

    jpeg: Colours | None = None
    converts: bool = False
    is_jpeg2000: bool = False

    @property
    def decodes(self) -> bool:
        """Whether `decode` must be used for the segments."""
        return self.jpeg is not None or self.is_jpeg2000

    @property
    def white(self) -> tuple[int, int, int]:
        """White in the samples as they are decoded."""
        return (255, 128, 128) if self.converts else (255, 255, 255)

    def decode(self, data: bytes, tables: bytes | None) -> Pixels:
        """Decode a segment, (rows, columns, samples)."""
        from imagecodecs import jpeg2k_decode, jpeg8_decode

        if self.jpeg is None:
            # tifffile refuses those whose tag says YCbCr, for a subsampling that is not theirs.
            return np.ascontiguousarray(jpeg2k_decode(data))
        return np.ascontiguousarray(
            jpeg8_decode(data, tables=tables, colorspace=self.jpeg.value, outcolorspace="RGB")
        )

    def to_rgb(self, pixels: Pixels) -> Pixels:
        """RGB of samples as they were decoded, (..., 3 or more)."""
        if not self.converts:
            return pixels
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]), mode="YCbCr")
        out = pixels.copy()
        out[..., :3] = np.asarray(image.convert("RGB"))
        return out


def page_colours(page: Any, source: ByteSource) -> PageColours:
    """Decide how a page is turned into RGB.

    Parameters
    ----------
    page : tifffile.TiffPage
        Of three samples or more; others are left as they are.
    source : ByteSource
        The file.

    Returns
    -------
    PageColours
    """
    first = page.keyframe
    samples, compression = int(first.samplesperpixel), int(first.compression)
    tagged = int(first.photometric) == _YCBCR_TAG
    if samples not in (3, 4) or compression in _RGB_BY_NATURE:
        return PageColours()
    if compression in _JPEG2000:
        data = next(iter(_segments(page, source, 1, _HEADER_BYTES)), b"")
        # A codestream of one component a plane cannot have transformed them.
        interleaved = int(first.planarconfig) == 1
        mixed = interleaved and uses_colour_transform(data)
        converts = not mixed and (tagged or compression == _JPEG2000_YCBCR)
        return PageColours(converts=converts, is_jpeg2000=interleaved)
    if compression not in _JPEG or int(first.planarconfig) != 1:
        return PageColours(converts=tagged)
    if samples != 3 or int(first.bitspersample) != 8:
        return PageColours()
    return PageColours(jpeg=_jpeg_space(page, source, tagged))


def _jpeg_space(page: Any, source: ByteSource, tagged_ycbcr: bool) -> Colours:
    tables = page.jpegtables
    for data in _segments(page, source, 1, _HEADER_BYTES):
        said = jpeg_colours(data, tables)
        if said is not None:
            return said
        if not tagged_ycbcr and component_ids(data) == bytes([1, 2, 3]):
            # The library would take it for YCbCr, the tag says RGB, and no marker says which.
            return _space_by_pixels(page, source)
    return Colours.YCBCR if tagged_ycbcr else Colours.RGB


def _segments(page: Any, source: ByteSource, count: int, most_bytes: int) -> list[bytes]:
    """The first bytes of a few segments that are not empty, from all over the page."""
    offsets, sizes = np.asarray(page.dataoffsets), np.asarray(page.databytecounts)
    there = np.flatnonzero(sizes)
    if not len(there):
        return []
    picked = there[np.linspace(0, len(there) - 1, min(count, len(there))).astype(int)]
    return [source.read(int(offsets[i]), min(int(sizes[i]), most_bytes)) for i in picked]


def _space_by_pixels(page: Any, source: ByteSource) -> Colours:
    """Tell RGB from YCbCr by the samples: R, G and B rise and fall together, Cb and Cr do not."""
    from imagecodecs import jpeg8_decode

    raw = []
    for data in _segments(page, source, _LOOKED_AT, 1 << 24):
        try:
            tile = jpeg8_decode(
                data, tables=page.jpegtables, colorspace="YCBCR", outcolorspace="YCBCR"
            )
        # Each codec has exceptions of its own; what cannot be decoded fails when it is read.
        except Exception:
            continue
        raw.append(np.asarray(tile, dtype=np.float32).reshape(-1, 3)[::7])
    if not raw:
        return Colours.RGB
    samples = np.concatenate(raw)
    if samples.std(axis=0).max() > 3:
        # A constant channel, such as Cb of a grey picture, has no correlation without the noise.
        noise = np.random.default_rng(0).normal(0, 0.5, samples.shape)
        table = np.asarray(np.corrcoef(samples + noise, rowvar=False))
        return Colours.RGB if table[0, 1] + table[0, 2] > 0.6 else Colours.YCBCR
    near_neutral = np.abs(samples[:, 1:].mean(axis=0) - 128).max() < 24
    return Colours.YCBCR if near_neutral else Colours.RGB
