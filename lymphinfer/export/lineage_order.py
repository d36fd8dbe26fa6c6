"""Features in the order of their classes' lineage, as QuPath must meet them.

QuPath makes the parents of a derived class when it first reads one, with colours of its own, and
the first colour of a class stays. So a parent's own nuclei stand before those of its children, in
every part of the file: QuPath may read any part first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Self

from lymphinfer.panel import OTHER, Panel

_BLOCK = 4096

Lineages = Sequence[tuple[int, ...]]


def call_lineages(panel: Panel) -> list[tuple[int, ...]]:
    """For each of ``panel.calls`` the indices of its ancestors in it, the root first.

    Examples
    --------
    >>> from lymphinfer.panel import TCELL_PANEL
    >>> call_lineages(TCELL_PANEL)
    [(), (), (1,), (1, 2), (1, 2)]
    """
    return [
        () if call == OTHER else tuple(panel.calls.index(n) for n in panel.lineage(call)[:-1])
        for call in panel.calls
    ]


def deal(counts: Sequence[int], lineages: Lineages, size: int) -> list[list[int]]:
    """Share the features of each class out to parts, so that no child is without its ancestors.

    Derived classes are kept to as few parts as they fill, the deepest first, and each of these gets
    one feature of every ancestor, for as long as there are any.

    Parameters
    ----------
    counts : sequence of int
        Features of each class.
    lineages : sequence of tuple of int
        Ancestors of each class.
    size : int
        Features in a part; the last has what is left.

    Returns
    -------
    list of list of int
        For each part the features of each class in it.

    Examples
    --------
    Five of a child and two of its parent, in parts of four:

    >>> deal([2, 5], [(), (0,)], 4)
    [[1, 3], [1, 2]]
    """
    left = list(counts)
    deepest_first = sorted(range(len(left)), key=lambda k: -len(lineages[k]))
    parts = []
    while any(left):
        part, free = [0] * len(left), size
        for k in deepest_first:
            wanted = [a for a in lineages[k] if left[a] and not part[a]]
            if not left[k] or free <= len(wanted):
                continue
            number = min(left[k], free - len(wanted))
            for which, n in [*((a, 1) for a in wanted), (k, number)]:
                part[which] += n
                left[which] -= n
                free -= n
        parts.append(part)
    return parts


class ClassSpool:
    """Features of a file by class, on disk until all are known; memory holds none of them.

    Parameters
    ----------
    lineages : sequence of tuple of int
        Ancestors of each class.
    folder : Path
        Where there is room for them: as much as the file takes uncompressed.
    """

    def __init__(self, lineages: Lineages, folder: Path):
        self.lineages = lineages
        self.counts = [0] * len(lineages)
        self._folder = folder
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        for _ in self.lineages:
            file = tempfile.TemporaryFile(dir=self._folder)
            self._files.append(self._stack.enter_context(file))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, which: int, features: Sequence[bytes]) -> None:
        """Keep features of a class; none has a line break."""
        self._files[which].writelines(text + b"\n" for text in features)
        self.counts[which] += len(features)

    def parts(self, size: int | None = None) -> Iterator[Iterator[list[bytes]]]:
        """Hand the features out again, class after class in each part, parents first.

        Parameters
        ----------
        size : int, optional
            Features in a part; by default there is one part with all of them.

        Yields
        ------
        iterator of list of bytes
            A part's features in blocks, to be used up before the next part.
        """
        for file in self._files:
            file.seek(0)
        for numbers in deal(self.counts, self.lineages, size or max(1, sum(self.counts))):
            yield self._blocks(numbers)

    def _blocks(self, numbers: Sequence[int]) -> Iterator[list[bytes]]:
        for which in sorted(range(len(numbers)), key=lambda k: len(self.lineages[k])):
            for first in range(0, numbers[which], _BLOCK):
                lines = islice(self._files[which], min(_BLOCK, numbers[which] - first))
                yield [line[:-1] for line in lines]
