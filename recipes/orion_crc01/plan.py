"""Rows that `recipes.orion_crc01.table1_gpu` trains, in order, and the seconds that each may take.

Four rows of a small network and the paper's twelve, the small network at four patch sizes, and
two other panels. What tells most comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

from lymphinfer.panel import TCELL_PANEL
from recipes.he.crc01 import MPP

PATCH_PX, INPUT_PX = 28, 112
"""36 µm at 1.3 µm/px, enlarged to the side that the paper's backbones see."""

SMALL, CONVNEXT, HOVERNET, VIT = "convnext_atto", "convnext_base", "hovernet-w2", "phikon"

PRETRAINED_ON = ("Pan-CK", "E-cadherin", "CD31", "alpha-SMA", "Ki67", "CD68", "CD163")
"""No lymphocyte's: what tells a network without published weights how tissue looks."""


@dataclass(frozen=True)
class Kind:
    """How a backbone is trained.

    Attributes
    ----------
    batch : int
        Patches a step.
    rate : float
        Highest learning rate, of AdamW, when it is first trained and in every row after that.
    first, mtl, single : float
        Seconds: its first training, a multi-task row, a row of four networks (together).
    val, test : int
        Cells a column that a row is measured on.
    """

    batch: int
    rate: tuple[float, float]
    first: float
    mtl: float
    single: float
    val: int
    test: int


KINDS = {
    SMALL: Kind(256, (2e-3, 1e-3), 16, 16, 28, 4000, 10_000),
    CONVNEXT: Kind(128, (4e-4, 2e-4), 40, 20, 32, 1000, 3000),
    VIT: Kind(192, (4e-4, 2e-4), 20, 12, 18, 1000, 3000),
    HOVERNET: Kind(64, (1e-3, 5e-4), 24, 14, 24, 750, 2000),
}
TITLES = {
    SMALL: "ConvNeXt-Atto 3.4M",
    CONVNEXT: "ConvNeXt 88M",
    HOVERNET: "HoVer-Net, half its channels, 9.5M",
    VIT: "ViT of Phikon 86M",
}


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes
    ----------
    key : str
    group : str
        ``table``, ``size``, ``panel`` or ``bundle``.
    backbone : str
    seconds : float
        Of its own share of the time.
    weighted, multitask : bool
    panel : str
    patch_px : int
        At 1.3 µm/px; enlarged to `INPUT_PX`.
    pretrained : bool
        Begun from the backbone's first training; else from random weights.
    """

    key: str
    group: str
    backbone: str
    seconds: float
    weighted: bool = True
    multitask: bool = True
    panel: str = TCELL_PANEL.name
    patch_px: int = PATCH_PX
    pretrained: bool = True

    @property
    def patch_um(self) -> float:
        """Side of a patch, µm."""
        return self.patch_px * MPP

    @property
    def enlarge(self) -> int:
        """`ClassifierConfig.enlarge`."""
        return INPUT_PX // self.patch_px


def _table(backbone: str) -> tuple[Row, ...]:
    kind = KINDS[backbone]
    order = ((True, True), (False, True), (True, False), (False, False))
    return tuple(
        Row(
            f"{backbone}-{'wbce' if weighted else 'bce'}-{'mtl' if multitask else 'single'}",
            "table",
            backbone,
            kind.mtl if multitask else kind.single,
            weighted,
            multitask,
        )
        for weighted, multitask in order
    )


BUNDLE = Row("bundle", "bundle", SMALL, 60)
PANEL = Row("panel-b-cell-macrophage", "panel", SMALL, 18, panel="b-cell-macrophage")
SIZES = tuple(
    Row(f"size-{px}px", "size", SMALL, 14, patch_px=px, pretrained=False)
    for px in (14, 28, 56, 112)
)
ROWS = (
    BUNDLE,
    *_table(SMALL),
    *_table(CONVNEXT),
    PANEL,
    *SIZES,
    *_table(HOVERNET),
    *_table(VIT),
    Row("panel-immune", "panel", SMALL, 14, panel="immune"),
)
"""In the order in which they are run."""
