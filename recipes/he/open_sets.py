"""The open data sets as the shipped networks are trained on them: splits, pixel sizes, labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lymphinfer.nuclei.datasets import AnnotatedImage, read_folder

# Held out for thresholds, calibration and early looks: cut from the training parts, never the test.
CONSEP_HELD_OUT = {"train_8", "train_16", "train_22"}
TNBC_HELD_OUT_PATIENTS = {"10", "11"}

# NuInsSeg names no pixel size. Lymphocytes of its spleen and tonsil measure 7.6 µm at 0.25 µm/px,
# those of CoNSeP and TNBC 3.6 to 4.2.
NUINSSEG_MPP, ASSUMED_MPP = 0.16, 0.25
NUINSSEG_HELD_OUT = range(601, 665, 3)
# Its images are numbered by organ. Nearly all nuclei of spleen and tonsil are leukocytes; hardly
# any are in squamous epithelium, salivary gland, placenta, brain, muscle, pancreas and testis.
LYMPHOID = {*range(376, 398, 3), *range(451, 461, 3)}
# Spleen in colours that squamous epithelium has too.
PURPLE = {388, 391, 394, 397}
EPITHELIUM = {
    *(163, 166, 175, 178, 181, 190, 193, 199),
    *(202, 205, 208, 211, 217, 220, 223, 226, 229, 232, 238),
    *range(256, 296, 3),
}
NO_LEUKOCYTES = EPITHELIUM | {
    *range(10, 23, 3),
    *(37, 40, 43, 46),
    *(157, 169, 184),
    *(298, 301, 304),
    *(322, 340, 343, 349, 352, 358, 361),
    *(400, 403, 406),
    *(415, 418, 427, 433, 445),
    *(523, 526, 529, 532, 535, 538, 544, 547),
}
# Right of this column image 193 shows stroma with leukocytes.
EPITHELIUM_LEFT_OF = {193: 230}
# Nuclei of NuInsSeg's epithelium measure 6 to 7 µm; those of an epidermis that shrank in the
# paraffin, or of another pixel size than is stated, 5.
SHRUNK = 0.72
SETS = ("consep", "tnbc", "nuinsseg", "lymphoid", "epithelium")


def split(
    images: Sequence[AnnotatedImage], held_out: Callable[[str], bool]
) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """Images to train on, and those held out by their stems."""
    stems = [i.name.rsplit("/", 1)[1] for i in images]
    return (
        [i for i, s in zip(images, stems, strict=True) if not held_out(s)],
        [i for i, s in zip(images, stems, strict=True) if held_out(s)],
    )


def load(
    data: Path, *, by_organ: bool = True
) -> tuple[dict[str, list[AnnotatedImage]], dict[str, list[AnnotatedImage]]]:
    """Training images by the names of `SETS`, and held-out images.

    Without `by_organ` NuInsSeg has no labels, and the pixel size that was assumed at first.
    """
    consep = split(read_folder(data / "consep" / "train"), CONSEP_HELD_OUT.__contains__)
    tnbc = split(read_folder(data / "tnbc"), lambda s: s.split("_")[0] in TNBC_HELD_OUT_PATIENTS)
    nuinsseg = read_folder(data / "nuinsseg", mpp=NUINSSEG_MPP if by_organ else ASSUMED_MPP)
    if by_organ:
        nuinsseg = [labelled(i) for i in nuinsseg]
    special = {*LYMPHOID, *EPITHELIUM, *NUINSSEG_HELD_OUT}
    return (
        {
            "consep": consep[0],
            "tnbc": tnbc[0],
            "nuinsseg": [i for i in nuinsseg if organ(i) not in special],
            "lymphoid": [i for i in nuinsseg if organ(i) in LYMPHOID],
            "epithelium": [i for i in nuinsseg if organ(i) in EPITHELIUM],
        },
        {
            "consep": consep[1],
            "tnbc": tnbc[1],
            "nuinsseg": [i for i in nuinsseg if organ(i) in NUINSSEG_HELD_OUT],
        },
    )


def organ(image: AnnotatedImage) -> int:
    """Number of an image of NuInsSeg, which stands for its organ."""
    return int(image.name.rsplit("/", 1)[1])


def shrunk(image: AnnotatedImage) -> AnnotatedImage:
    """The same image, all of it as small as shrunken sections have it."""
    return replace(image, mpp=SHRUNK * image.mpp)


def labelled(image: AnnotatedImage) -> AnnotatedImage:
    """An image of NuInsSeg whose nuclei are labelled by its organ, where that says enough."""
    number = organ(image)
    if number not in LYMPHOID | NO_LEUKOCYTES:
        return image
    leukocyte = np.full_like(image.leukocyte, int(number in LYMPHOID))
    leukocyte[image.instances[:, EPITHELIUM_LEFT_OF.get(number, image.image.shape[1]) :]] = -1
    leukocyte[0] = -1
    return replace(image, leukocyte=leukocyte)
