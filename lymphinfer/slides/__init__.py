"""Slides: open any file, read a region at a pixel size, find tissue, lay the tile grid."""

from lymphinfer.slides.grid import Shard, Tile, TileGrid
from lymphinfer.slides.opening import SLIDE_SUFFIXES, open_slide
from lymphinfer.slides.slide import Slide
from lymphinfer.slides.tissue import TissueMask, tissue_mask

__all__ = [
    "SLIDE_SUFFIXES",
    "Shard",
    "Slide",
    "Tile",
    "TileGrid",
    "TissueMask",
    "open_slide",
    "tissue_mask",
]
