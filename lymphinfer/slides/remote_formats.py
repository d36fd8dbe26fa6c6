"""Which formats can be read at an address, and what others are there."""

from __future__ import annotations

from typing import Any

from lymphinfer.slides.czi_content import CZI_MAGIC
from lymphinfer.slides.image_reader import JPEG_MAGIC, PNG_MAGIC
from lymphinfer.slides.source import ByteSource

_BY_SUFFIX = {
    ".mrxs": "a MIRAX slide, of a file and a folder",
    ".vms": "a Hamamatsu VMS slide, of several files",
    ".vmu": "a Hamamatsu VMU slide, of several files",
    ".ndpi": "a Hamamatsu NDPI slide",
    ".scn": "a Leica SCN slide",
    ".bif": "a Ventana BIF slide",
}
_BY_MAGIC = (
    (0, CZI_MAGIC, "a Zeiss CZI slide"),
    (0, PNG_MAGIC, "a PNG image"),
    (0, JPEG_MAGIC, "a JPEG image"),
    (128, b"DICM", "a DICOM file"),
)
# tifffile's words for TIFFs whose tiles are laid out, or whose sizes are stated, in a way of the
# scanner's own.
_OWN_TIFFS = {
    "is_ndpi": _BY_SUFFIX[".ndpi"],
    "is_scn": _BY_SUFFIX[".scn"],
    "is_bif": _BY_SUFFIX[".bif"],
    "is_philips": "a Philips TIFF slide",
}
_TRESTLE = "MedScan"
HEAD_BYTES = 132


def only_on_disk(name: str, head: bytes, source: ByteSource) -> str:
    """What a file is that can be read on a disk alone; empty for any other.

    Parameters
    ----------
    name : str
        Of the file.
    head : bytes
        Its first `HEAD_BYTES`.
    source : ByteSource

    Returns
    -------
    str
        Such as ``"a Zeiss CZI slide"``.
    """
    for suffix, what in _BY_SUFFIX.items():
        if name.lower().endswith(suffix):
            return what
    for at, magic, what in _BY_MAGIC:
        if head[at:].startswith(magic):
            return what
    return _own_tiff(source)


def _own_tiff(source: ByteSource) -> str:
    from tifffile import TiffFile

    try:
        with source.open() as stream, TiffFile(stream) as tif:
            page: Any = tif.pages[0]
            if str(page.software or "").startswith(_TRESTLE):
                return "a Trestle TIFF slide"
            return next((what for flag, what in _OWN_TIFFS.items() if getattr(tif, flag)), "")
    # No TIFF, or a damaged one: its reader says what is wrong with it.
    except Exception:
        return ""
