from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.autofluorescence import PUBLISHED_AF, AfMethod
from lymphinfer.orion.celltable import CellTable
from lymphinfer.orion.cohort_file import ImageTable
from lymphinfer.orion.figure import draw_gates
from lymphinfer.orion.gates import Gate
from lymphinfer.orion.labels import label_cells
from lymphinfer.orion.propose import propose_slide
from lymphinfer.orion.truth import label_quality
from lymphinfer.panel import TCELL_PANEL
from tests.orion.made_cohort import Intensities, make_intensities


def quality(made, **options):
    cells = made.table()
    gates, proposals = propose_slide(cells, TCELL_PANEL, **options)
    for proposal in proposals:
        assert proposal.gate.problems() == []
    labels = label_cells(cells, gates, TCELL_PANEL).labels
    return label_quality(labels, made.truth, TCELL_PANEL), proposals


def test_labels_of_a_common_slide_are_right():
    results, proposals = quality(make_intensities(20_000, artefacts=0.002))
    for result in results:
        assert result.precision > 0.97 and result.recall > 0.8, result
        assert result.negative_precision > 0.999
    assert [p.pool for p in proposals] == ["all", "CD45", "CD3e", "CD3e"]


def test_most_cells_positive_is_no_trouble():
    results, _ = quality(make_intensities(20_000, cd45=0.62, cd3e=0.5))
    assert results[0].precision > 0.98 and results[0].recall > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_rare_markers_are_found(seed):
    """0.5 % CD3e of all cells, and half as many CD4: the paper's ratios."""
    results, _ = quality(make_intensities(30_000, seed, cd45=0.05, cd3e=0.1, artefacts=0.001))
    for result in results:
        assert result.precision > 0.9 and result.recall > 0.7, result


def test_a_rare_marker_without_a_parent_is_found_in_the_tail():
    results, proposals = quality(make_intensities(50_000, cd45=0.005, cd3e=0.0))
    assert proposals[0].method == "tail mixture"
    assert results[0].precision > 0.9 and results[0].recall > 0.85


def test_a_marker_that_no_cell_carries_labels_hardly_any_positive():
    results, _ = quality(make_intensities(20_000, cd45=0.3, cd3e=0.4, cd8=0.0))
    assert results[3].labelled_positive < 0.003 * 20_000


@pytest.mark.parametrize("af", list(AfMethod))
def test_every_correction_keeps_thresholds_apart(af):
    _, proposals = quality(make_intensities(8000), af=af)
    for proposal in proposals:
        correction = proposal.gate.af
        if af is AfMethod.NONE:
            assert correction is None
        elif af is AfMethod.PUBLISHED:
            assert correction == PUBLISHED_AF[proposal.marker]


def test_a_seed_gives_the_same_gates_and_large_slides_are_sampled():
    made = make_intensities(150_000, cd45=0.3)
    a, b, c = (quality(made, seed=seed)[1] for seed in (0, 0, 1))
    assert [p.gate.positive_min for p in a] == [p.gate.positive_min for p in b]
    assert [p.gate.positive_min for p in a] == pytest.approx(
        [p.gate.positive_min for p in c], rel=0.05
    )


def test_kept_gates_stand_and_guide_their_children():
    made = make_intensities(10_000)
    kept = Gate(1.0, 2.0, 3.0, "a person")
    gates, proposals = propose_slide(made.table(), TCELL_PANEL, keep={"CD45": kept})
    assert gates.markers["CD45"] is kept
    assert [p.marker for p in proposals] == ["CD3e", "CD4", "CD8a"]
    assert proposals[0].pool == "all"


def test_bright_blank_cells_are_left_out():
    made = make_intensities(5000)
    made.channels["Argo550"][:4950] = 5000
    with pytest.raises(DataError, match="50 of 5000 cells"):
        propose_slide(made.table(), TCELL_PANEL)
    made.channels["Argo550"][:4950] = 210
    lit = np.arange(5000) < 500
    for name in ("CD45", "CD3e"):
        made.channels[name][lit] = 30_000
    made.channels["Argo550"][lit] = 9000
    results, _ = quality(made)
    assert results[0].precision > 0.97


def windowed(made: Intensities) -> CellTable:
    """Intensities as a picture made for the eye has them: 8 bits, the background cut off."""
    channels = {
        name: np.clip(np.rint((made.channels[name] - 330) / 8), 0, 255)
        for name in TCELL_PANEL.names
    }
    n = len(made.truth)
    return CellTable(Path("made.csv"), np.arange(1, n + 1), np.zeros(n), np.zeros(n), channels)


EIGHT_BITS = ImageTable(channels=TCELL_PANEL.names, saturation=256.0)


def test_where_the_background_is_cut_off_gates_stand_above_the_floor():
    made = make_intensities(40_000, seed=3)
    cells = windowed(made)
    gates, proposals = propose_slide(cells, TCELL_PANEL, image=EIGHT_BITS)
    assert {p.method for p in proposals[:2]} == {"above floor"}
    assert gates.blank_max is None and all(g.af is None for g in gates.markers.values())
    labels = label_cells(cells, gates, TCELL_PANEL).labels
    for i in (0, 1):
        positive, negative = labels[:, i] == 1, labels[:, i] == 0
        assert made.truth[positive, i].mean() > 0.95
        assert made.truth[negative, i].mean() < 0.05
        assert positive.sum() > 0.5 * made.truth[:, i].sum()


def test_what_lies_above_the_floor_may_be_of_one_kind():
    values = np.where(np.arange(3000) % 3 == 0, 120.0, 0.0)
    channels = dict.fromkeys(TCELL_PANEL.names, values)
    zeros = np.zeros(3000)
    cells = CellTable(Path("made.csv"), np.arange(1, 3001), zeros, zeros, channels)
    gates, _ = propose_slide(cells, TCELL_PANEL, image=EIGHT_BITS)
    for gate in gates.markers.values():
        assert 0 < gate.negative_max <= gate.positive_min <= 120


def test_the_picture_of_whole_numbers_has_no_gaps_between_them():
    cells = windowed(make_intensities(40_000, seed=3))
    gates, _ = propose_slide(cells, TCELL_PANEL, image=EIGHT_BITS)
    figure = draw_gates(cells, gates, TCELL_PANEL, "made")
    bars = sorted(figure.axes[0].patches, key=lambda bar: bar.get_x())
    for left, right in pairwise(bars):
        assert left.get_x() + left.get_width() == pytest.approx(right.get_x())
    there = np.bincount(cells.intensities[TCELL_PANEL.names[0]].astype(int))[:30] > 0
    assert [bar.get_height() > 0 for bar in bars[:30]] == there.tolist()
