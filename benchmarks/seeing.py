"""What a bundle sees in an image in memory, as `lymphinfer predict` sees a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lymphinfer.bundles.loading import Bundle
from lymphinfer.markers.hierarchy import apply_hierarchy
from lymphinfer.markers.patches import cut_patches
from lymphinfer.markers.two_scale import FarMap, FarScale, NearDense
from lymphinfer.nuclei.detector import Detection, polygon_centroids
from lymphinfer.slides.edges import mirrored

Pixels = NDArray[np.uint8]


def at_mpp(pixels: Pixels, mpp: float, to: float) -> Pixels:
    """An image at another pixel size, as a slide's pyramid is read."""
    height, width = pixels.shape[:2]
    size = [max(1, int(np.ceil(n * mpp / to - 1e-6))) for n in (width, height)]
    box = 0, 0, *(min(n * to / mpp, m) for n, m in zip(size, (width, height), strict=True))
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((size[0], size[1]), Image.Resampling.BICUBIC, box=box))


@dataclass(frozen=True)
class Seen:
    """Nuclei of an image.

    Attributes
    ----------
    detection : Detection
    centers : ndarray of float64, (N, 2)
        Centroids, px of the image.
    logits : ndarray of float32, (N, learned markers)
    dense : object
        What the detector returned.
    far : FarMap or None
    """

    detection: Detection
    centers: NDArray[np.float64]
    logits: NDArray[np.float32]
    dense: Any
    far: FarMap | None


def far_map(bundle: Bundle, pixels: Pixels) -> FarMap | None:
    """The far scale of an image at the bundle's pixel size; None where the bundle has none."""
    far = bundle.markers.far
    if far is None:
        return None
    return far_of(far, at_mpp(pixels, bundle.manifest.mpp, far.mpp))


def far_of(far: FarScale, pixels: Pixels) -> FarMap:
    """The far scale of an image at its own pixel size, mirrored beyond its edges."""
    height, width = pixels.shape[:2]
    box = far.box(0, 0, width, height)
    return far.infer(mirrored(pixels, box, (width, height)), box[:2])


def look(bundle: Bundle, pixels: Pixels, far: FarMap | None = None, **frame: Any) -> Seen:
    """Detect and classify.

    Parameters
    ----------
    bundle : Bundle
    pixels : ndarray of uint8, (H, W, 3)
        At the bundle's pixel size.
    far : FarMap, optional
        Of a larger image; of the image itself by default.
    frame : float
        ``corner``: where the image lies in the far map's image, far px.
    """
    dense = bundle.detector.infer(pixels)
    detection = bundle.detector.decode(dense)
    centers = polygon_centroids(detection.polygons)
    far = far or far_map(bundle, pixels)
    logits = classify(bundle, pixels, detection, centers, far, frame.get("corner", (0.0, 0.0)))
    return Seen(detection, centers, logits, dense, far)


def classify(
    bundle: Bundle,
    pixels: Pixels,
    detection: Detection,
    centers: NDArray[np.float64],
    far: FarMap | None,
    corner: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float32]:
    """Marker logits of nuclei."""
    model = bundle.markers
    patches = cut_patches(pixels, centers - 0.5, model.patch_px) if model.patch_px else None
    seen = None
    if far is not None and model.far is not None:
        seen = far.at(centers * (bundle.manifest.mpp / model.far.mpp) + np.array(corner))
    return model.logits(patches, detection, seen)


def classify_points(
    bundle: Bundle, seen: Seen, points: NDArray[np.floating], centers: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Logits of nuclei that are given by points on them, for a bundle of two scales.

    Parameters
    ----------
    points : ndarray of float, (N, K, 2)
    centers : ndarray of float, (N, 2)
    """
    dense, model = seen.dense, bundle.markers
    assert isinstance(dense, NearDense) and seen.far is not None and model.far is not None
    weights = np.full(points.shape[1], 1 / points.shape[1], np.float32)
    near = dense.read_at(points, weights)
    far = seen.far.at(np.asarray(centers) * (bundle.manifest.mpp / model.far.mpp))
    nothing = np.zeros((len(points), 4, 2), np.float32)
    detection = Detection(nothing, np.ones(len(points), np.float32), None, {}, near)
    return model.logits(None, detection, far)


def probabilities(
    bundle: Bundle, logits: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Head outputs, and coherent probabilities as they are written, both (N, markers)."""
    manifest = bundle.manifest
    heads = bundle.markers.head_outputs(logits)
    coherent = apply_hierarchy(
        heads,
        manifest.panel.parent_indices,
        manifest.hierarchy,
        conditional_heads=[m.is_conditional for m in manifest.markers],
    )
    return heads, coherent
