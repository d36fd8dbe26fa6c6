"""What is asked of a slide's areas: compartments, margins, aggregates, hot spots, scores."""

from lymphinfer.regions.asking import Margin, RegionOptions, read_margins
from lymphinfer.regions.measuring import Measured, measure_regions
from lymphinfer.regions.writing import RegionsDone, write_all_regions, write_regions

__all__ = [
    "Margin",
    "Measured",
    "RegionOptions",
    "RegionsDone",
    "measure_regions",
    "read_margins",
    "write_all_regions",
    "write_regions",
]
