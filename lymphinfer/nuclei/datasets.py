"""Annotated fields of view from disk: an RGB image, its instance map and what is known of each."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.errors import DataError

INFLAMMATORY = 2  # CoNSeP's class of leukocytes (Graham et al. 2019, the seven-class numbering)


@dataclass(frozen=True)
class AnnotatedImage:
    """A field of view with its nuclei.

    Attributes
    ----------
    name : str
        ``<set>/<stem>``.
    image : ndarray of uint8, (H, W, 3)
        RGB.
    instances : ndarray of int32, (H, W)
        Labels 1..N, 0 background.
    mpp : float
        µm/px.
    leukocyte : ndarray of int8, (N + 1,)
        By label: 1 leukocyte, 0 another nucleus, -1 unknown. Entry 0 (background) is -1.
    """

    name: str
    image: NDArray[np.uint8]
    instances: NDArray[np.int32]
    mpp: float
    leukocyte: NDArray[np.int8] = field(repr=False)

    @property
    def n_nuclei(self) -> int:
        """Number of labels."""
        return len(self.leukocyte) - 1


def split_touching(mask: NDArray[np.bool_], *, min_distance_px: int = 8) -> NDArray[np.int32]:
    """Cut a binary mask of nuclei into instances: watershed on the smoothed distance map.

    Parameters
    ----------
    mask : ndarray of bool, (H, W)
        Nuclei, touching ones merged.
    min_distance_px : int
        Least distance between two nuclei's centres.

    Returns
    -------
    ndarray of int32, (H, W)
        Labels 1..N.
    """
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask).astype(np.float32), 2.0)
    components, _ = ndimage.label(mask)
    peaks = peak_local_max(
        distance, min_distance=min_distance_px, labels=components, exclude_border=False
    )
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels: NDArray[np.int32] = watershed(-distance, markers, mask=mask).astype(np.int32)
    return labels


def read_annotated(path: Path, *, mpp: float = 0.25) -> AnnotatedImage:
    """Read one image and the labels that lie beside it.

    ``<stem>.npz`` with ``inst_map`` (H, W) and, optionally, ``nucleus_id`` and ``class7`` (CoNSeP's
    classes); or ``<stem>_mask.png``, a binary mask whose touching nuclei are cut apart.

    Parameters
    ----------
    path : Path
        The image (PNG or JPEG).
    mpp : float
        Its pixel size, µm/px.

    Returns
    -------
    AnnotatedImage

    Raises
    ------
    DataError
        Labels are missing or have another size than the image.
    """
    image = np.asarray(Image.open(path).convert("RGB"))
    labels_path = path.with_suffix(".npz")
    mask_path = path.with_name(f"{path.stem}_mask.png")
    classes: dict[int, int] = {}
    if labels_path.exists():
        with np.load(labels_path, allow_pickle=False) as archive:
            instances = archive["inst_map"].astype(np.int32)
            if "class7" in archive:
                classes = dict(
                    zip(archive["nucleus_id"].tolist(), archive["class7"].tolist(), strict=True)
                )
    elif mask_path.exists():
        instances = split_touching(np.asarray(Image.open(mask_path).convert("L")) > 127)
    else:
        raise DataError(
            f"{path}: no labels beside it; expected {labels_path.name} (inst_map), "
            f"{mask_path.name} or QuPath's {path.stem}.geojson"
        )
    if instances.shape != image.shape[:2]:
        raise DataError(
            f"{path}: image {image.shape[:2]} and labels {instances.shape} differ in size"
        )
    ids, sequential = np.unique(instances, return_inverse=True)
    if ids[0] != 0:
        ids = np.concatenate([[0], ids])
        sequential = sequential + 1
    leukocyte = np.full(len(ids), -1, np.int8)
    for label, old in enumerate(ids.tolist()):
        if label and old in classes:
            leukocyte[label] = int(classes[old] == INFLAMMATORY)
    return AnnotatedImage(
        name=f"{path.parent.name}/{path.stem}",
        image=image,
        instances=sequential.reshape(instances.shape).astype(np.int32),
        mpp=mpp,
        leukocyte=leukocyte,
    )


def read_folder(
    folder: Path,
    *,
    mpp: float = 0.25,
    without: Container[Path] = (),
    may_be_empty: bool = False,
) -> list[AnnotatedImage]:
    """Every annotated image of a folder, by name, but those in `without`.

    Raises
    ------
    DataError
        The folder is missing or holds no image, unless it may.
    """
    paths = sorted(
        p
        for p in (folder.iterdir() if folder.is_dir() else ())
        if p.suffix.lower() in {".png", ".jpg", ".jpeg"}
        and not p.stem.endswith("_mask")
        and p not in without
    )
    if not paths and not may_be_empty:
        raise DataError(f"{folder}: no annotated image found (PNG or JPEG with labels beside it)")
    return [read_annotated(p, mpp=mpp) for p in paths]
