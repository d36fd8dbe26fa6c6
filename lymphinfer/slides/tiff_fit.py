"""Whether an image of a TIFF can be an H&E slide: one plane of colours, of 8 or 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lymphinfer.slides.tiff_content import TiffImage

# MINISBLACK (as planes of colour are often tagged), RGB, YCBCR.
_RGB_PHOTOMETRICS = {1, 2, 6}
_GREY, _RGB, _PALETTE = 1, 2, 3
_AXES = {"Z": "focus planes", "T": "time points", "C": "channels"}
_PLANE = "Export one plane as 8-bit RGB (in Fiji: Image > Duplicate, without the stack)"
_SAME_SECTION = "Give the H&E image of the same section."


@dataclass(frozen=True)
class Unfit:
    """Why an image is no H&E slide.

    Attributes
    ----------
    reason : str
        What it is instead, in words that follow "not an RGB H&E image: ".
    way_out : str
        A sentence.
    can_force : bool
        Whether its pixels can be read as RGB all the same.
    """

    reason: str
    way_out: str
    can_force: bool

    def __str__(self) -> str:
        force = " --force reads the first plane all the same." if self.can_force else ""
        return f"not an RGB H&E image: {self.reason}. {self.way_out}{force}"


def unfit(image: TiffImage) -> Unfit | None:
    """Why an image is no H&E slide, by its header; None if it may be one."""
    page = image.planes[0].keyframe
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    if photometric not in _RGB_PHOTOMETRICS:
        name = getattr(page.photometric, "name", str(photometric))
        what = ", as of a map of labels" if photometric == _PALETTE else ""
        return Unfit(
            f"its colours are stored as {name}{what}", "Export it as 8-bit RGB.", can_force=False
        )
    stack = _stack(image)
    is_colour = samples == 3 or (samples == 4 and photometric == _RGB) or len(image.planes) == 3
    # Three pages of 16 bits are the channels of a fluorescence camera far more often than colours.
    is_deep = page.dtype == "uint16" and samples >= 3 and photometric != _GREY
    if not is_deep and (page.dtype != "uint8" or int(page.bitspersample) != 8):
        depth = f"{page.dtype} data" if page.dtype is not None else "data of an unknown type"
        if is_colour and stack is None:
            return Unfit(
                f"it holds colours as {depth}, where integers of 8 or 16 bits are needed: what "
                "would be white cannot be told",
                "Scale it so that the glass is near 255, such as with `vips linear IN.tif OUT.tif "
                "255 0 --uchar` where glass is near 1.",
                can_force=False,
            )
        return Unfit(
            f"it holds {_channel_words(image)} of {depth}, as of immunofluorescence or of "
            "a map of labels",
            _SAME_SECTION,
            can_force=False,
        )
    if not is_colour:
        return Unfit(
            f"it holds {_channel_words(image)} of grey, as of immunofluorescence or of a "
            "picture without its colours",
            f"{_SAME_SECTION[:-1]}, in colour.",
            can_force=samples in (1, 3, 4),
        )
    if stack is not None:
        axis, count = stack
        return Unfit(
            f"it is a stack of {count} {_AXES[axis]} (axis {axis}), of which one has to be chosen",
            f"{_PLANE}.",
            can_force=True,
        )
    if len(image.planes) == 3:
        return _unfit_channels(image)
    return None


def _stack(image: TiffImage) -> tuple[str, int] | None:
    return next(((axis, n) for axis, n in image.sizes if n > 1), None)


def _unfit_channels(image: TiffImage) -> Unfit | None:
    """Three planes may be colours, or the stains of a fluorescence image."""
    names = [channel.name for channel in image.channels if channel.has_own_name]
    if names:
        return Unfit(
            f"its three channels are called {', '.join(names)}, as of immunofluorescence",
            _SAME_SECTION,
            can_force=True,
        )
    if any(channel.is_fluorescent for channel in image.channels):
        return Unfit("its OME-XML describes 3 fluorescence channels", _SAME_SECTION, can_force=True)
    return None


def _channel_words(image: TiffImage) -> str:
    channels = image.channel_count
    return "1 channel" if channels == 1 else f"{channels} channels"


def unfit_pages(count: int, page: Any) -> Unfit:
    """Why pages of one size that show the same are no slide."""
    width, height = int(page.keyframe.imagewidth), int(page.keyframe.imagelength)
    return Unfit(
        f"it is a stack: {count} pages of {width} x {height} px show the same place, as focus "
        "planes or time points do, and one has to be chosen",
        f"--series N reads page N; or export it. {_PLANE}.",
        can_force=True,
    )
