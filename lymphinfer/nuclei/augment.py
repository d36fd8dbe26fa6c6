"""H&E-realistic augmentation: what laboratories and scanners change, not what they cannot."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

CONTRAST_DENSITY = 0.5
"""Natural optical density that a change of contrast leaves as it is: between stroma and nuclei."""

# Haematoxylin, eosin and a residual in optical density (Ruifrok & Johnston 2001).
STAIN_VECTORS = np.array(
    [[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], dtype=np.float64
)


@dataclass(frozen=True)
class Augmentation:
    """Strengths; zero switches a part off.

    Attributes
    ----------
    scale : tuple of float
        Range of the factor on the pixel size.
    rotate : float
        Probability of a rotation by any angle (quarter turns and flips always happen).
    stain : float
        Standard deviation of the log of each stain's concentration.
    stain_vectors : float
        Standard deviation added to the stain vectors' entries.
    brightness : float
        Standard deviation of the offset in optical density, per channel.
    contrast : float
        Standard deviation of the log of the exponent on optical density (`change_contrast`).
    sharpen : float
        Most strength of the unsharp mask that scanners apply; on a third of the images.
    blur : float
        Largest sigma of a Gaussian blur, px.
    jpeg : float
        Probability of JPEG compression at quality 40 to 95.
    noise : float
        Largest standard deviation of pixel noise, grey levels.
    coarse : float
        Probability of a coarser scan: reduced by a factor of 1.25 to 2 and enlarged again, as a
        20x slide looks at the working pixel size.
    veil : float
        Probability of denser cytoplasm or a thicker section here and there (`draw_veil`).
    melanin : float
        Probability of pigment in cells that are no leukocytes (`perturb_pigment`).
    """

    scale: tuple[float, float] = (0.8, 1.25)
    rotate: float = 0.3
    stain: float = 0.2
    stain_vectors: float = 0.03
    brightness: float = 0.03
    contrast: float = 0.1
    sharpen: float = 1.0
    blur: float = 1.0
    jpeg: float = 0.4
    noise: float = 4.0
    coarse: float = 0.15
    veil: float = 0.0
    melanin: float = 0.0


def change_stain(
    image: NDArray[np.uint8],
    *,
    concentration: tuple[float, ...] = (1.0, 1.0, 1.0),
    vector_shift: NDArray[np.floating] | None = None,
    offset: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> NDArray[np.uint8]:
    """Change stain concentrations, hues and illumination in optical density (Beer-Lambert).

    Parameters
    ----------
    image : ndarray of uint8, (..., 3)
        RGB.
    concentration : tuple of float
        Factors on haematoxylin, eosin and the residual.
    vector_shift : ndarray of float, (3, 3), optional
        Added to the unit stain vectors.
    offset : tuple of float
        Added to the optical density of red, green and blue.

    Returns
    -------
    ndarray of uint8, (..., 3)
    """
    unit = STAIN_VECTORS / np.linalg.norm(STAIN_VECTORS, axis=1, keepdims=True)
    target = unit if vector_shift is None else unit + vector_shift
    target = target / np.linalg.norm(target, axis=1, keepdims=True)
    mix = (np.linalg.inv(unit) * np.asarray(concentration)) @ target
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    density = table[image] @ mix.astype(np.float32) + np.asarray(offset, np.float32)
    result: NDArray[np.uint8] = np.clip(256 * np.exp(-density) - 1, 0, 255).astype(np.uint8)
    return result


def change_contrast(image: NDArray[np.uint8], exponent: float) -> NDArray[np.uint8]:
    """Raise optical density to a power, about `CONTRAST_DENSITY`.

    Above 1 dark nuclei turn black and pale stroma white, as overstained sections and scanners set
    to high contrast have it.

    Parameters
    ----------
    image : ndarray of uint8, any shape
    exponent : float
        1 leaves the image as it is.

    Returns
    -------
    ndarray of uint8, of the same shape
    """
    density = -np.log((np.arange(256) + 1) / 256) / CONTRAST_DENSITY
    table = 256 * np.exp(-CONTRAST_DENSITY * density**exponent) - 1
    changed: NDArray[np.uint8] = np.clip(np.rint(table), 0, 255).astype(np.uint8)[image]
    return changed


def draw_veil(
    image: NDArray[np.uint8], rng: np.random.Generator, *, most: float = 0.6
) -> NDArray[np.uint8]:
    """Add haematoxylin and eosin that vary slowly over the image: dense cytoplasm, thick sections.

    Nuclei stand out less from what is around them, whatever they are.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)
        RGB.
    rng : numpy.random.Generator
    most : float
        Highest natural optical density that is added.

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    height, width = image.shape[:2]
    coarse = rng.random((int(rng.integers(2, 9)),) * 2, dtype=np.float32)
    field = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    share = rng.random()
    unit = STAIN_VECTORS[:2] / np.linalg.norm(STAIN_VECTORS[:2], axis=1, keepdims=True)
    colour = (share * unit[0] + (1 - share) * unit[1]).astype(np.float32)
    density = np.clip(field, 0, 1)[..., None] * colour * np.float32(rng.uniform(0, most))
    veiled: NDArray[np.uint8] = np.rint(image * np.exp(-density)).astype(np.uint8)
    return veiled


def paint_melanin(
    image: NDArray[np.uint8], nuclei: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Brown grains around and over nuclei, as keratinocytes of pigmented skin have them.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)
        RGB.
    nuclei : ndarray of bool, (H, W)
        Of the cells that are painted.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    from scipy import ndimage

    if not nuclei.any():
        return image
    distance = ndimage.distance_transform_edt(~nuclei).astype(np.float32)
    around = np.exp(-np.square(distance / np.float32(rng.uniform(3, 9))))
    around[nuclei] = rng.uniform(0.1, 0.8)
    grains = ndimage.gaussian_filter(
        rng.standard_normal(nuclei.shape, dtype=np.float32), rng.uniform(0.8, 2.5)
    )
    grains = np.clip(1 + rng.uniform(0.2, 0.8) * grains / grains.std(), 0, None)
    amount = rng.uniform(0.1, 1.2)
    brown = STAIN_VECTORS[2] / np.linalg.norm(STAIN_VECTORS[2]) + rng.normal(0, 0.05, 3)
    density = (amount * around * grains)[..., None] * brown.astype(np.float32)
    painted: NDArray[np.uint8] = np.clip(np.rint(image * np.exp(-density)), 0, 255).astype(np.uint8)
    return painted


def perturb_pigment(
    image: NDArray[np.uint8],
    instances: NDArray[np.integer],
    leukocyte: NDArray[np.integer],
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> NDArray[np.uint8]:
    """`paint_melanin` at random, on some of the nuclei that are known to be no leukocytes.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)
        RGB.
    instances : ndarray of int, (H, W)
        Labels 1..N; 0 and below is no nucleus.
    leukocyte : ndarray of int, (N + 1,)
        As in `lymphinfer.nuclei.datasets.AnnotatedImage`.
    rng : numpy.random.Generator
    augmentation : Augmentation

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    if not augmentation.melanin or rng.random() >= augmentation.melanin:
        return image
    painted = leukocyte == 0
    painted &= rng.random(len(painted)) < rng.uniform(0.2, 1)
    return paint_melanin(image, painted[np.maximum(instances, 0)], rng)


def perturb_stain(
    image: NDArray[np.uint8], rng: np.random.Generator, augmentation: Augmentation
) -> NDArray[np.uint8]:
    """`change_stain` and `change_contrast` at random.

    Parameters
    ----------
    image : ndarray of uint8, (..., 3)
        RGB.
    rng : numpy.random.Generator
    augmentation : Augmentation

    Returns
    -------
    ndarray of uint8, (..., 3)
    """
    shift = rng.normal(0, augmentation.stain_vectors, (3, 3))
    concentration = np.exp(rng.normal(0, augmentation.stain, 3))
    offset = rng.normal(0, augmentation.brightness, 3)
    if augmentation.veil and rng.random() < augmentation.veil:
        image = draw_veil(image, rng)
    stained = change_stain(
        image,
        concentration=tuple(concentration),
        vector_shift=shift,
        offset=tuple(offset),
    )
    if not augmentation.contrast:
        return stained
    return change_contrast(stained, float(np.exp(rng.normal(0, augmentation.contrast))))


def perturb_optics(
    image: NDArray[np.uint8], rng: np.random.Generator, augmentation: Augmentation
) -> NDArray[np.uint8]:
    """A coarser scan, blur, sharpening, sensor noise and JPEG compression, each at random.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)
    rng : numpy.random.Generator
    augmentation : Augmentation

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    picture = Image.fromarray(image)
    if rng.random() < augmentation.coarse:
        factor = rng.uniform(1.25, 2.0)
        small = [max(1, round(s / factor)) for s in picture.size]
        reduced = picture.resize((small[0], small[1]), Image.Resampling.BOX)
        picture = reduced.resize(picture.size, Image.Resampling.BILINEAR)
    if augmentation.blur and rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, augmentation.blur)))
    if augmentation.sharpen and rng.random() < 0.33:
        strength = int(100 * rng.uniform(0, augmentation.sharpen))
        picture = picture.filter(ImageFilter.UnsharpMask(rng.uniform(0.5, 2.0), strength, 0))
    if augmentation.noise and rng.random() < 0.3:
        noisy = np.asarray(picture, np.float32) + rng.normal(
            0, rng.uniform(0, augmentation.noise), image.shape
        ).astype(np.float32)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if rng.random() < augmentation.jpeg:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
        picture = Image.open(buffer).convert("RGB")
    return np.asarray(picture)


class Crop(NamedTuple):
    """A square cut from an annotated image.

    Attributes
    ----------
    image : ndarray of uint8, (size, size, 3)
        RGB.
    instances : ndarray of int32, (size, size)
        -1 where the crop reaches over the image's edge.
    prob : ndarray of float32, (size, size)
        Object probability.
    """

    image: NDArray[np.uint8]
    instances: NDArray[np.int32]
    prob: NDArray[np.float32]


def random_crop(
    source: Crop,
    *,
    size_px: int,
    zoom: float,
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> Crop:
    """Cut a square at random, resampled, rotated and mirrored.

    Parameters
    ----------
    source : Crop
        The whole image with its maps, any size.
    size_px : int
        Side of the result, px.
    zoom : float
        Source pixels per result pixel (working pixel size over the image's), before jitter.
    rng : numpy.random.Generator
    augmentation : Augmentation

    Returns
    -------
    Crop
    """
    zoom = zoom * float(np.exp(rng.uniform(*np.log(augmentation.scale))))
    turn = rng.random() < augmentation.rotate
    side = int(np.ceil(size_px * zoom * (2**0.5 if turn else 1)))
    height, width = source.instances.shape
    pad = max(0, side - height), max(0, side - width)
    if any(pad):
        widths = tuple((p // 2, p - p // 2) for p in pad)
        source = Crop(
            np.pad(source.image, (*widths, (0, 0)), mode="reflect"),
            np.pad(source.instances, widths, constant_values=-1),
            np.pad(source.prob, widths),
        )
    top = int(rng.integers(0, source.instances.shape[0] - side + 1))
    left = int(rng.integers(0, source.instances.shape[1] - side + 1))
    window = slice(top, top + side), slice(left, left + side)
    angle = float(rng.uniform(0, 360)) if turn else 0.0
    edge = (side - size_px * zoom) / 2
    box = (edge, edge, side - edge, side - edge)
    soft = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.integers(2))]
    quarter, mirror = int(rng.integers(4)), rng.random() < 0.5

    def transform(
        plane: NDArray[Any], fill: Any, kernel: Image.Resampling, turning: Image.Resampling
    ) -> NDArray[Any]:
        picture = Image.fromarray(np.ascontiguousarray(plane[window]))
        if turn:
            picture = picture.rotate(angle, turning, fillcolor=fill)
        array = np.asarray(picture.resize((size_px, size_px), kernel, box=box))
        array = np.rot90(array, quarter)
        return np.ascontiguousarray(array[:, ::-1] if mirror else array)

    linear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    return Crop(
        transform(source.image, (255, 255, 255), soft, linear),
        transform(source.instances, -1, nearest, nearest).astype(np.int32),
        transform(source.prob, 0.0, linear, linear).astype(np.float32),
    )
