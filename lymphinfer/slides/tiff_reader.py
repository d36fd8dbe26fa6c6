"""TIFF files of any layout, through tifffile's index of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lymphinfer.errors import SlideError
from lymphinfer.slides.depth import stated_depth
from lymphinfer.slides.identity import image_identity, source_identity
from lymphinfer.slides.images import (
    SlideImage,
    other_files_warning,
    other_images_warning,
    pick,
)
from lymphinfer.slides.level_proof import remembered, shows_the_same
from lymphinfer.slides.pixel_size import resolve_pixel_size
from lymphinfer.slides.pyramid import PyramidSlide
from lymphinfer.slides.source import ByteSource, FileSource
from lymphinfer.slides.tiff_content import (
    Planes,
    TiffContent,
    TiffImage,
    has_shape_of,
    page_size,
    tiff_content,
)
from lymphinfer.slides.tiff_fit import unfit, unfit_pages
from lymphinfer.slides.tiff_level import SegmentStore, TiffLevel, check_whole

if TYPE_CHECKING:
    from PIL.Image import Image

_ICC_TAG = 34675
_LOOKED_AT = 3


class TiffSlide(PyramidSlide):
    """A TIFF or OME-TIFF of RGB of 8 or 16 bits. Threads may read at once.

    Tiles and strips are decoded as they are needed; of a file that is a single strip that means
    the whole image, held in memory from the first read on.

    Parameters
    ----------
    path : Path
        The file.
    mpp : float or None
        The user's pixel size, µm/px.
    series : str, optional
        Number or name of the image to read; by default the largest scan.
    force : bool
        Read what is no H&E slide by its header, as far as it can be read.
    source : ByteSource, optional
        Its bytes, where they do not lie on a disk.

    Raises
    ------
    SlideError
        No TIFF, cut short, or not an RGB image.
    PixelSizeError
        No usable pixel size.
    """

    def __init__(
        self,
        path: Path,
        mpp: float | None,
        *,
        series: str | None = None,
        force: bool = False,
        source: ByteSource | None = None,
    ) -> None:
        from tifffile import TiffFile

        self.path = path
        self.bounds_offset = (0, 0)
        source = FileSource(path) if source is None else source
        store = SegmentStore(source)
        try:
            with source.open() as stream, TiffFile(stream) as tif:
                content = tiff_content(path, tif)
                if content is None:
                    raise SlideError(f"{source}: a TIFF without images. Export the slide again.")
                self._read_content(content, store, series, force)
            self.mpp, self.mpp_source = resolve_pixel_size(path, self._image.stated, mpp)
        except SlideError:
            store.close()
            raise
        # tifffile raises whatever a damaged file leads it into.
        except Exception as error:
            store.close()
            raise SlideError(
                f"{source}: looks like a TIFF but cannot be read ({error}). The file is damaged or "
                "was not copied whole: copy or export it again."
            ) from error
        self.reader = "tifffile:ome" if content.is_ome else "tifffile:tiff"
        self.level_dimensions = tuple((level.width, level.height) for level in self._levels)
        self.dimensions = self.level_dimensions[0]
        self._store = store

    def _read_content(
        self, content: TiffContent, store: SegmentStore, series: str | None, force: bool
    ) -> None:
        """Choose the image, prove its levels, and say what else there is."""
        image = _chosen(store.source, content, series)
        self.forced: tuple[str, ...] = ()
        problem = unfit(image)
        if problem is not None:
            if not (force and problem.can_force):
                raise SlideError(f"{store.source}: {problem}")
            self.forced = (f"Read although it is {str(problem).partition('. ')[0]} (--force).",)
        depth = None
        if 8 < image.bits < 16 and image.planes[0].keyframe.dtype == "uint16":
            depth = stated_depth((1 << image.bits) - 1, "its OME-XML (SignificantBits)")
        base = TiffLevel(image.planes, store, depth)
        for each in content.images:
            for planes in (each.planes, *each.candidates):
                for page in planes:
                    check_whole(page, store.source)
        # Pages of a plain TIFF may be levels, other scans, or a stack: only their pixels tell.
        others = [other for other in content.images if other is not image]
        pages = [] if content.is_ome else [o for o in others if o.kind == "scan"]
        if series is None and problem is None:
            # Of a long stack the first pages tell as much as all of them.
            same = [o for o in pages if _size_of(o) == _size_of(image)]
            looked = same[:_LOOKED_AT]
            alike = [o for o in looked if self._proved(base, image.planes, o.planes, store)]
            if alike:
                count = 1 + len(alike) + len(same) - len(looked)
                stack = unfit_pages(count, image.planes[0])
                if not force:
                    raise SlideError(f"{store.source}: {stack}")
                self.forced = (f"Read although it is {str(stack).partition('. ')[0]} (--force).",)
        offered = [o.planes for o in pages if has_shape_of(o.planes[0], image.planes[0])]
        candidates = sorted(
            (*image.candidates, *offered), key=lambda planes: page_size(planes[0]), reverse=True
        )
        self._levels, used = [base], {id(image.planes[0])}
        finest = image.planes
        for planes in candidates:
            small = self._levels[-1]
            if page_size(planes[0]) < (small.width, small.height) and self._proved(
                small, finest, planes, store
            ):
                self._levels.append(TiffLevel(planes, store, base.depth))
                used.add(id(planes[0]))
                finest = planes
        store.forget()
        self._image = image
        self.images = tuple(
            _slide_image(o, self._levels if o is image else (), o is image)
            for o in content.images
            if o is image or id(o.planes[0]) not in used
        )
        self.other_files = content.files
        self.icc_profile_bytes = _icc_bytes(image.planes[0])
        found = (other_images_warning(self.images), other_files_warning(content.files))
        deep = () if base.depth is None else (base.depth.warning,)
        self.warnings = (*self.forced, *deep, *(text for text in found if text))

    def _proved(
        self, fine: TiffLevel, fine_planes: Planes, planes: Planes, store: SegmentStore
    ) -> bool:
        """Whether a page shows what a larger one shows; remembered for the next opening."""
        places = tuple(int(page.offset) for page in (*fine_planes, *planes))
        key = (str(store.source), store.source.version, *places)
        return remembered(key, lambda: shows_the_same(fine, TiffLevel(planes, store, fine.depth)))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        from PIL import Image

        return Image.fromarray(self._levels[level].read(x, y, width, height))

    def identity(self) -> str:
        """See `Slide.identity`."""
        try:
            content = source_identity(self._store.source)
        except OSError as error:
            raise SlideError(
                f"{self._store.source}: cannot be read to identify it ({error.strerror or error}). "
                "Check that the file still exists and that you may read it."
            ) from error
        return image_identity(content, self.image_number)

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        self._closed = True
        self._store.close()


def _chosen(source: ByteSource, content: TiffContent, series: str | None) -> TiffImage:
    if series is None:
        return content.scan()
    images = [_slide_image(image, (), False) for image in content.images]
    return content.images[pick(source, images, series)]


def _size_of(image: TiffImage) -> tuple[object, ...]:
    page = image.planes[0].keyframe
    return image.dimensions, page.dtype, int(page.samplesperpixel)


def _slide_image(image: TiffImage, levels: Sequence[TiffLevel], is_read: bool) -> SlideImage:
    stated = image.stated
    return SlideImage(
        image.number,
        image.name,
        image.kind,
        image.dimensions,
        tuple((level.width, level.height) for level in levels) or (image.dimensions,),
        None if stated.xy is None else sum(stated.xy) / 2,
        "" if stated.xy is None else stated.source,
        is_read,
    )


def _icc_bytes(page: Any) -> int:
    tag = page.keyframe.tags.get(_ICC_TAG)
    return 0 if tag is None else int(tag.count)
