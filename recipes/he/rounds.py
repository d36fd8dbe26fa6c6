"""The rounds in which `recipes.he.detector` trains the detector: how long, on what, how changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lymphinfer.nuclei.augment import Augmentation

# The network misfits its own training images, outlines above all, long before it knows them by
# heart. Crops are turned by quarters only, which leaves outlines as they were drawn.
MILD = Augmentation(
    scale=(0.9, 1.12),
    rotate=0.0,
    stain=0.15,
    stain_vectors=0.02,
    brightness=0.02,
    contrast=0.0,
    sharpen=0.0,
    blur=0.7,
    jpeg=0.25,
    noise=3.0,
    coarse=0.1,
)
# Then other laboratories and 20x slides, and in the end scanners of high contrast that sharpen.
WIDE = replace(
    MILD,
    scale=(0.8, 1.25),
    stain=0.3,
    stain_vectors=0.04,
    brightness=0.05,
    blur=1.0,
    jpeg=0.3,
    noise=4.0,
    coarse=0.25,
)
STRONG = replace(
    WIDE, scale=(0.87, 1.15), stain_vectors=0.03, brightness=0.03, contrast=0.3, sharpen=2.0
)
BETWEEN = replace(MILD, scale=(0.85, 1.2), contrast=0.25, sharpen=1.5, stain=0.25)


@dataclass(frozen=True)
class Round:
    """A round of training; `keep` is the share of its initial weights in its result.

    Weights between those before and after (Wortsman et al. 2022) score as high on held-out images
    and keep more of what later crops do not show; the share was chosen there. `looks` are the steps
    whose moving averages share the rest equally; by default the last. `by_organ` is of
    `open_sets.load`. `everything` trains on CoNSeP's held-out images too: nothing is chosen by
    such a round. `small_epithelium` shows epithelium also as sections that shrink have it;
    `without_purple` leaves out the spleen whose colours are those of epithelium. Nuclei of TNBC
    are labelled by teachers, where the call names some.
    """

    steps: int
    learning_rate: float
    augmentation: Augmentation
    shares: tuple[float, ...]
    overlap_share: float
    marker_share: float
    keep: float
    marker_doubt: tuple[float, float] = (0.0, 0.0)
    looks: tuple[int, ...] = ()
    by_organ: bool = False
    everything: bool = False
    small_epithelium: bool = False
    without_purple: bool = False
    batch_size: int = 8


BY_ORGAN = Round(
    3000,
    1.5e-3,
    replace(STRONG, scale=(0.8, 1.2)),
    shares=(0.5, 0.2, 0.17, 0.1, 0.03),
    overlap_share=0.5,
    marker_share=0.4,
    keep=0.4,
    marker_doubt=(0.01, 0.07),
    looks=(2000, 3000),
    by_organ=True,
)
WHOLE = replace(
    BY_ORGAN,
    steps=2500,
    learning_rate=1e-3,
    augmentation=replace(STRONG, scale=(0.85, 1.2)),
    shares=(0.56, 0.14, 0.13, 0.08, 0.09),
    marker_share=0.3,
    marker_doubt=(0.02, 0.1),
    looks=(1500, 2500),
    everything=True,
)
ROUNDS = (
    Round(3700, 3e-3, MILD, (0.7, 0.15, 0.12, 0.01, 0.02), 0.0, 0.5, 0.0),
    Round(4000, 1.5e-3, WIDE, (0.65, 0.15, 0.16, 0.01, 0.03), 0.5, 0.5, 0.2),
    Round(1800, 1.2e-3, STRONG, (0.6, 0.2, 0.16, 0.01, 0.03), 0.5, 0.3, 0.4),
    BY_ORGAN,
    WHOLE,
    # The last looks see images nearly as they are.
    replace(
        WHOLE,
        steps=1500,
        learning_rate=7e-4,
        augmentation=replace(MILD, contrast=0.2, sharpen=1.0),
        shares=(0.62, 0.12, 0.1, 0.06, 0.1),
        looks=(1000, 1500),
    ),
    # Begun from half 0.4.0 and half round 6. Lymphoid tissue cost other laboratories' AUROC.
    replace(
        WHOLE,
        learning_rate=7e-4,
        augmentation=BETWEEN,
        shares=(0.61, 0.13, 0.12, 0.02, 0.12),
        keep=0.0,
        small_epithelium=True,
        without_purple=True,
    ),
    # On a GPU, begun from 0.5.0, with TNBC labelled by 0.4.0 and 0.5.0. Both took the nuclei of a
    # pigmented epidermis, dense and dark as no training image is, for leukocytes.
    replace(
        WHOLE,
        steps=3148,
        augmentation=replace(STRONG, scale=(0.82, 1.22), melanin=0.3, veil=0.3),
        shares=(0.57, 0.14, 0.13, 0.03, 0.12),
        marker_share=0.4,
        keep=0.0,
        looks=(2204, 2676, 3148),
        small_epithelium=True,
        batch_size=32,
    ),
)
