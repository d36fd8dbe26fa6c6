"""Annotated images in the layouts of the public sets: PanNuke's arrays, MoNuSeg's outlines.

``DIR/<stem>.png`` with ``<stem>.npz`` or ``<stem>_mask.png`` beside it is `read_folder`'s own, and
a slide or image with QuPath's GeoJSON beside it that of `lymphinfer.nuclei.drawn`.
PanNuke: a fold's ``images.npy`` (N, 256, 256, 3) and ``masks.npy`` (N, 256, 256, 6), whose second
channel holds inflammatory cells. MoNuSeg: ``Tissue Images/<stem>.tif`` and
``Annotations/<stem>.xml``, an outline a nucleus in ImageScope's format.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from lymphinfer.errors import DataError
from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder
from lymphinfer.nuclei.drawn import draw_outlines, drawn_beside, read_drawn
from lymphinfer.slides import SLIDE_SUFFIXES

PANNUKE_INFLAMMATORY, PANNUKE_CLASSES = 1, 5


def read_any_folder(folder: Path, *, mpp: float = 0.25) -> list[AnnotatedImage]:
    """Every annotated image of a folder, in whichever of the layouts it is.

    Parameters
    ----------
    folder : Path
    mpp : float
        Pixel size of the images, µm/px.

    Returns
    -------
    list of AnnotatedImage

    Raises
    ------
    DataError
        No layout is recognised, or annotations are missing or do not fit.
    """
    images, masks = (sorted(folder.rglob(name)) for name in ("images.npy", "masks.npy"))
    if images and len(images) == len(masks):
        pairs = zip(images, masks, strict=True)
        return [item for i, m in pairs for item in _pannuke(i, m, mpp)]
    annotations = sorted((folder / "Annotations").glob("*.xml"))
    if annotations:
        return [_monuseg(path, folder / "Tissue Images", mpp) for path in annotations]
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    beside = {
        path: labels
        for path in found
        if path.suffix.lower() in SLIDE_SUFFIXES and (labels := drawn_beside(path)) is not None
    }
    drawn = [item for p, labels in beside.items() for item in read_drawn(p, labels, mpp=mpp)]
    return [*drawn, *read_folder(folder, mpp=mpp, without=beside, may_be_empty=bool(drawn))]


def _pannuke(images: Path, masks: Path, mpp: float) -> list[AnnotatedImage]:
    try:
        pictures = np.load(images, mmap_mode="r", allow_pickle=False)
        labels = np.load(masks, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{images.parent}: not PanNuke's arrays ({error})") from error
    if pictures.shape[:3] != labels.shape[:3] or labels.ndim != 4:
        raise DataError(f"{images}: {pictures.shape} and {masks}: {labels.shape} differ")
    found = []
    for i in range(len(pictures)):
        instances = np.zeros(labels.shape[1:3], np.int32)
        leukocyte = [-1]
        for kind in range(PANNUKE_CLASSES):
            plane = np.asarray(labels[i, ..., kind])
            for value in np.unique(plane[plane > 0]):
                instances[plane == value] = len(leukocyte)
                leukocyte.append(int(kind == PANNUKE_INFLAMMATORY))
        picture = np.ascontiguousarray(pictures[i]).round().astype(np.uint8)
        name = f"{images.parent.name}/{i:05d}"
        found.append(AnnotatedImage(name, picture, instances, mpp, np.array(leukocyte, np.int8)))
    return found


def _monuseg(path: Path, folder: Path, mpp: float) -> AnnotatedImage:
    picture = next(iter(sorted(folder.glob(f"{path.stem}.*"))), None)
    if picture is None:
        raise DataError(f"{path}: no image {path.stem} in {folder}")
    image = np.asarray(Image.open(picture).convert("RGB"))
    try:
        regions = ElementTree.parse(path).iter("Region")
        outlines = [
            np.array(
                [(float(v.get("X", "nan")), float(v.get("Y", "nan"))) for v in r.iter("Vertex")]
            )
            for r in regions
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not ImageScope's annotations ({error})") from error
    instances = draw_outlines([o for o in outlines if len(o) > 2], (image.shape[0], image.shape[1]))
    unknown = np.full(int(instances.max(initial=0)) + 1, -1, np.int8)
    return AnnotatedImage(f"{path.parent.parent.name}/{path.stem}", image, instances, mpp, unknown)
