"""What a Zeiss CZI holds: its scenes, their levels, its pixel size and channels."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lymphinfer.slides.pixel_size import StatedSize, objective_size

CZI_MAGIC = b"ZISRAWFILE"
# Place of the file's number within a set of files (ZISRAW specification, file header segment).
_PART_AT = 80
_STACKS = {
    "Z": "focus planes",
    "T": "time points",
    "R": "rotations",
    "I": "illuminations",
    "H": "phases",
    "V": "views",
}
# From this downsample on a shift of less than a pixel of the level is of no account.
_COARSE = 8
# Tiles of level 0 overlap: those of a whole level have less than their area.
_LEAST_COVERED = 0.7
_WHOLE = 0.01


@dataclass(frozen=True)
class CziScene:
    """A scene: an area of the glass that was scanned for itself.

    Attributes
    ----------
    number : int
    name : str
        Empty where the file gives it none.
    origin : tuple of int
        (x, y) of its corner in the file's own frame, px.
    dimensions : tuple of int
        (width, height), px.
    downsamples : tuple of int
        Of its levels, 1 first.
    """

    number: int
    name: str
    origin: tuple[int, int]
    dimensions: tuple[int, int]
    downsamples: tuple[int, ...] = (1,)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, px."""
        width, height = self.dimensions
        return tuple((-(-width // d), -(-height // d)) for d in self.downsamples)


@dataclass(frozen=True)
class CziContent:
    """All of a CZI.

    Attributes
    ----------
    scenes : tuple of CziScene
        Never empty.
    stated : StatedSize
        Pixel size, the same for all scenes.
    pixel_type : str
        Of the first channel, such as ``"Bgr24"``.
    channels : tuple of str
        Names; empty where a channel has none.
    sizes : dict of str to int
        Number of planes along each axis that has more than one, but for the channels.
    has_scenes : bool
        Whether the file numbers its scenes.
    bits : int
        Bits of a sample that mean anything; 0 where the file does not say.
    """

    scenes: tuple[CziScene, ...]
    stated: StatedSize
    pixel_type: str
    channels: tuple[str, ...]
    sizes: Mapping[str, int]
    has_scenes: bool
    bits: int = 0

    def problem(self) -> tuple[str, bool]:
        """Why it is no RGB image, empty if it is one; and whether it can be read all the same."""
        if len(self.channels) > 1:
            names = ", ".join(name for name in self.channels if name)
            named = f" ({names})" if names else ""
            return (
                f"it holds {len(self.channels)} channels{named}, as of immunofluorescence. Give "
                "the H&E scan of the section, or export the brightfield channel as OME-TIFF",
                False,
            )
        if self.pixel_type not in ("Bgr24", "Bgr48"):
            what = {"Gray": "grey", "Bgr9": "colours of 32 bits"}
            kind = next((w for key, w in what.items() if self.pixel_type.startswith(key)), "data")
            name = f" called {self.channels[0]}" if any(self.channels) else ""
            return (
                f"it holds 1 channel{name} of {kind} (pixel type {self.pixel_type}), where 3 "
                "colours of 8 or 16 bits are needed. If this is the fluorescence scan, give the "
                "H&E scan of the section",
                False,
            )
        for axis, count in self.sizes.items():
            return (
                f"it is a stack of {count} {_STACKS[axis]} (axis {axis}), of which one has to be "
                "chosen. Export one plane",
                True,
            )
        return "", False


@dataclass
class _Tiles:
    """Tiles of one level of one scene."""

    area: int = 0
    corners: list[tuple[int, int]] = field(default_factory=list)


def czi_part(path: Path) -> int:
    """Number of a file within a set of files that make one CZI; 0 for the first or only one.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_PART_AT + 4)
    return int(struct.unpack_from("<i", head, _PART_AT)[0]) if len(head) == _PART_AT + 4 else 0


def czi_content(reader: Any) -> CziContent:
    """Tell the scenes of an open CZI apart; `reader` is a `pylibCZIrw.czi.CziReader`."""
    root = ElementTree.fromstring(reader.raw_metadata)
    image = root.find("./Metadata/Information/Image")
    box = reader.total_bounding_box_no_pyramid
    levels = _levels(reader)
    rectangles = _scene_rectangles(reader)
    has_scenes = bool(rectangles)
    names = _scene_names(image)
    scenes = []
    for number, (x, y, width, height) in sorted(
        (rectangles or {0: tuple(reader.total_bounding_rectangle_no_pyramid)}).items()
    ):
        scene = CziScene(number, names.get(number, ""), (x, y), (width, height))
        found = _downsamples(levels.get(number if has_scenes else None, {}), (x, y))
        scenes.append(CziScene(number, scene.name, (x, y), (width, height), found))
    channel_count = int(box["C"][1])
    return CziContent(
        tuple(scenes),
        _stated(root),
        reader.get_channel_pixel_type(0),
        _channel_names(image, channel_count),
        {axis: int(box[axis][1]) for axis in _STACKS if box.get(axis, (0, 1))[1] > 1},
        has_scenes,
        _bits(image),
    )


def _scene_rectangles(reader: Any) -> dict[int, tuple[int, int, int, int]]:
    try:
        found = reader.scenes_bounding_rectangle_no_pyramid
    # Of a file that numbers no scenes.
    except ValueError:
        return {}
    return {int(number): tuple(rectangle) for number, rectangle in found.items()}


def _levels(reader: Any) -> dict[int | None, dict[int, _Tiles]]:
    """Tiles by scene and by downsample, of the first plane."""
    found: dict[int | None, dict[int, _Tiles]] = {}

    def note(_: int, tile: Any) -> bool:
        place = tile.coordinate.to_dict()
        rectangle, size = tile.logicalRect, tile.physicalSize
        if any(place.get(axis, 0) for axis in _STACKS) or min(size.w, size.h) < 1:
            return True
        # The shorter side of a tile at the edge is cut: the longer one tells.
        ratio = rectangle.w / size.w if size.w >= size.h else rectangle.h / size.h
        if abs(ratio - round(ratio)) <= _WHOLE * ratio:
            levels = found.setdefault(place.get("S"), {})
            tiles = levels.setdefault(round(ratio), _Tiles())
            tiles.area += rectangle.w * rectangle.h
            tiles.corners.append((rectangle.x, rectangle.y))
        return True

    reader.enumerate_subblocks(note)
    return found


def _downsamples(levels: dict[int, _Tiles], origin: tuple[int, int]) -> tuple[int, ...]:
    """Downsamples of the levels that cover the scene and lie on its grid of pixels."""
    whole = levels.get(1, _Tiles()).area
    found = [1]
    for downsample, tiles in sorted(levels.items()):
        on_grid = all(
            (x - origin[0]) % downsample == 0 and (y - origin[1]) % downsample == 0
            for x, y in tiles.corners
        )
        fits = on_grid or downsample >= _COARSE
        if downsample > 1 and fits and tiles.area >= _LEAST_COVERED * whole:
            found.append(downsample)
    return tuple(found)


def _stated(root: ElementTree.Element) -> StatedSize:
    """Pixel size: metres in `Scaling`."""
    metres = []
    for axis in "XY":
        text = root.findtext(f"./Metadata/Scaling/Items/Distance[@Id='{axis}']/Value")
        try:
            metres.append(float(text or 0))
        except ValueError:
            metres.append(0.0)
    if all(value > 0 for value in metres):
        return StatedSize((metres[0] * 1e6, metres[1] * 1e6), "CZI metadata")
    power = root.findtext(".//Instrument/Objectives/Objective/NominalMagnification")
    return StatedSize(None, "CZI metadata", objective_size(power))


def _bits(image: ElementTree.Element | None) -> int:
    if image is None:
        return 0
    place = "./Dimensions/Channels/Channel/ComponentBitCount"
    text = image.findtext(place) or image.findtext("ComponentBitCount") or ""
    return int(text) if text.strip().isdigit() else 0


def _scene_names(image: ElementTree.Element | None) -> dict[int, str]:
    scenes = () if image is None else image.iterfind("./Dimensions/S/Scenes/Scene")
    return {
        int(scene.get("Index", "-1")): scene.get("Name", "")
        for scene in scenes
        if scene.get("Index", "").isdigit()
    }


def _channel_names(image: ElementTree.Element | None, count: int) -> tuple[str, ...]:
    found = [] if image is None else image.findall("./Dimensions/Channels/Channel")
    names = [channel.get("Name", "") for channel in found]
    return tuple((*names, *[""] * count)[:count])
