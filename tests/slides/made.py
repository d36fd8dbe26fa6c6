"""Writers of small slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

APERIO = (
    "Aperio Image Library v11.2.1\r\n{width}x{height} (128x128) JPEG/RGB Q=90"
    "|AppMag = 40|MPP = {mpp}"
)


def halved(image: np.ndarray) -> np.ndarray:
    """Half-size level, its odd last row and column cut off, as scanners do."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    return np.asarray(Image.fromarray(image[:height, :width]).reduce(2))


def write_svs(path: Path, image: np.ndarray, mpp: float | None = 0.25, levels: int = 2) -> Path:
    height, width = image.shape[:2]
    description = APERIO.format(width=width, height=height, mpp=mpp)
    if mpp is None:
        description = description.rpartition("|")[0]
    options = {"photometric": "rgb", "compression": "jpeg", "tile": (128, 128), "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        for _ in range(levels):
            tif.write(image, description=description, **options)
            image = halved(image)
    return path


def write_ome(
    path: Path,
    image: np.ndarray,
    layout: str = "YXS",
    mpp: float | None = 0.25,
    unit: str = "µm",
    compression: str = "jpeg",
) -> Path:
    """OME-TIFF with one SubIFD level; YXS interleaved, SYX planar page, CYX a page a colour."""
    um_per_unit = {"nm": 1e-3, "µm": 1.0, "mm": 1e3}[unit]
    metadata: dict[str, object] = {"axes": layout}
    if mpp is not None:
        for axis in "XY":
            metadata |= {
                f"PhysicalSize{axis}": mpp / um_per_unit,
                f"PhysicalSize{axis}Unit": unit,
            }
    options = {
        "photometric": "minisblack" if layout == "CYX" else "rgb",
        "planarconfig": "separate" if layout == "SYX" else None,
        "compression": compression,
        "tile": (128, 128),
    }
    first, second = image, halved(image)
    if layout != "YXS":
        first, second = np.moveaxis(first, 2, 0), np.moveaxis(second, 2, 0)
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(first, subifds=1, metadata=metadata, **options)
        tif.write(second, subfiletype=1, **options)
    return path


SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"
     uuid="urn:uuid:00000000-0000-0000-0000-000000000000">
 <collection name="made" uuid="urn:uuid:00000000-0000-0000-0000-000000000001"
             sizeX="{slide_x}" sizeY="{slide_y}"><barcode></barcode>
  <image name="macro" uuid="urn:uuid:00000000-0000-0000-0000-000000000002">
   <device model="made" version="1"/>
   <pixels sizeX="256" sizeY="256"><dimension sizeX="256" sizeY="256" r="0" ifd="0"/></pixels>
   <view sizeX="{slide_x}" sizeY="{slide_y}" offsetX="0" offsetY="0" spacingZ="0"/>
   <scanSettings><objectiveSettings><objective>1</objective></objectiveSettings>
    <illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>
   </scanSettings>
  </image>
  <image name="main" uuid="urn:uuid:00000000-0000-0000-0000-000000000003">
   <device model="made" version="1"/>
   <pixels sizeX="{width}" sizeY="{height}">
    <dimension sizeX="{width}" sizeY="{height}" r="0" ifd="1"/></pixels>
   <view sizeX="{view_x}" sizeY="{view_y}" offsetX="{offset_x}" offsetY="{offset_y}" spacingZ="0"/>
   <scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
    <illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>
   </scanSettings>
  </image>
 </collection>
</scn>"""


def write_scn(path: Path, image: np.ndarray, *, mpp: float, offset: tuple[int, int]) -> Path:
    """Leica SCN: tissue scanned as one area of a larger slide, so that the slide has bounds."""
    height, width = image.shape[:2]
    nm = mpp * 1000
    description = SCN.format(
        width=width, height=height, view_x=round(width * nm), view_y=round(height * nm),
        offset_x=round(offset[0] * nm), offset_y=round(offset[1] * nm),
        slide_x=round((width + 2 * offset[0]) * nm), slide_y=round((height + 2 * offset[1]) * nm),
    )  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        options = {"photometric": "rgb", "compression": "jpeg", "tile": (256, 256),
                   "metadata": None, "compressionargs": {"level": 95}}  # fmt: skip
        macro = np.full((256, 256, 3), 240, np.uint8)
        tif.write(macro, description=description, **options)
        tif.write(image, resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER", **options)
    return path
