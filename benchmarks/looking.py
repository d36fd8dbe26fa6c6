"""What a bundle sees of an image, and what it says of nuclei that others have outlined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from seeing import Seen, classify_points
from seeing import look as see

from lymphinfer.bundles.loading import Bundle
from lymphinfer.markers.patches import cut_patches
from lymphinfer.markers.two_scale import NearMarkers
from lymphinfer.nuclei.detector import Detection
from lymphinfer.nuclei.stardist.detector import StarDistDetector, TilePrediction
from lymphinfer.training.detectors.stardist import pool_over_instances

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """What a bundle sees in one image.

    Attributes
    ----------
    detection : Detection
    labels : ndarray of int32, (H, W)
        The same nuclei as a label map.
    centers : ndarray of float, (M, 2)
        Their centroids, working px.
    cd45_logit : ndarray of float32, (M,)
    prediction : TilePrediction
    whole : Seen
    """

    detection: Detection
    labels: NDArray[np.int32]
    centers: NDArray[np.float64]
    cd45_logit: NDArray[np.float32]
    prediction: TilePrediction
    whole: Seen


def stardist_of(bundle: Bundle) -> StarDistDetector:
    found = bundle.own_detector
    if not isinstance(found, StarDistDetector):
        raise SystemExit(
            "this benchmark draws StarDist's polygons; the bundle has another detector"
        )
    return found


def is_two_scale(bundle: Bundle) -> bool:
    return isinstance(bundle.detector, NearMarkers)


def look(bundle: Bundle, pixels: Pixels) -> Look:
    seen = see(bundle, pixels)
    detector = stardist_of(bundle)
    prediction = seen.dense.dense if is_two_scale(bundle) else seen.dense
    found = detector.polygons(prediction.dense)
    across, down = prediction.scale
    shape = round(pixels.shape[0] * down), round(pixels.shape[1] * across)
    labels = found.label_image(shape)
    if shape != pixels.shape[:2]:
        size = pixels.shape[1::-1]
        labels = np.asarray(
            Image.fromarray(labels, mode="I").resize(size, Image.Resampling.NEAREST), np.int32
        )
    return Look(seen.detection, labels, seen.centers, seen.logits[:, 0], prediction, seen)


def logits_of_instances(
    bundle: Bundle, pixels: Pixels, instances: NDArray[np.int32], n: int, seen: Look
) -> NDArray[np.float32]:
    """CD45 logit (N,) of annotated nuclei, at their centroids or over their areas; NaN for none."""
    model = bundle.markers
    if not model.patch_px and not is_two_scale(bundle):
        grid, dense = stardist_of(bundle).config.grid, seen.prediction.dense.marker_logit
        assert dense is not None
        return pool_over_instances(dense[:1], instances[::grid, ::grid], n)[:, 0]
    centers = np.array(ndimage.center_of_mass(instances > 0, instances, np.arange(1, n + 1)))
    known = np.isfinite(centers).all(axis=1)
    centers = np.nan_to_num(centers)[:, ::-1]
    if is_two_scale(bundle):
        inside = points_of_instances(instances, n)
        logits = classify_points(bundle, seen.whole, inside, centers + 0.5)[:, 0]
    else:
        patches = cut_patches(pixels, centers, model.patch_px)
        logits = model.logits(patches, seen.detection)[:, 0]
    logits[~known] = np.nan
    return logits


def points_of_instances(
    instances: NDArray[np.int32], n: int, count: int = 16
) -> NDArray[np.float64]:
    """Pixels spread evenly over each label, as points (n, count, 2); zeros for a label without."""
    order = np.argsort(instances, axis=None, kind="stable")
    ids = np.arange(1, n + 1)
    first, end = (
        np.searchsorted(instances.ravel()[order], ids, side) for side in ("left", "right")
    )
    share = (np.arange(count) + 0.5) / count
    which = first[:, None] + (share * (end - first)[:, None]).astype(int)
    rows, columns = np.divmod(order[np.minimum(which, len(order) - 1)], instances.shape[1])
    points = np.stack([columns, rows], axis=-1) + 0.5
    return np.where((end > first)[:, None, None], points, 0.0)


def logits_at_points(
    bundle: Bundle, pixels: Pixels, points: NDArray[np.float64], seen: Look
) -> NDArray[np.float32]:
    """CD45 logit (N,) at points, by a patch around each or the dense head within 2.5 µm."""
    model = bundle.markers
    if model.patch_px:
        patches = cut_patches(pixels, points - 0.5, model.patch_px)
        return model.logits(patches, seen.detection)[:, 0]
    radius = 2.5 / bundle.manifest.mpp
    if is_two_scale(bundle):
        angle = np.arange(8) * np.pi / 4
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        around = np.concatenate([np.zeros((1, 2)), 0.45 * radius * ring, 0.85 * radius * ring])
        return classify_points(bundle, seen.whole, points[:, None] + around, points)[:, 0]
    dense, grid = seen.prediction.dense.marker_logit, stardist_of(bundle).config.grid
    assert dense is not None
    h, w = dense.shape[1:]
    yy, xx = np.mgrid[:h, :w] * grid
    return np.array(
        [dense[0][(xx - x) ** 2 + (yy - y) ** 2 <= radius**2].mean() for x, y in points], np.float32
    )
