"""From dense maps to nuclei: TIAToolbox's watershed, then outlines along pixel edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lymphinfer.nuclei.hovernet.infer import DenseMaps
from lymphinfer.nuclei.hovernet.tiatoolbox import hovernet_module

PUBLISHED_MPP = 0.25
VERTICES = 48
"""Vertices of an outline, evenly spaced; the table keeps at most 16 of them."""


@dataclass(frozen=True)
class Instances:
    """Nuclei of one image, px of the network's input, the first pixel's outer corner at (0, 0).

    Attributes
    ----------
    outlines : ndarray of float32, (N, VERTICES, 2)
        (x, y).
    probability : ndarray of float32, (N,)
        Mean of the nucleus probability over the nucleus.
    kinds : ndarray of float32, (N, n_types)
        Share of the nucleus's pixels that are of each type, background left out.
    labels : ndarray of int32, (N,)
        Its label in the instance map.
    """

    outlines: NDArray[np.float32]
    probability: NDArray[np.float32]
    kinds: NDArray[np.float32]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)


def instance_map(maps: DenseMaps, mpp: float = PUBLISHED_MPP) -> NDArray[np.int32]:
    """Label map (H, W) of the nuclei by TIAToolbox's post-processing.

    It stretches the gradients to the range found in the image, so an outline depends a little on
    what else is in the image.

    Parameters
    ----------
    maps : DenseMaps
    mpp : float
        Pixel size of the maps, µm/px; the filters' sizes follow it.

    Returns
    -------
    ndarray of int32, (H, W)
    """
    if not (maps.nucleus >= 0.5).any():
        return np.zeros(maps.nucleus.shape, np.int32)
    process = hovernet_module().HoVerNet._proc_np_hv
    # In tenths, which keeps the gradient's kernel of 20 px times the factor plus 1 odd.
    factor = max(1, round(10 * PUBLISHED_MPP / mpp)) / 10
    options = {} if factor == 1 else {"scale_factor": factor}
    return np.asarray(process(maps.nucleus[..., None], maps.distance, **options), np.int32)


def trace(mask: NDArray[np.bool_], vertices: int = VERTICES) -> NDArray[np.float32] | None:
    """Outer outline of a mask, evenly spaced.

    Parameters
    ----------
    mask : ndarray of bool, (H, W)
    vertices : int

    Returns
    -------
    ndarray of float32, (vertices, 2), or None
        (x, y) of the longest outline, the first pixel's outer corner at (0, 0); None where a mask
        has none.
    """
    from skimage.measure import find_contours

    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    if not contours:
        return None
    # One pixel of padding is taken back, and half a pixel added from centre to corner.
    ring = max(contours, key=len)[:, ::-1] - 0.5
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(ring, axis=0), axis=1))])
    at = np.linspace(0, length[-1], vertices, endpoint=False)
    return np.stack([np.interp(at, length, v) for v in ring.T], axis=1).astype(np.float32)


def describe(labels: NDArray[np.int32], maps: DenseMaps, n_types: int) -> Instances:
    """Outline, probability and types of each label, by descending probability.

    Parameters
    ----------
    labels : ndarray of int32, (H, W)
    maps : DenseMaps
    n_types : int
        Without background.

    Returns
    -------
    Instances
    """
    from scipy import ndimage

    outlines, probability, kinds, kept = [], [], [], []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        mask = labels[box] == label
        outline = trace(mask)
        if outline is None:
            continue
        outlines.append(outline + np.array((box[1].start, box[0].start), np.float32))
        probability.append(maps.nucleus[box][mask].mean())
        if maps.kind is not None:
            count = np.bincount(maps.kind[box][mask], minlength=n_types + 1)
            kinds.append(count[1 : n_types + 1] / mask.sum())
        kept.append(label)
    order = np.argsort(-np.asarray(probability), kind="stable")
    n = len(kept)
    return Instances(
        np.asarray(outlines, np.float32).reshape(n, VERTICES, 2)[order],
        np.asarray(probability, np.float32)[order],
        np.asarray(kinds, np.float32).reshape(n, n_types if maps.kind is not None else 0)[order],
        np.asarray(kept, np.int32)[order],
    )


def majority(kinds: NDArray[np.float32]) -> NDArray[np.intp]:
    """Type of each nucleus, 1 to n, 0 where no pixel has one; as HoVer-Net, never background."""
    if not kinds.shape[1]:
        return np.zeros(len(kinds), np.intp)
    return np.where(kinds.max(axis=1) > 0, kinds.argmax(axis=1) + 1, 0)
