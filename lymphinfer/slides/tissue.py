"""Where the tissue is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from lymphinfer.slides.outline import draw, outline, polygons
from lymphinfer.slides.tissue_color import tissue_pixels

if TYPE_CHECKING:
    from lymphinfer.slides.area import Area
    from lymphinfer.slides.slide import RGB, Slide

Mask = NDArray[np.bool_]

_FAT_GAP_UM = 60.0
"""Half the width of the largest cell of fat; walls that a coarse picture loses join two."""
_FAT_WALL_UM = 12.0
_FAT_NET_UM2 = 60_000.0
_FAT_WALLS = 0.06, 0.7
"""Share of walls in a net of fat."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of a slide on a coarse grid that starts at level-0 (0, 0).

    Attributes
    ----------
    mask : ndarray of bool, (rows, columns)
        Tissue, with the margin that `tissue_mask` adds.
    mpp : float
        Pixel size of the mask, µm/px.
    downsample : float
        Level-0 px per mask px.
    area_mm2 : float
        Tissue area before the margin, mm²; 0.0 on an empty slide.
    outline : BaseGeometry
        The tissue before the margin, level-0 px: Polygon or MultiPolygon, maybe empty.
    glass : bool
        Whether glass was found to tell tissue from; without any, all that is seen is tissue.
    steep : bool
        Whether the glass shades so steeply that glass may count as tissue.
    """

    mask: Mask
    mpp: float
    downsample: float
    area_mm2: float
    outline: BaseGeometry = field(default_factory=shapely.MultiPolygon)
    glass: bool = True
    steep: bool = False

    @cached_property
    def _cumulative(self) -> NDArray[np.int64]:
        """Tissue pixels above and left of each corner, (rows + 1, columns + 1)."""
        return np.pad(self.mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def fraction_in(
        self, x_level0: ArrayLike, y_level0: ArrayLike, w: ArrayLike, h: ArrayLike
    ) -> NDArray[np.float64]:
        """Fraction of tissue among the mask pixels that rectangles touch.

        Parameters
        ----------
        x_level0, y_level0, w, h : array_like of float
            Corner and size of each rectangle, level-0 px; broadcast against each other.

        Returns
        -------
        ndarray of float64
            0.0 to 1.0, of the broadcast shape; 0.0 for a rectangle outside the slide.
        """
        x, y, width, height = (np.asarray(v, dtype=np.float64) for v in (x_level0, y_level0, w, h))
        rows, columns = self.mask.shape
        x0, x1 = _touched(x / self.downsample, (x + width) / self.downsample, columns)
        y0, y1 = _touched(y / self.downsample, (y + height) / self.downsample, rows)
        total = self._cumulative
        inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
        return np.asarray(inside / np.maximum((x1 - x0) * (y1 - y0), 1), dtype=np.float64)


def _touched(
    start: NDArray[np.float64], end: NDArray[np.float64], size: int | NDArray[np.integer]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Half-open pixel range that an interval touches, cut to [0, size)."""
    first = np.clip(np.floor(start + 1e-6), 0, size).astype(np.intp)
    last = np.clip(np.ceil(end - 1e-6), 0, size).astype(np.intp)
    return first, np.maximum(last, first)


def tissue_mask(
    slide: Slide,
    mpp_um: float = 8.0,
    *,
    margin_um: float = 30.0,
    min_area_um2: float = 2000.0,
    max_hole_um2: float = 20_000.0,
    roi: Area | None = None,
    given: Area | None = None,
    threads: int = 4,
) -> TissueMask:
    """Find tissue by colour on a coarse read of the slide, or take what is given as tissue.

    Pen marks, black borders and grey dirt are left out. Specks are dropped, small holes and the
    cells of fat filled; then a margin is added, since a missed edge costs more than an empty tile.

    Parameters
    ----------
    slide : Slide
        An open slide.
    mpp_um : float
        Pixel size of the mask, µm/px.
    margin_um : float
        Margin around the tissue, µm.
    min_area_um2 : float
        A smaller island is a speck.
    max_hole_um2 : float
        A larger hole stays.
    roi : Area, optional
        Only tissue inside it counts; what is a speck or a hole does not depend on it.
    given : Area, optional
        What is tissue, instead of looking for it: the slide is not read.
    threads : int
        Strips read at once; memory is that of `threads` strips.

    Returns
    -------
    TissueMask
        Without any tissue if the slide is empty, which is no error.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    if given is not None:
        return _given(slide, mpp_um, given, roi)
    tissue, glass = tissue_pixels(_thumbnail(slide, mpp_um, threads))
    pixel_um2 = mpp_um**2
    # Limits of specks and holes must neither empty nor fill a field of view that is hardly larger.
    min_px = min(min_area_um2 / pixel_um2, 0.05 * tissue.size)
    # Fat is a net of thin walls, each small: what the margin joins counts as one island.
    islands, sizes = _islands(_dilated(tissue, margin_um / mpp_um), weights=tissue)
    tissue &= (sizes >= min_px)[islands]
    tissue |= _fat(tissue, mpp_um)
    holes, sizes = _islands(~tissue)
    tissue |= (sizes < min(max_hole_um2 / pixel_um2, 0.05 * tissue.size))[holes]
    if roi is not None:
        tissue &= roi.mask(tissue.shape, mpp_um / slide.mpp)
    width, height = (n * slide.mpp / mpp_um for n in slide.dimensions)
    # The last column and row reach beyond the slide: they count as far as they lie on it.
    columns = np.clip(width - np.arange(tissue.shape[1]), 0, 1)
    rows = np.clip(height - np.arange(tissue.shape[0]), 0, 1)
    return TissueMask(
        _dilated(tissue, margin_um / mpp_um),
        mpp_um,
        mpp_um / slide.mpp,
        float(rows @ tissue @ columns) * pixel_um2 / 1e6,
        outline(tissue, mpp_um / slide.mpp, slide.dimensions),
        glass is not None,
        glass is not None and glass.is_steep,
    )


def _given(slide: Slide, mpp: float, given: Area, roi: Area | None) -> TissueMask:
    """Take the mask of annotations: every pixel that they touch, and their exact area."""
    area = given.area if roi is None else polygons(shapely.intersection(given.area, roi.area))
    width, height = slide.dimensions_at(mpp)
    step = mpp / slide.mpp
    touched = draw(area, (height, width), step)
    # Pixels whose centre lies outside, and slivers between the centres of two.
    x, y = shapely.get_coordinates(shapely.segmentize(area, step / 2)).T / step
    touched[np.clip(y.astype(np.intp), 0, height - 1), np.clip(x.astype(np.intp), 0, width - 1)] = (
        True
    )
    return TissueMask(touched, mpp, step, area.area * slide.mpp**2 / 1e6, area)


def _thumbnail(slide: Slide, mpp: float, threads: int) -> RGB:
    """Read the whole slide at `mpp`, in strips."""
    width, height = slide.dimensions_at(mpp)
    step = 64
    out = np.empty((height, width, 3), dtype=np.uint8)

    def read(top: int) -> None:
        rows = min(step, height - top)
        out[top : top + rows] = slide.read_region(0, top, width, rows, mpp)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, height, step)))
    return out


def _islands(
    mask: Mask, weights: Mask | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Label islands joined by sides or corners.

    Returns
    -------
    labels : ndarray of int32, (rows, columns)
        0 outside the mask.
    sizes : ndarray of float64, (labels,)
        Pixels of `weights` (of the mask without it) in each; infinite for label 0.
    """
    from scipy import ndimage

    labels = np.empty(mask.shape, dtype=np.int32)
    count = ndimage.label(mask, structure=np.ones((3, 3)), output=labels)
    counted = mask if weights is None else weights & mask
    sizes = np.bincount(labels[counted], minlength=count + 1).astype(np.float64)
    sizes[0] = np.inf
    return labels, sizes


def _dilated(mask: Mask, radius_px: float) -> Mask:
    from scipy import ndimage

    if not mask.any() or radius_px <= 0:
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius_px)


def _eroded(mask: Mask, radius_px: float) -> Mask:
    """The picture's edge takes nothing away: tissue goes on beyond it."""
    from scipy import ndimage

    if mask.all():
        return mask
    return np.asarray(ndimage.distance_transform_edt(mask) > radius_px)


def _fat(tissue: Mask, mpp: float) -> Mask:
    """Cells of fat: gaps as wide as one, in large nets of thin walls.

    A ragged edge or a slit has gaps as narrow, but makes no net.
    """
    from scipy import ndimage

    if not tissue.any():
        return tissue
    gap, wall = _FAT_GAP_UM / mpp, _FAT_WALL_UM / mpp
    closed = tissue | _eroded(_dilated(tissue, gap), gap)
    net = closed & ~_dilated(_eroded(tissue, wall), wall)
    labels, count = ndimage.label(net)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    walls = np.bincount(labels[tissue], minlength=count + 1) / np.maximum(sizes, 1)
    fat = sizes >= _FAT_NET_UM2 / mpp**2
    fat &= (walls > _FAT_WALLS[0]) & (walls < _FAT_WALLS[1])
    fat[0] = False
    return np.asarray(fat[labels])
