"""Choices of the command line, spelled without importing what they stand for."""

from enum import StrEnum


class Format(StrEnum):
    """File formats of ``--format``."""

    zip = "zip"
    geojson_gz = "geojson.gz"
    geojson = "geojson"


class Point(StrEnum):
    """Names of ``--operating-point``."""

    precise = "precise"
    balanced = "balanced"
    sensitive = "sensitive"


class Engine(StrEnum):
    """Where the work is done, ``--engine``."""

    local = "local"
    dask = "dask"


class Hierarchy(StrEnum):
    """Modes of ``--hierarchy``."""

    none = "none"
    clip = "clip"
    conditional = "conditional"
