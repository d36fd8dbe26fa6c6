"""Features in the order of their classes' lineage, as QuPath must meet them.

QuPath makes the parents of a derived class when it first reads one, with colours of its own, and
the first colour of a class stays. So a parent's own nuclei stand before those of its children, in
every part of the file: QuPath may read any part first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, Self

import pyarrow as pa

from lymphinfer.panel import OTHER, Panel

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
    """Nuclei of a file by class, on disk until all are known; memory holds one batch of each class.

    Parameters
    ----------
    lineages : sequence of tuple of int
        Ancestors of each class.
    folder : Path
        Where there is room for them: some 200 bytes a nucleus of 16 vertices.
    """

    def __init__(self, lineages: Lineages, folder: Path):
        self.lineages = lineages
        self.counts = [0] * len(lineages)
        self._folder = folder
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}

    def __enter__(self) -> Self:
        for _ in self.lineages:
            file = tempfile.TemporaryFile(dir=self._folder)
            self._files.append(self._stack.enter_context(file))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, which: int, nuclei: pa.Table) -> None:
        """Keep nuclei of a class; the tables of a class have one schema."""
        if not nuclei.num_rows:
            return
        if which not in self._writers:
            self._writers[which] = pa.ipc.new_stream(self._files[which], nuclei.schema)
        self._writers[which].write_table(nuclei)
        self.counts[which] += nuclei.num_rows

    def parts(self, size: int | None = None) -> Iterator[Iterator[pa.Table]]:
        """Hand the nuclei out again, class after class in each part, parents first.

        Parameters
        ----------
        size : int, optional
            Nuclei in a part; by default there is one part with all of them.

        Yields
        ------
        iterator of pyarrow.Table
            A part's nuclei in tables of any sizes, to be used up before the next part.
        """
        for writer in self._writers.values():
            writer.close()
        batches = [self._read(which) for which in range(len(self._files))]
        for numbers in deal(self.counts, self.lineages, size or max(1, sum(self.counts))):
            yield self._part(numbers, batches)

    def _read(self, which: int) -> Iterator[pa.Table]:
        """A class' nuclei as they were added."""
        if not self.counts[which]:
            return
        self._files[which].seek(0)
        with pa.ipc.open_stream(self._files[which]) as stream:
            for batch in stream:
                yield pa.Table.from_batches([batch])

    def _part(
        self, numbers: Sequence[int], batches: list[Iterator[pa.Table]]
    ) -> Iterator[pa.Table]:
        for which in sorted(range(len(numbers)), key=lambda k: len(self.lineages[k])):
            wanted = numbers[which]
            while wanted:
                table = next(batches[which])
                if table.num_rows > wanted:
                    batches[which] = chain([table.slice(wanted)], batches[which])
                    table = table.slice(0, wanted)
                wanted -= table.num_rows
                yield table
