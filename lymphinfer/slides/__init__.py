"""Slides: open any file, read a region at a pixel size, find tissue, lay the tile grid."""

from lymphinfer.slides.grid import Shard, Tile, TileGrid
from lymphinfer.slides.opening import SLIDE_SUFFIXES, open_slide
from lymphinfer.slides.slide import Slide
from lymphinfer.slides.stain_check import check_stain
from lymphinfer.slides.tissue import TissueMask, tissue_mask

__all__ = [
    "SLIDE_SUFFIXES",
    "Shard",
    "Slide",
    "Tile",
    "TileGrid",
    "TissueMask",
    "check_stain",
    "open_slide",
    "tissue_mask",
]
