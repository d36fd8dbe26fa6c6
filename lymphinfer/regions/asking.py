"""What is asked of a slide's regions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lymphinfer.errors import AnnotationError


@dataclass(frozen=True)
class Margin:
    """Bands along the border of a class.

    Attributes
    ----------
    class_name : str
        As in the annotations, upper or lower case.
    edges_um : tuple of float
        Distances from the border, µm, ascending: 100 and 500 give the bands from 0 to 100 and from
        100 to 500, inside and outside.
    """

    class_name: str
    edges_um: tuple[float, ...]

    @property
    def bands_um(self) -> tuple[tuple[float, float], ...]:
        """(from, to) of each band, µm."""
        return tuple(zip((0.0, *self.edges_um[:-1]), self.edges_um, strict=True))


@dataclass(frozen=True)
class RegionOptions:
    """Settings of a measurement; those that the results state.

    Attributes
    ----------
    margins : tuple of Margin
    radius_um : float
        Neighbours of a nucleus are counted within it.
    aggregate_um : float
        Nuclei of an aggregate lie no further from each other: DBSCAN's eps.
    aggregate_least : int
        Nuclei within `aggregate_um` of a core one, itself among them: DBSCAN's min_samples.
    block_um : float
        Side of the blocks between which densities are compared.
    grid_um : float
        Side of the cells in which hot spots are looked for.
    """

    margins: tuple[Margin, ...] = ()
    radius_um: float = 50.0
    aggregate_um: float = 25.0
    aggregate_least: int = 10
    block_um: float = 250.0
    grid_um: float = 250.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        margins = {margin.class_name: list(margin.edges_um) for margin in self.margins}
        return {**vars(self), "margins": margins}


@dataclass
class _Found:
    name: str
    edges: set[float] = field(default_factory=set)


def read_margins(texts: Iterable[str]) -> tuple[Margin, ...]:
    """Read margins as they are typed: a class, a colon, and its distances in µm.

    Parameters
    ----------
    texts : iterable of str
        ``"Tumor:500"``, ``"Tumor: Positive:100,500"``; those of one class are joined.

    Returns
    -------
    tuple of Margin

    Raises
    ------
    AnnotationError
        One is not written like this.

    Examples
    --------
    >>> read_margins(["Tumor:500,100"])
    (Margin(class_name='Tumor', edges_um=(100.0, 500.0)),)
    """
    found: dict[str, _Found] = {}
    for text in texts:
        name, _, numbers = text.rpartition(":")
        try:
            edges = {float(number) for number in numbers.split(",")}
        except ValueError:
            edges = set()
        good = all(0 < edge < math.inf for edge in edges)
        if not (name.strip() and edges and good):
            raise AnnotationError(
                f"--margin {text}: not a class and its distances in µm; write it like Tumor:500 or "
                "Tumor:100,500"
            )
        key = name.strip().casefold()
        found.setdefault(key, _Found(name.strip())).edges.update(edges)
    return tuple(Margin(row.name, tuple(sorted(row.edges))) for row in found.values())
