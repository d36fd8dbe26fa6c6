"""Open a slide: the reader that a file's content asks for, or what is wrong with the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lymphinfer.errors import SlideError
from lymphinfer.slides.czi_content import CZI_MAGIC
from lymphinfer.slides.czi_reader import CziSlide
from lymphinfer.slides.remote import remote_address
from lymphinfer.slides.slide import Slide
from lymphinfer.slides.zarr_reader import ZarrSlide, is_zarr

SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".svslide",
    ".dcm",
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
    ".zarr",
    ".czi",
)
"""What a folder is searched for, lower case; `.tif` covers `.ome.tif`."""

_HINTS = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page: the download has failed, repeat it"),
    (b"<html", "a web page: the download has failed, repeat it"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (CZI_MAGIC, "a Zeiss CZI file"),
)


def open_slide(
    path: str | os.PathLike[str],
    mpp: float | None = None,
    *,
    series: str | None = None,
    force: bool = False,
) -> Slide:
    """Open a whole-slide image or a plain field of view.

    The content decides which reader is used: OpenSlide for scanners' formats, tifffile for OME-TIFF
    and any other TIFF, zarr for OME-Zarr, Zeiss's library for CZI, Pillow for PNG and JPEG.

    Parameters
    ----------
    path : str or path-like
        The file; for MIRAX the `.mrxs`, for DICOM any file of the slide, for OME-Zarr the folder;
        or an http(s) or s3 address of a TIFF or OME-Zarr, which needs the extra `remote`.
    mpp : float, optional
        Level-0 pixel size, µm/px. Wins over what the file says.
    series : str, optional
        Number or name of the image to read, of a file that holds several; by default its largest
        scan.
    force : bool
        Read what is no H&E slide by its header, such as a stack, as far as it can be read.

    Returns
    -------
    Slide
        Open; close it, or use it in a ``with`` statement.

    Raises
    ------
    SlideError
        Missing, unreadable, damaged, or not an RGB slide.
    PixelSizeError
        No pixel size, or one outside 0.1-1.0 µm/px.
    """
    file = Path(path)
    if remote_address(path) is not None:
        return _open_remote(file, str(remote_address(path)), mpp, series, force)
    if is_zarr(file):
        return ZarrSlide(file, mpp, series=series, force=force)
    head = _head(file)
    if head.startswith(CZI_MAGIC):
        return CziSlide(file, mpp, series=series, force=force)
    # Python's openslide finds its library on import; without it not even a PNG is worth a try.
    try:
        import openslide
    except ImportError as error:
        raise SlideError(
            f"{file}: cannot be opened since OpenSlide's library is missing ({error}). "
            "Run `pip install openslide-bin`."
        ) from error

    from lymphinfer.slides.image_reader import JPEG_MAGIC, PNG_MAGIC, ImageSlide
    from lymphinfer.slides.openslide_reader import OpenSlideSlide
    from lymphinfer.slides.tiff_chain import TIFF_MAGICS

    vendor = openslide.OpenSlide.detect_format(file)
    if head.startswith(TIFF_MAGICS):
        return _open_tiff(file, vendor, mpp, series, force)
    if vendor is not None:
        _check_one_image(file, series)
        try:
            return OpenSlideSlide(file, mpp)
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{file}: a {vendor} slide that cannot be opened ({error}). A file of it is "
                "missing or damaged: copy the slide again, with the folder beside it if it has one."
            ) from error
    if head.startswith((PNG_MAGIC, JPEG_MAGIC)) and file.suffix.lower() != ".mrxs":
        _check_one_image(file, series)
        return ImageSlide(file, mpp)
    raise SlideError(f"{file}: not a slide, but {_describe(file, head)}.")


def _open_remote(
    file: Path, address: str, mpp: float | None, series: str | None, force: bool
) -> Slide:
    from lymphinfer.slides.remote import RemoteSource, remote_name
    from lymphinfer.slides.remote_formats import HEAD_BYTES, only_on_disk
    from lymphinfer.slides.tiff_chain import TIFF_MAGICS
    from lymphinfer.slides.tiff_reader import TiffSlide

    if is_zarr(file):
        return ZarrSlide(file, mpp, series=series, force=force)
    source = RemoteSource(address)
    head = source.read(0, HEAD_BYTES)
    if what := only_on_disk(remote_name(address), head, source):
        raise SlideError(
            f"{source}: {what}, which cannot be read at an address: TIFF, OME-TIFF, SVS and "
            "OME-Zarr can. Download the slide first, with all its files."
        )
    if not head.startswith(TIFF_MAGICS):
        raise SlideError(f"{source}: not a slide, but {_describe(file, head[:64])}.")
    return TiffSlide(file, mpp, series=series, force=force, source=source)


def _open_tiff(
    file: Path, vendor: str | None, mpp: float | None, series: str | None, force: bool
) -> Slide:
    import openslide

    from lymphinfer.slides.openslide_reader import OpenSlideSlide
    from lymphinfer.slides.tiff_chain import check_chain
    from lymphinfer.slides.tiff_reader import TiffSlide

    # An NDPI above 4 GB keeps the upper halves of its offsets elsewhere.
    if vendor != "hamamatsu" and file.suffix.lower() != ".ndpi":
        check_chain(file)
    if vendor in (None, "generic-tiff"):
        # OpenSlide would turn 16-bit or grey data into RGB without a word, overlooks OME-XML and
        # SubIFDs, and reads JPEG by the TIFF's tag.
        return TiffSlide(file, mpp, series=series, force=force)
    try:
        if vendor != "hamamatsu":
            _check_whole(file)
            if _contradicts_its_tag(file):
                return TiffSlide(file, mpp, series=series, force=force)
        _check_one_image(file, series)
        return OpenSlideSlide(file, mpp)
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"{file}: a {vendor} slide that cannot be opened ({error}). The file is damaged or "
            "was not copied whole: copy or export it again."
        ) from error


def _check_one_image(file: Path, series: str | None) -> None:
    """Raise SlideError where another image is asked of a file that holds one scan."""
    if series is not None and series.strip() != "0":
        raise SlideError(
            f"{file}: --series {series}: the file holds one scan. `lymphinfer info` shows what it "
            "holds."
        )


def _contradicts_its_tag(file: Path) -> bool:
    """Whether the JPEG tiles of a scanner's TIFF state another colour space than its tag.

    OpenSlide goes by the tag alone.
    """
    from tifffile import TiffFile

    from lymphinfer.slides.jpeg_colours import Colours
    from lymphinfer.slides.source import FileSource
    from lymphinfer.slides.tiff_colours import page_colours

    source = FileSource(file)
    try:
        with TiffFile(file) as tif:
            page: Any = tif.pages[0]
            if not page.is_tiled:
                return False
            colours = page_colours(page, source).jpeg
            tagged = Colours.YCBCR if int(page.photometric) == 6 else Colours.RGB
    # What tifffile cannot index OpenSlide may still read.
    except Exception:
        return False
    finally:
        source.close()
    return colours is not None and colours is not tagged


def _check_whole(file: Path) -> None:
    """Raise SlideError for a TIFF whose pixels reach beyond its end.

    OpenSlide opens such a file and fails only where the pixels are missing, hours later.
    """
    from tifffile import TiffFile

    from lymphinfer.slides.tiff_header import page_end

    size = file.stat().st_size
    try:
        with TiffFile(file) as tif:
            end = page_end(tif.pages[0])
    # What tifffile cannot index OpenSlide may still read.
    except Exception:
        return
    if end > size:
        raise SlideError(
            f"{file}: the file is cut short: its pixels reach to byte {end:,} but it ends at "
            f"{size:,}. Copy or download it again."
        )


def _head(file: Path) -> bytes:
    """First bytes of a file that can be read; SlideError for one that cannot."""
    try:
        if file.is_dir():
            raise SlideError(
                f"{file}: a folder, not a slide file. For a DICOM slide give one of the files in "
                "it, for a MIRAX slide the .mrxs file beside it."
            )
        with file.open("rb") as stream:
            head = stream.read(64)
    except FileNotFoundError as error:
        raise SlideError(f"{file}: no such file. Check the path.") from error
    except PermissionError as error:
        raise SlideError(
            f"{file}: permission denied. Ask its owner for read access, or run "
            f"`chmod u+r` on it if it is yours."
        ) from error
    except OSError as error:
        raise SlideError(
            f"{file}: cannot be read ({error.strerror or error}). Check the disk it lies on."
        ) from error
    if not head:
        raise SlideError(f"{file}: the file is empty (0 bytes). Copy or download it again.")
    return head


def _describe(file: Path, head: bytes) -> str:
    """Say what a file that no reader knows seems to be, and what to do."""
    for magic, what in _HINTS:
        if head.startswith(magic):
            return what
    if file.suffix.lower() == ".mrxs":
        return "a .mrxs file without its folder of the same name: copy that folder beside it"
    try:
        shown = head.decode("ascii")
    except UnicodeDecodeError:
        shown = ""
    if shown and all(c.isprintable() or c.isspace() for c in shown):
        return (
            f"a text file that begins {shown[:30].strip()!r}: check where it comes from; a list "
            "of slides is a .csv file with a column `slide`"
        )
    return (
        f"a file of unknown format (it begins {head[:8].hex(' ')}). Supported are the formats of "
        "OpenSlide, TIFF, OME-TIFF, OME-Zarr, CZI, PNG and JPEG: convert it to OME-TIFF"
    )
