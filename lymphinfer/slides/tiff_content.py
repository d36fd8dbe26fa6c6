"""What a TIFF holds: its images, their planes, their pixel sizes, and what may be their levels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lymphinfer.slides.ome import OmeChannel, OmeImage, is_ome, read_ome
from lymphinfer.slides.pixel_size import StatedSize, plausible
from lymphinfer.slides.tiff_size import imagej_size, tag_size

Planes = tuple[Any, ...]
"""Pages of one level: one page, or one for each of R, G and B."""

_REDUCED = 1
_UNSTATED = StatedSize(None)
_UNLISTED = "page that the OME-XML does not list"
_KIND = re.compile(r"label|macro|overview|thumbnail|preview|barcode|navigation", re.IGNORECASE)
_KIND_LINE = re.compile(
    r"(?:^|[\r\n]|<ImageType>)\s*(label|macro|overview|thumbnail)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class TiffImage:
    """An image of a TIFF.

    Attributes
    ----------
    number : int
        Its place in the OME-XML, or that of its page in a plain TIFF, from 0.
    name : str
        Empty where the file gives it none.
    kind : str
        ``"scan"``; ``"label"``, ``"macro"`` and so on where the file calls it that; or a page that
        the OME-XML does not list.
    planes : tuple of tifffile.TiffPage
        Level 0.
    candidates : tuple of Planes
        Smaller pages that the file's structure offers as its levels, largest first.
    sizes : tuple of (str, int)
        Of the axes Z, T and C; of C what goes beyond the three colours of one image.
    stated : StatedSize
        Its own pixel size.
    channels : tuple of OmeChannel
        Where the file describes them.
    files : tuple of str
        Other files that hold planes of it.
    bits : int
        Bits of a sample that mean anything; 0 where the file does not say.
    """

    number: int
    name: str
    kind: str
    planes: Planes
    candidates: tuple[Planes, ...] = ()
    sizes: tuple[tuple[str, int], ...] = (("Z", 1), ("T", 1), ("C", 1))
    stated: StatedSize = _UNSTATED
    channels: tuple[OmeChannel, ...] = ()
    files: tuple[str, ...] = ()
    bits: int = 0

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height), px."""
        return page_size(self.planes[0])

    @property
    def channel_count(self) -> int:
        """Colours or channels."""
        return max(int(self.planes[0].samplesperpixel), len(self.planes), dict(self.sizes)["C"])

    @property
    def area_px(self) -> int:
        """Width times height."""
        width, height = self.dimensions
        return width * height

    def __str__(self) -> str:
        width, height = self.dimensions
        size = f", {sum(self.stated.xy) / 2:.4g} µm/px" if self.stated.xy else ""
        name = f" {self.name!r}" if self.name else ""
        return f"{self.number}{name} ({width} x {height} px{size})"


@dataclass(frozen=True)
class TiffContent:
    """All images of a TIFF.

    Attributes
    ----------
    images : tuple of TiffImage
        Never empty.
    is_ome : bool
        Whether an OME-XML text describes them.
    files : tuple of str
        Other files of which that text speaks.
    """

    images: tuple[TiffImage, ...]
    is_ome: bool
    files: tuple[str, ...] = ()

    def scan(self) -> TiffImage:
        """The image that is the slide: of those that are no label and no overview, the largest."""
        return max(self.images, key=_rank)


def _rank(image: TiffImage) -> tuple[int, bool, int, int]:
    """Order of images: a scan, of a pixel size at which nuclei can be seen, the largest, first."""
    stated = image.stated.xy
    possible = stated is None or all(plausible(value) for value in stated)
    kinds = (_UNLISTED, "scan")
    kind = 1 + kinds.index(image.kind) if image.kind in kinds else 0
    return kind, possible, image.area_px, -image.number


def tiff_content(path: Path, tif: Any) -> TiffContent | None:
    """Tell the images of an open TIFF apart.

    Parameters
    ----------
    path : Path
        The file, for the companion beside it.
    tif : tifffile.TiffFile

    Returns
    -------
    TiffContent, or None
        None for a file without an image.

    Raises
    ------
    ValueError
        A page has no size.
    """
    pages = list(tif.pages)
    if not pages:
        return None
    for i, page in enumerate(pages):
        if min(page_size(page)) < 1:
            raise ValueError(f"page {i} has no size")
    if not is_ome(pages[0].description):
        return TiffContent(tuple(_plain_images(tif, pages)), False)
    text = read_ome(pages[0].description, path)
    claimed: set[int] = set()
    images = [
        found for ome in text.images if (found := _ome_image(ome, pages, claimed)) is not None
    ]
    files = tuple(dict.fromkeys(name for ome in text.images for name in ome.files))
    rest = [(i, page) for i, page in enumerate(pages) if i not in claimed]
    if not images:
        # The text fits no page: the pages speak for themselves.
        hint = text.problem or "Its OME-XML describes other images than it holds."
        return TiffContent(
            tuple(
                image
                if image.stated.xy is not None
                else replace(image, stated=StatedSize(None, "OME-XML", hint))
                for image in _plain_images(tif, pages)
            ),
            True,
            files,
        )
    first_free = 1 + max(image.number for image in text.images)
    for i, page in rest:
        if is_reduced(page) and any(has_shape_of(page, image.planes[0]) for image in images):
            images = [
                replace(image, candidates=(*image.candidates, (page,)))
                if has_shape_of(page, image.planes[0]) and len(image.planes) == 1
                else image
                for image in images
            ]
        else:
            plain = _plain_image(tif, i, page)
            name, kind = plain.name or f"page {i}", plain.kind
            kind = _UNLISTED if kind == "scan" else kind
            images.append(replace(plain, number=first_free, name=name, kind=kind))
            first_free += 1
    return TiffContent(tuple(_sorted_levels(image) for image in images), True, files)


def _ome_image(ome: OmeImage, pages: list[Any], claimed: set[int]) -> TiffImage | None:
    """Join an OME image with its pages; None where this file has none of them."""
    size = ome.width, ome.height
    ifds = [i for i in ome.ifds if i < len(pages)]
    if not ifds:
        return None
    if page_size(pages[ifds[0]]) != size:
        fitting = [
            i for i, page in enumerate(pages) if i not in claimed and page_size(page) == size
        ]
        if len(fitting) != 1:
            return None
        ifds = fitting
    claimed.update(ifds)
    planes = tuple(pages[i] for i in ifds if page_size(pages[i]) == size)
    samples = int(planes[0].samplesperpixel)
    colours = ome.sizes["C"]
    if samples == 1 and colours == 3 and len(planes) >= 3:
        planes, extra = planes[:3], 1
    else:
        planes, extra = planes[:1], max(1, colours // max(samples, 1))
    sizes = {"Z": ome.sizes["Z"], "T": ome.sizes["T"], "C": extra if samples >= 3 else colours}
    if samples == 1 and len(planes) == 3:
        sizes["C"] = 1
    stated = ome.stated if ome.stated.xy is not None else tag_size(planes[0], ome.stated)
    return TiffImage(
        ome.number, ome.name, _kind(ome.name), planes, tuple(_sub_levels(planes)),
        tuple(sizes.items()), stated, ome.channels, ome.files, ome.bits,
    )  # fmt: skip


def _plain_images(tif: Any, pages: list[Any]) -> list[TiffImage]:
    """Images of a TIFF that no OME-XML describes: each page that no other one offers as a level."""
    images: list[TiffImage] = []
    for i, page in enumerate(pages):
        owner = None
        if is_reduced(page):
            owner = next(
                (n for n in reversed(range(len(images))) if _is_below(page, images[n].planes[0])),
                None,
            )
        if owner is None:
            images.append(_plain_image(tif, i, page))
        else:
            candidates = (*images[owner].candidates, (page,))
            images[owner] = replace(images[owner], candidates=candidates)
    return [_sorted_levels(image) for image in images]


def _plain_image(tif: Any, number: int, page: Any) -> TiffImage:
    found = _KIND_LINE.search((page.description or "")[:2000])
    kind = found[1].lower() if found else "scan"
    sizes = {"Z": 1, "T": 1, "C": 1}
    if number == 0 and tif.is_imagej:
        meta = tif.imagej_metadata or {}
        sizes = {axis: int(meta.get(key, 1)) for axis, key in
                 (("Z", "slices"), ("T", "frames"), ("C", "channels"))}  # fmt: skip
        if max(sizes.values()) == 1:
            sizes["Z"] = int(meta.get("images", 1))
    return TiffImage(
        number, "" if kind == "scan" else kind, kind, (page,), tuple(_sub_levels((page,))),
        tuple(sizes.items()), imagej_size(tif, page) or tag_size(page),
    )  # fmt: skip


def _sub_levels(planes: Planes) -> list[Planes]:
    """Pages in the SubIFDs, a level each; those of another shape or type are left out."""
    under = [list(page.pages) if page.subifds else [] for page in planes]
    return [
        tuple(level)
        for level in zip(*under, strict=False)
        if all(_is_below(page, planes[0]) for page in level)
    ]


def _sorted_levels(image: TiffImage) -> TiffImage:
    candidates = sorted(image.candidates, key=lambda planes: page_size(planes[0]), reverse=True)
    return replace(image, candidates=tuple(candidates))


def page_size(page: Any) -> tuple[int, int]:
    """(width, height) of a page, px."""
    return int(page.keyframe.imagewidth), int(page.keyframe.imagelength)


def is_reduced(page: Any) -> bool:
    """Whether a page calls itself a smaller copy of another one."""
    return bool(int(page.keyframe.subfiletype) & _REDUCED)


def has_shape_of(page: Any, base: Any) -> bool:
    """Whether a page is smaller than another one, of the same proportions and type."""
    return _is_below(page, base) and bool(page.keyframe.is_tiled) == bool(base.keyframe.is_tiled)


def _is_below(page: Any, base: Any) -> bool:
    from lymphinfer.slides.pyramid import level_downsample

    small, large = page_size(page), page_size(base)
    if min(small) < 1 or small[0] >= large[0] or small[1] >= large[1]:
        return False
    first, second = base.keyframe, page.keyframe
    if first.dtype != second.dtype or first.samplesperpixel != second.samplesperpixel:
        return False
    dx, dy = level_downsample(large, small)
    # Rounding a side up or down moves its ratio by that of one pixel.
    return dx > 1.2 and abs(dx - dy) <= 1.5 * max(dx / small[0], dy / small[1])


def _kind(name: str) -> str:
    found = _KIND.search(name)
    return found[0].lower() if found else "scan"
