"""The same picture in every layout: the same nuclei and the same markers."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from lymphinfer.cells.naming import PARTS
from lymphinfer.cells.parts import list_parts
from lymphinfer.slides import open_slide

from ..slides.made import APERIO, halved
from ..slides.made_czi import write_czi
from ..slides.test_zarr_and_addresses import write_zarr
from .reading import pixels, predict, run_case

TILE = 256
DEFLATE = {"photometric": "rgb", "compression": "deflate", "tile": (TILE, TILE)}
TAGS = {"resolution": (40_000, 40_000), "resolutionunit": 3, "metadata": None}
LAYOUTS = (
    "svs", "tiff", "ome-subifds", "reduced-pages", "macro-first", "two-regions", "planar",
    "jpeg-ycbcr", "jpeg-rgb", "jpeg-ycbcr-tagged-rgb", "jpeg-rgb-tagged-ycbcr", "jpeg2000",
    "ome-zarr", "dicom", "czi",
)  # fmt: skip
# Lossy or not, 1 px of level 0 and 2 % of what is expected are kept.
MOST_PX, MOST_SHARE = 1.0, 0.02


def named(name: str, mpp: float = 0.25) -> dict[str, object]:
    return {"axes": "YXS", "Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}


def write_jpeg(path, image, space: str, tag: int) -> None:
    def tiles():
        for y in range(0, image.shape[0], TILE):
            for x in range(0, image.shape[1], TILE):
                tile = np.full((TILE, TILE, 3), 243, np.uint8)
                part = image[y : y + TILE, x : x + TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield imagecodecs.jpeg8_encode(
                    tile, level=99, colorspace="RGB", outcolorspace=space, subsampling="444"
                )

    tifffile.imwrite(path, tiles(), shape=image.shape, dtype=np.uint8, photometric="rgb",
                     compression="jpeg", tile=(TILE, TILE), **TAGS)  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(tag)


def write(folder, layout: str, image: np.ndarray):
    path = folder / ("a.ome.tif" if layout in ("ome-subifds", "macro-first", "two-regions")
                     else "a.svs" if layout == "svs" else "a.tif")  # fmt: skip
    half = halved(image)
    if layout == "svs":
        height, width = image.shape[:2]
        jpeg = DEFLATE | {
            "compression": "jpeg", "compressionargs": {"level": 99}
        }  # fmt: skip
        with tifffile.TiffWriter(path) as tif:
            for each in (image, half):
                text = APERIO.format(width=width, height=height, mpp=0.25)
                tif.write(each, description=text, metadata=None, **jpeg)
    elif layout == "tiff":
        tifffile.imwrite(path, image, **DEFLATE, **TAGS)
    elif layout == "ome-subifds":
        with tifffile.TiffWriter(path, ome=True) as tif:
            tif.write(image, subifds=1, metadata=named("scan"), **DEFLATE)
            tif.write(half, subfiletype=1, **DEFLATE)
    elif layout == "reduced-pages":
        with tifffile.TiffWriter(path) as tif:
            tif.write(image, **DEFLATE, **TAGS)
            tif.write(half, subfiletype=1, metadata=None, **DEFLATE)
    elif layout == "macro-first":
        with tifffile.TiffWriter(path, ome=True) as tif:
            tif.write(np.ascontiguousarray(half[::8, ::8]), metadata=named("macro", 16), **DEFLATE)
            tif.write(image, metadata=named("scan"), **DEFLATE)
    elif layout == "two-regions":
        with tifffile.TiffWriter(path, ome=True) as tif:
            tif.write(image, metadata=named("Region 1"), **DEFLATE)
            tif.write(np.ascontiguousarray(half[::-1]), metadata=named("Region 2"), **DEFLATE)
    elif layout == "planar":
        planes = np.ascontiguousarray(np.moveaxis(image, 2, 0))
        tifffile.imwrite(path, planes, planarconfig="separate", **DEFLATE, **TAGS)
    elif layout == "jpeg2000":
        tifffile.imwrite(path, image, **(DEFLATE | {"compression": "jpeg2000"}), **TAGS)
    elif layout == "ome-zarr":
        return write_zarr(folder / "a.ome.zarr", image, "0.4")
    elif layout == "czi":
        pytest.importorskip("pylibCZIrw", reason="needs the extra `czi`")
        return write_czi(folder / "a.czi", {0: (image, (-5000, 300))}, levels=(2, 4))
    else:
        space = "YCBCR" if layout.startswith("jpeg-ycbcr") else "RGB"
        wrong = "tagged" in layout
        write_jpeg(path, image, space, 6 if (space == "YCBCR") != wrong else 2)
    return path


def found(result) -> tuple[np.ndarray, float]:
    """Centres of all nuclei, (n, 2), level-0 px, and the expected number of CD45."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(part) for part in list_parts(result.folder / PARTS)]
    centres = np.concatenate([np.stack([t.column("x"), t.column("y")], axis=1) for t in tables])
    return centres, result.summary["markers"]["CD45"]["expected"]


def decoded(slide, path):
    """The pixels of a lossy slide in a plain file."""
    with open_slide(slide) as opened:
        image = opened.read_region(0, 0, *opened.dimensions, opened.mpp)
    tifffile.imwrite(path, image, **DEFLATE, **TAGS)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = run_case("07_jpeg_colours", tmp_path_factory.mktemp("picture"))
    return pixels(folder / "ref.tif"), folder / "ref.tif"


@pytest.fixture(scope="module")
def reference(picture, tmp_path_factory):
    return found(predict(picture[1], tmp_path_factory.mktemp("reference")))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_nuclei_and_the_numbers_of_the_plain_one(
    picture, reference, tmp_path, layout
):
    from scipy.spatial import cKDTree

    if layout == "dicom":
        slide = run_case("16_dicom_folder", tmp_path) / "dicom" / "case_A" / "00000001.dcm"
        # The case stores JPEG of quality 95: what it decodes to is the picture to compare with.
        reference = found(predict(decoded(slide, tmp_path / "plain.tif"), tmp_path / "plain"))
    else:
        slide = write(tmp_path, layout, picture[0])
    if layout == "svs":
        # Chroma of half the size is another picture: compare with what another reader makes of it.
        plain = tmp_path / "plain.tif"
        tifffile.imwrite(plain, tifffile.imread(slide, key=0), **DEFLATE, **TAGS)
        reference = found(predict(plain, tmp_path / "plain"))
    centres, expected = found(predict(slide, tmp_path / "out"))
    assert len(reference[0]) == 260
    assert abs(len(centres) - len(reference[0])) <= 1
    distance, _ = cKDTree(centres).query(reference[0])
    assert np.sort(distance)[-2] <= MOST_PX
    assert expected == pytest.approx(reference[1], rel=MOST_SHARE)
