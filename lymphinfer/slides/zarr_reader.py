"""OME-Zarr (NGFF 0.4 and 0.5): a folder, or an address, of chunks that are read as needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lymphinfer.errors import SlideError
from lymphinfer.extras import require_extra
from lymphinfer.slides.identity import image_identity
from lymphinfer.slides.images import SlideImage, other_images_warning, pick
from lymphinfer.slides.pixel_size import (
    StatedSize,
    plausible,
    resolve_pixel_size,
    stated_length,
)
from lymphinfer.slides.pyramid import PyramidSlide
from lymphinfer.slides.remote import file_system, remote_address

if TYPE_CHECKING:
    from PIL.Image import Image

_METADATA = (".zgroup", ".zattrs", "zarr.json")
_COLOUR_NAMES = {"r", "g", "b", "red", "green", "blue"}


def is_zarr(path: Path) -> bool:
    """Whether a folder, or an address, is a Zarr store, by its name and its metadata."""
    if remote_address(path) is not None:
        return path.name.partition("?")[0].lower().endswith(".zarr")
    return path.is_dir() and any((path / name).is_file() for name in _METADATA)


class ZarrSlide(PyramidSlide):
    """An OME-Zarr image of 8-bit RGB. Threads may read at once.

    Parameters
    ----------
    path : Path
        The folder, or the address as a path.
    mpp : float or None
        The user's pixel size, µm/px.
    series : str, optional
        Number or name of the image to read; by default the largest.
    force : bool
        Read the first plane of a stack, and channels that have names of their own.

    Raises
    ------
    SlideError
        No OME-Zarr, damaged, or not an 8-bit RGB image.
    PixelSizeError
        No usable pixel size.
    """

    def __init__(
        self, path: Path, mpp: float | None, *, series: str | None = None, force: bool = False
    ) -> None:
        self.path = path
        self.bounds_offset = (0, 0)
        address = remote_address(path)
        self._shown = str(path) if address is None else address.partition("?")[0]
        try:
            root = _open_group(path, address, self._shown)
            found = [_ZarrImage(number, group, content)
                     for number, (group, content) in enumerate(_images(root))]  # fmt: skip
            if not found:
                raise SlideError(
                    f"{self._shown}: a Zarr store without an OME-Zarr image (no `multiscales`). "
                    "Give the image's own folder, or export it as OME-Zarr 0.4 or 0.5."
                )
            image = self._choose(found, series)
            problem = image.problem()
            if problem and not (force and image.can_force):
                force_words = " --force goes on." if image.can_force else ""
                raise SlideError(f"{self._shown}: not an RGB H&E image: {problem}.{force_words}")
            self._image = image
            self.mpp, self.mpp_source = resolve_pixel_size(path, image.stated, mpp)
        except SlideError:
            raise
        # zarr and fsspec raise whatever a damaged store leads them into.
        except Exception as error:
            raise SlideError(
                f"{self._shown}: looks like a Zarr store but cannot be read ({error}). It is "
                "damaged or was not copied whole: copy or export it again."
            ) from error
        self.reader = f"zarr:ome-{image.version}"
        self.level_dimensions = tuple(image.level_dimensions)
        self.dimensions = self.level_dimensions[0]
        self.images = tuple(each.facts(each is image) for each in found)
        others = other_images_warning(self.images)
        forced = (f"Read although {problem} (--force).",) if problem else ()
        self.warnings = (*forced, *((others,) if others else ()))

    def _choose(self, found: list[_ZarrImage], series: str | None) -> _ZarrImage:
        if series is not None:
            return found[pick(self._shown, [image.facts(False) for image in found], series)]
        return max(found, key=lambda image: (image.is_possible, image.area_px, -image.number))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        from PIL import Image

        out = np.full((height, width, 3), 255, dtype=np.uint8)
        level_width, level_height = self.level_dimensions[level]
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, level_width), min(y + height, level_height)
        if x0 < x1 and y0 < y1:
            try:
                pixels = self._image.read(level, x0, y0, x1, y1)
            except Exception as error:
                raise SlideError(
                    f"{self._shown}: {x1 - x0} x {y1 - y0} px of level {level} cannot be read "
                    f"({error}). It is damaged or out of reach: copy or export it again."
                ) from error
            out[y0 - y : y1 - y, x0 - x : x1 - x] = pixels
        return Image.fromarray(out)

    def identity(self) -> str:
        """Sha256 of the metadata and of samples of the coarsest level's pixels."""
        import hashlib

        digest = hashlib.sha256(repr(self._image.content).encode())
        last = len(self.level_dimensions) - 1
        width, height = self.level_dimensions[last]
        for share in (0.0, 0.5):
            x, y = int(width * share), int(height * share)
            pixels = self._image.read(last, x, y, min(x + 512, width), min(y + 512, height))
            digest.update(np.ascontiguousarray(pixels).tobytes())
        return image_identity(digest.hexdigest(), self._image.number)

    def close(self) -> None:
        """Release the store. Safe to call twice."""
        self._closed = True


class _ZarrImage:
    """One `multiscales` of a store."""

    def __init__(self, number: int, group: Any, content: dict[str, Any]) -> None:
        self.number, self.content = number, content
        self.name = str(content.get("name") or group.path or "").strip("/")
        self.version = str(content.get("version", "0.4"))
        axes = content.get("axes") or [{"name": name} for name in "tczyx"]
        self.axes = [a["name"].lower() if isinstance(a, dict) else str(a).lower() for a in axes]
        self.units = [a.get("unit", "") if isinstance(a, dict) else "" for a in axes]
        self.arrays = [group[each["path"]] for each in content["datasets"]]
        omero = content.get("_omero") or {}
        self.channels = [str(c.get("label") or "") for c in omero.get("channels", ())]
        y, x = self.axes.index("y"), self.axes.index("x")
        self.level_dimensions = [(int(a.shape[x]), int(a.shape[y])) for a in self.arrays]
        self.stated = self._stated(x, y)
        width, height = self.level_dimensions[0]
        self.area_px = width * height

    @property
    def is_possible(self) -> bool:
        """Whether nuclei can be seen at its pixel size, as far as it states one."""
        return self.stated.xy is None or all(plausible(value) for value in self.stated.xy)

    def _stated(self, x: int, y: int) -> StatedSize:
        scale = [1.0] * len(self.axes)
        found = False
        first = self.content["datasets"][0].get("coordinateTransformations") or ()
        for step in (*first, *(self.content.get("coordinateTransformations") or ())):
            if step.get("type") == "scale":
                scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
                found = True
        sizes = [stated_length(repr(scale[i]), self.units[i]) for i in (x, y)]
        if not found or None in sizes:
            unit = self.units[x] or "none"
            return StatedSize(None, "OME-Zarr", f"Its OME-Zarr gives no length (unit: {unit}).")
        return StatedSize((sizes[0] or 0.0, sizes[1] or 0.0), "OME-Zarr")

    def problem(self) -> str:
        """Why it is no RGB image; empty if it is one."""
        array = self.arrays[0]
        sizes = dict(zip(self.axes, array.shape, strict=True))
        colours = sizes.get("c", 1)
        self.can_force = False
        if str(array.dtype) != "uint8" or colours != 3:
            return (
                f"it holds {colours} channels of {array.dtype}, where 3 colours of 8 bits are "
                "needed. If this is the immunofluorescence image, give the H&E image of the same "
                "section"
            )
        self.can_force = True
        for axis, words in (("z", "focus planes"), ("t", "time points")):
            if sizes.get(axis, 1) > 1:
                return (
                    f"it is a stack of {sizes[axis]} {words}, of which one has to be chosen. "
                    "Export one plane"
                )
        own = [c for c in self.channels if c.strip().lower() not in _COLOUR_NAMES and not _plain(c)]
        if own:
            return f"its channels are called {', '.join(self.channels)}, as of immunofluorescence"
        return ""

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> Any:
        """RGB of a rectangle of a level, (rows, columns, 3)."""
        spans = {"y": slice(y0, y1), "x": slice(x0, x1), "c": slice(0, 3)}
        pixels = np.asarray(self.arrays[level][tuple(spans.get(axis, 0) for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in spans]
        return pixels.transpose([kept.index(axis) for axis in ("y", "x", "c")])

    def facts(self, is_read: bool) -> SlideImage:
        """What `info` and a summary say of it."""
        xy = self.stated.xy
        levels = tuple(self.level_dimensions)
        return SlideImage(
            self.number, self.name, "scan", levels[0], levels if is_read else levels[:1],
            None if xy is None else sum(xy) / 2, "" if xy is None else self.stated.source, is_read,
        )  # fmt: skip


def _plain(name: str) -> bool:
    from lymphinfer.slides.ome import OmeChannel

    return not OmeChannel(name, 1, False).has_own_name


def _open_group(path: Path, address: str | None, shown: str) -> Any:
    require_extra("zarr", f"{shown}: an OME-Zarr slide", SlideError)
    import zarr

    if address is None:
        return zarr.open_group(str(path), mode="r")
    file_system(address)
    from zarr.storage import FsspecStore

    return zarr.open_group(FsspecStore.from_url(address, read_only=True), mode="r")


def _images(root: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Groups that hold an image, with their `multiscales`: the store itself, or those below it."""
    found = _multiscales(root)
    if found:
        return [(root, content) for content in found]
    images = []
    # bioformats2raw.layout 3: images are called 0, 1, 2 below the root.
    for name in sorted(root.group_keys(), key=lambda n: (not n.isdigit(), len(n), n)):
        group = root[name]
        images += [(group, content) for content in _multiscales(group)]
    return images


def _multiscales(group: Any) -> list[dict[str, Any]]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    inner = ome if isinstance(ome, dict) else attributes
    version = str(inner.get("version", "0.4"))
    omero = inner.get("omero")
    return [
        {"version": version, **content, "_omero": omero}
        for content in inner.get("multiscales", ())
        if content.get("datasets")
    ]
