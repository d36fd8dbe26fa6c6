"""Detection and segmentation quality, by the definitions of the HoVer-Net paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

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
    aji : float
        Aggregated Jaccard index, mean over images.
    """

    f1: float
    f1_by_image: float
    sq: float
    pq: float
    dice: float
    aji: float


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

    rows, dice, aji = [], [], []
    for t, p in zip(truth, predicted, strict=True):
        rows.append(matching(t, p, thresh=0.5, criterion="iou"))
        aji.append(aggregated_jaccard(t, p))
        total = np.count_nonzero(t) + np.count_nonzero(p)
        dice.append(2 * np.count_nonzero((t > 0) & (p > 0)) / total if total else 1.0)
    tp, fp, fn = (sum(getattr(r, k) for r in rows) for k in ("tp", "fp", "fn"))
    return SegmentationScore(
        f1=float(2 * tp / max(1, 2 * tp + fp + fn)),
        f1_by_image=float(np.mean([r.f1 for r in rows])),
        sq=float(np.mean([r.mean_matched_score for r in rows])),
        pq=float(np.mean([r.panoptic_quality for r in rows])),
        dice=float(np.mean(dice)),
        aji=float(np.mean(aji)),
    )


def aggregated_jaccard(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017) of two instance maps.

    Every true instance takes the predicted one of the largest IoU; the intersections of these pairs
    are divided by their unions and the area of all that is left over. As in HoVer-Net's evaluation,
    a predicted instance may serve several true ones.

    Parameters
    ----------
    truth, predicted : ndarray of int, (H, W)
        Label maps, 0 background.

    Returns
    -------
    float
        In [0, 1]; 1 for two empty maps.
    """
    true_ids, t = np.unique(truth, return_inverse=True)
    pred_ids, p = np.unique(predicted, return_inverse=True)
    overlap = np.zeros((len(true_ids), len(pred_ids)), np.int64)
    np.add.at(overlap, (t.ravel(), p.ravel()), 1)
    area_true, area_pred = overlap.sum(axis=1), overlap.sum(axis=0)
    rows, columns = true_ids != 0, pred_ids != 0
    overlap, area_true, area_pred = (
        overlap[np.ix_(rows, columns)],
        area_true[rows],
        area_pred[columns],
    )
    if not len(area_true) and not len(area_pred):
        return 1.0
    if not len(area_true) or not len(area_pred):
        return 0.0
    union = area_true[:, None] + area_pred[None] - overlap
    best = (overlap / union).argmax(axis=1)
    paired = overlap.max(axis=1) > 0
    index = np.flatnonzero(paired)
    used = np.unique(best[paired])
    inter = overlap[index, best[index]].sum()
    total = union[index, best[index]].sum() + area_true[~paired].sum()
    total += np.delete(area_pred, used).sum()
    return float(inter / total)


@dataclass(frozen=True)
class CentroidPairs:
    """Nuclei paired by their centroids.

    Attributes
    ----------
    truth, predicted : ndarray of int, (K,)
        Indices of the two of each pair.
    """

    truth: NDArray[np.intp]
    predicted: NDArray[np.intp]


def pair_centroids(
    truth: NDArray[np.floating], predicted: NDArray[np.floating], radius: float
) -> CentroidPairs:
    """Pair two sets of points one to one, the sum of distances least, none beyond a radius.

    HoVer-Net's pairing (Graham et al. 2019), with a radius of 12 px at 0.25 µm/px there.

    Parameters
    ----------
    truth, predicted : ndarray of float, (N, 2) and (M, 2)
        In one unit.
    radius : float
        In the same unit.

    Returns
    -------
    CentroidPairs
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if not len(truth) or not len(predicted):
        nothing = np.empty(0, np.intp)
        return CentroidPairs(nothing, nothing)
    distance = cdist(truth, predicted)
    rows, columns = linear_sum_assignment(distance)
    near = distance[rows, columns] <= radius
    return CentroidPairs(rows[near], columns[near])


@dataclass(frozen=True)
class DetectionCounts:
    """What HoVer-Net's detection and classification F1 are computed from; addable over images.

    Attributes
    ----------
    paired, missed, superfluous : int
        Pairs; true nuclei and predicted nuclei without a partner.
    both, wrongly_called, not_called : int
        Among the pairs: of the class in both, in the prediction only, in the truth only.
    missed_class, superfluous_class : int
        Of the nuclei without a partner, those of the class.
    """

    paired: int = 0
    missed: int = 0
    superfluous: int = 0
    both: int = 0
    wrongly_called: int = 0
    not_called: int = 0
    missed_class: int = 0
    superfluous_class: int = 0

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def f1_detection(self) -> float:
        """F_d of Graham et al. 2019: 2 TP / (2 TP + FP + FN) over the pairs."""
        return 2 * self.paired / max(1, 2 * self.paired + self.missed + self.superfluous)

    @property
    def f1_class(self) -> float:
        """F_c of Graham et al. 2019 for the class: a wrong class counts twice, a lost nucleus once.

        2 TP / (2 TP + 2 (FP_c + FN_c) + FP_d + FN_d), all within the class.
        """
        errors = 2 * (self.wrongly_called + self.not_called)
        errors += self.missed_class + self.superfluous_class
        return 2 * self.both / max(1, 2 * self.both + errors)


def count_detections(
    pairs: CentroidPairs, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> DetectionCounts:
    """Counts of one image for `DetectionCounts`.

    Parameters
    ----------
    pairs : CentroidPairs
    truth, predicted : ndarray of bool, (N,) and (M,)
        Whether each nucleus is of the class.

    Returns
    -------
    DetectionCounts
    """
    t, p = truth[pairs.truth], predicted[pairs.predicted]
    lost = np.delete(truth, pairs.truth)
    extra = np.delete(predicted, pairs.predicted)
    return DetectionCounts(
        paired=len(t),
        missed=len(lost),
        superfluous=len(extra),
        both=int((t & p).sum()),
        wrongly_called=int((~t & p).sum()),
        not_called=int((t & ~p).sum()),
        missed_class=int(lost.sum()),
        superfluous_class=int(extra.sum()),
    )
