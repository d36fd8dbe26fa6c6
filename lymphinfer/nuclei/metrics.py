"""Detection and segmentation quality, by the definitions of the HoVer-Net paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SegmentationScore:
    """Means over images.

    Attributes
    ----------
    f1 : float
        F1 of instances matched at IoU 0.5, pooled over the images.
    f1_by_image, sq, pq : float
        Detection quality (F1), segmentation quality (mean IoU of the matched) and panoptic quality
        (Kirillov et al. 2019), each the mean over images, as Graham et al. 2019 report them.
    dice : float
        Dice coefficient of the foreground, mean over images.
    """

    f1: float
    f1_by_image: float
    sq: float
    pq: float
    dice: float


def score_segmentation(
    truth: Sequence[NDArray[np.integer]], predicted: Sequence[NDArray[np.integer]]
) -> SegmentationScore:
    """Score instance maps, image by image, with stardist's own matching.

    Parameters
    ----------
    truth, predicted : sequence of ndarray of int, (H, W)
        Label maps, 0 background; the two of one image equal in shape.

    Returns
    -------
    SegmentationScore
    """
    from stardist.matching import matching

    rows, dice = [], []
    for t, p in zip(truth, predicted, strict=True):
        rows.append(matching(t, p, thresh=0.5, criterion="iou"))
        total = np.count_nonzero(t) + np.count_nonzero(p)
        dice.append(2 * np.count_nonzero((t > 0) & (p > 0)) / total if total else 1.0)
    tp, fp, fn = (sum(getattr(r, k) for r in rows) for k in ("tp", "fp", "fn"))
    return SegmentationScore(
        f1=float(2 * tp / max(1, 2 * tp + fp + fn)),
        f1_by_image=float(np.mean([r.f1 for r in rows])),
        sq=float(np.mean([r.mean_matched_score for r in rows])),
        pq=float(np.mean([r.panoptic_quality for r in rows])),
        dice=float(np.mean(dice)),
    )
