"""The paper's Table 1: AUROC and balanced accuracy on ORION's test set, by backbone and training.

Rows are in the paper's order; each cell is (AUROC, balanced accuracy at 0.5) for the markers of the
T-cell panel, in panel order.
"""

from __future__ import annotations

from dataclasses import dataclass

Cell = tuple[float, float]


@dataclass(frozen=True)
class PaperRow:
    """One row of the table.

    Attributes
    ----------
    backbone : str
        As the configuration names it.
    title : str
        As the paper names it.
    weighted, multitask : bool
        WBCE; one backbone with a head a marker.
    cells : tuple of tuple of float
        (AUROC, balanced accuracy) by marker; empty where the paper has no such row.
    """

    backbone: str
    title: str
    weighted: bool
    multitask: bool
    cells: tuple[Cell, ...] = ()

    @property
    def key(self) -> str:
        """Short name, for ``--rows`` and folders: ``convnext_base-wbce-mtl``."""
        loss = "wbce" if self.weighted else "bce"
        return f"{self.backbone}-{loss}-{'mtl' if self.multitask else 'single'}"


def _rows(backbone: str, title: str, *cells: tuple[Cell, ...]) -> tuple[PaperRow, ...]:
    kinds = ((False, False), (True, False), (False, True), (True, True))
    return tuple(
        PaperRow(backbone, title, weighted, multitask, values)
        for (weighted, multitask), values in zip(kinds, cells or ((),) * 4, strict=True)
    )


TABLE_1: tuple[PaperRow, ...] = (
    *_rows(
        "convnext_base",
        "ConvNeXt 88M",
        ((0.96, 0.89), (0.90, 0.81), (0.90, 0.68), (0.88, 0.54)),
        ((0.96, 0.88), (0.92, 0.84), (0.91, 0.83), (0.87, 0.79)),
        ((0.96, 0.89), (0.94, 0.87), (0.92, 0.51), (0.90, 0.58)),
        ((0.95, 0.85), (0.93, 0.85), (0.89, 0.80), (0.87, 0.76)),
    ),
    *_rows(
        "hovernet",
        "HoVer-Net 39M",
        ((0.95, 0.87), (0.91, 0.82), (0.92, 0.66), (0.88, 0.51)),
        ((0.95, 0.88), (0.91, 0.83), (0.92, 0.84), (0.88, 0.79)),
        ((0.96, 0.89), (0.94, 0.85), (0.93, 0.50), (0.90, 0.53)),
        ((0.94, 0.87), (0.93, 0.86), (0.92, 0.86), (0.90, 0.80)),
    ),
    *_rows(
        "phikon",
        "ViT Phikon 88M",
        ((0.89, 0.78), (0.79, 0.70), (0.85, 0.65), (0.73, 0.50)),
        ((0.91, 0.80), (0.80, 0.70), (0.83, 0.74), (0.73, 0.64)),
        ((0.91, 0.82), (0.82, 0.73), (0.82, 0.50), (0.76, 0.52)),
        ((0.89, 0.77), (0.81, 0.73), (0.80, 0.73), (0.74, 0.65)),
    ),
)

PATCH_SIZE_AUROC: dict[int, float] = {32: 0.92, 96: 0.95, 112: 0.96}
"""The paper's patch-size study: AUROC of the panel's first marker by patch side, px."""


def rows_of(backbone: str) -> tuple[PaperRow, ...]:
    """Return the four rows of a backbone, with the paper's numbers where it has them."""
    found = tuple(row for row in TABLE_1 if row.backbone == backbone)
    if found:
        return found
    if backbone == "phikon-resize":
        titles = [row for row in TABLE_1 if row.backbone == "phikon"]
        return _rows(backbone, titles[0].title, *(row.cells for row in titles))
    return _rows(backbone, backbone)
