"""Annotations drawn in QuPath and elsewhere: reading them, and the areas that they limit."""

from lymphinfer.annotations.reading import (
    OUT_OF_FOCUS,
    TISSUE,
    UNCLASSIFIED,
    Annotation,
    Annotations,
    read_annotations,
)
from lymphinfer.annotations.roi import Roi, find_roi, read_roi

__all__ = [
    "OUT_OF_FOCUS",
    "TISSUE",
    "UNCLASSIFIED",
    "Annotation",
    "Annotations",
    "Roi",
    "find_roi",
    "read_annotations",
    "read_roi",
]
