"""The paper's figure 4: which field is shown, and whose outlines are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lymphinfer.orion.celltable import CellTable
from lymphinfer.paper.figure4 import Field, choose_field, outline, overlay


def test_the_field_shows_most_of_every_marker():
    x, y = np.array([10.0, 12, 700, 705, 710]), np.array([10.0, 12, 300, 305, 310])
    labels = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [1, 1]], np.int8)
    field = choose_field(x, y, labels, 200, (1000, 800))
    assert field.contains(x, y).tolist() == [False, False, True, True, True]
    assert choose_field(x, y, labels, 800, (1000, 800)).side == 800


def test_outlines_carry_their_cell():
    cells = CellTable(
        Path("c.csv"), np.array([7, 3]), np.array([10.0, 30.0]), np.array([10.0, 30.0]), {}
    )
    mask = np.zeros((40, 40), np.int32)
    mask[5:15, 5:15], mask[25:35, 25:35], mask[0:3, 0:3] = 7, 3, 99
    field = Field(0, 0, 40)
    edges = outline((40, 40), field, cells, mask, 0.325)
    assert set(np.unique(edges)) == {0, 1, 2}
    assert edges[5, 8] == 1
    assert edges[10, 10] == 0
    assert edges[25, 30] == 2
    circles = outline((40, 40), field, cells, None, 0.5)
    assert set(np.unique(circles)) == {0, 1, 2}
    rgb = overlay(mask, mask)
    assert rgb.shape == (40, 40, 3)
    assert 0 <= rgb.min() <= rgb.max() <= 1
