"""What an OME-XML text says of the images in a file and in the files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree import ElementTree

from lymphinfer.slides.pixel_size import StatedSize, stated_length

Element = ElementTree.Element

_PLAIN_NAME = re.compile(
    r"(channel|ch|c|sample|plane|band)?[\s:_#-]*\d*([:_]\d+)*|r|g|b|red|green|blue|rgb|"
    r"bright[\s-]*field|h\s*&\s*e|he",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OmeChannel:
    """A channel: its name, the samples a pixel it has, and whether it names a fluorophore."""

    name: str
    samples: int
    is_fluorescent: bool

    @property
    def has_own_name(self) -> bool:
        """Whether the name says more than "a colour" or a number."""
        return _PLAIN_NAME.fullmatch(self.name.strip()) is None


@dataclass(frozen=True)
class OmeImage:
    """One `Image` of an OME-XML text.

    Attributes
    ----------
    number : int
        Its place in the text, from 0.
    name : str
        Empty where it has none.
    width, height : int
        Level 0, px.
    sizes : dict
        Of the axes Z, C and T; C counts samples.
    order : str
        ``DimensionOrder``, such as ``XYCZT``.
    dtype : str
        ``Type``, such as ``uint8``.
    channels : tuple of OmeChannel
    stated : StatedSize
        Its pixel size.
    ifds : tuple of int
        Directories of this file that hold its planes, by time, focus and channel.
    files : tuple of str
        Other files that hold planes of it.
    bits : int
        ``SignificantBits``; 0 where the text does not say.
    """

    number: int
    name: str
    width: int
    height: int
    sizes: dict[str, int]
    order: str
    dtype: str
    channels: tuple[OmeChannel, ...]
    stated: StatedSize
    ifds: tuple[int, ...]
    files: tuple[str, ...]
    bits: int = 0


@dataclass(frozen=True)
class OmeText:
    """An OME-XML text, as far as it concerns one file.

    Attributes
    ----------
    images : tuple of OmeImage
        In the order of the text.
    problem : str
        Why it cannot be used, a sentence; empty if it can.
    """

    images: tuple[OmeImage, ...]
    problem: str = ""


def is_ome(description: str | None) -> bool:
    """Whether a TIFF's description is OME-XML."""
    text = (description or "").strip()
    return text.endswith("OME>") and "<" in text[:10]


def read_ome(text: str, path: Path | None = None) -> OmeText:
    """Read an OME-XML text.

    Parameters
    ----------
    text : str
        The description of a file's first page, or the content of a companion file.
    path : Path, optional
        The file: what the text says of other files is kept apart from it. A text that speaks of
        one file only is taken to mean this one, whatever it is called: files get renamed.

    Returns
    -------
    OmeText
    """
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        return OmeText((), f"Its OME-XML cannot be parsed ({error}).")
    own_uuid = root.get("UUID")
    binary_only = next(_named(root, "BinaryOnly"), None)
    if binary_only is not None:
        companion = PureWindowsPath(binary_only.get("MetadataFile", "")).name
        content = _companion(path, companion)
        if content is None:
            return OmeText((), f"Its OME-XML lies in {companion or 'another file'}.")
        try:
            root = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError) as error:
            return OmeText((), f"The OME-XML in {companion} cannot be parsed ({error}).")
    images = list(_named(root, "Image"))
    is_own = _OwnFile(images, own_uuid, None if path is None else path.name)
    read = tuple(_image(i, image, is_own) for i, image in enumerate(images))
    return OmeText(read, "" if read else "Its OME-XML describes no image.")


class _OwnFile:
    """Tells which `TiffData` lie in the file at hand."""

    def __init__(self, images: list[Element], own_uuid: str | None, name: str | None) -> None:
        self.own_uuid, self.name = own_uuid, name
        found = [_file_of(data) for image in images for data in _named(image, "TiffData")]
        self.uuids = {uuid for uuid, _ in found if uuid}
        self.names = {file for _, file in found if file}

    def __call__(self, data: Element) -> bool:
        uuid, file = _file_of(data)
        if len(self.uuids) == 1 and len(self.names) > 1 and self.name in self.names:
            # One identity for several files, as a careless copy of the text has: names tell.
            return file == self.name
        if uuid is None or len(self.uuids) == 1:
            return True
        if self.own_uuid in self.uuids:
            return uuid == self.own_uuid
        # Without a word on which of several files this one is, its name must tell.
        return file is not None and file == self.name


def _file_of(data: Element) -> tuple[str | None, str | None]:
    """UUID and name of the file that a `TiffData` points at; None where it names none."""
    uuid = next(_named(data, "UUID"), None)
    if uuid is None:
        return None, None
    name = uuid.get("FileName")
    return (uuid.text or "").strip(), PureWindowsPath(name).name if name else None


def _image(number: int, image: Element, is_own: _OwnFile) -> OmeImage:
    pixels = next(_named(image, "Pixels"), None)
    if pixels is None:
        pixels = ElementTree.Element("Pixels")
    sizes = {axis: _whole(pixels.get(f"Size{axis}"), 1) for axis in "ZCT"}
    channels = tuple(
        OmeChannel(
            channel.get("Name", ""),
            _whole(channel.get("SamplesPerPixel"), 1),
            any(channel.get(key) for key in ("EmissionWavelength", "Fluor"))
            or channel.get("ContrastMethod") == "Fluorescence",
        )
        for channel in _named(pixels, "Channel")
    )
    colours = sum(channel.samples for channel in channels) or sizes["C"]
    planes = sizes["Z"] * sizes["T"] * max(1, len(channels) or colours)
    ifds: list[tuple[tuple[int, ...], int]] = []
    files: dict[str, None] = {}
    for data in _named(pixels, "TiffData"):
        first = data.get("IFD")
        # Without an IFD a block begins at the first directory; without a count it is one plane,
        # or all of them where the text says nothing else (OME-XML 2016-06, TiffData).
        count = data.get("PlaneCount")
        n = _whole(count, 1) if count or first else planes
        if is_own(data):
            place = tuple(_whole(data.get(f"First{axis}"), 0) for axis in "TZC")
            ifds += [(place, _whole(first, 0) + i) for i in range(max(0, min(n, planes)))]
        else:
            files[_file_of(data)[1] or "a file without a name"] = None
    return OmeImage(
        number,
        image.get("Name", ""),
        _whole(pixels.get("SizeX"), 0),
        _whole(pixels.get("SizeY"), 0),
        sizes | {"C": colours},
        pixels.get("DimensionOrder", "XYCZT"),
        pixels.get("Type", ""),
        channels,
        _stated(pixels),
        tuple(ifd for _, ifd in sorted(ifds)),
        tuple(files),
        _whole(pixels.get("SignificantBits"), 0),
    )


def _stated(pixels: Element) -> StatedSize:
    text_x = pixels.get("PhysicalSizeX")
    if text_x is None:
        return StatedSize(None, "OME-XML", "Its OME-XML has no PhysicalSizeX.")
    unit_x = pixels.get("PhysicalSizeXUnit", "µm")
    text_y = pixels.get("PhysicalSizeY", text_x)
    unit_y = pixels.get("PhysicalSizeYUnit", unit_x)
    x, y = stated_length(text_x, unit_x), stated_length(text_y, unit_y)
    if x is None or y is None:
        found = f"{text_x} {unit_x} x {text_y} {unit_y}"
        return StatedSize(None, "OME-XML", f"Its OME-XML says {found}, which is no length.")
    return StatedSize((x, y), "OME-XML")


def _companion(path: Path | None, name: str) -> str | None:
    """Text of the companion file beside a file."""
    if path is None or not name or name != PurePosixPath(name).name:
        return None
    try:
        return path.with_name(name).read_text("utf-8-sig")
    except (OSError, ValueError):
        return None


def _named(element: Element, name: str) -> Iterator[Element]:
    """Descendants of a name, in whatever version's namespace."""
    for inner in element.iter():
        if isinstance(inner.tag, str) and inner.tag.rpartition("}")[2] == name:
            yield inner


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default
