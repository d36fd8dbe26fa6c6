import numpy as np
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.gates import AfCorrection, Gate, SlideGates
from lymphinfer.orion.labels import apply_gate, curate, gate_values, label_cells, needed_channels
from lymphinfer.orion.truth import label_quality, pool_quality
from lymphinfer.panel import TCELL_PANEL
from tests.orion.made_cohort import make_intensities

GATE = Gate(10, 20, 30)


def test_ranges_are_half_open():
    values = np.array([9.9, 10, 19.9, 20, 29.9, 30, np.nan, np.inf])
    assert apply_gate(values, GATE).tolist() == [0, -1, -1, 1, 1, -1, -1, -1]


def test_curation_drops_positives_under_a_negative_ancestor():
    labels = np.array(
        [
            [1, 1, 1, 0],  # sound
            [0, 1, 1, 0],  # CD3e and CD4 without CD45
            [1, 0, 1, 1],  # CD4 and CD8a without CD3e: macrophages' CD4, for one
            [0, -1, 1, 0],  # CD4 under an unknown CD3e, but without CD45
            [-1, 1, 1, 0],  # unknown above breaks nothing
            [0, 0, 0, 0],
        ],
        np.int8,
    )
    curated, dropped = curate(labels, TCELL_PANEL)
    assert curated.tolist() == [
        [1, 1, 1, 0],
        [0, -1, -1, 0],
        [1, 0, -1, -1],
        [0, -1, -1, 0],
        [-1, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    assert dropped.tolist() == [0, 1, 3, 1]


def test_no_curated_label_breaks_the_hierarchy_and_no_other_changes():
    labels = np.random.default_rng(0).integers(-1, 2, (2000, 4)).astype(np.int8)
    curated, dropped = curate(labels, TCELL_PANEL)
    for child, parent in ((1, 0), (2, 1), (3, 1), (2, 0), (3, 0)):
        assert not ((curated[:, child] == 1) & (curated[:, parent] == 0)).any()
    changed = curated != labels
    assert (curated[changed] == -1).all() and (labels[changed] == 1).all()
    assert changed.sum(axis=0).tolist() == dropped.tolist()
    assert (curate(curated, TCELL_PANEL)[0] == curated).all()


def test_counts_add_up_and_artefacts_are_unknown_everywhere():
    made = make_intensities(3000)
    made.channels["Argo550"][:100] = 5000
    made.channels["CD45"][50:150] = 50_000
    markers = {name: Gate(280, 330, 20_000) for name in TCELL_PANEL.names}
    labels = label_cells(made.table(), SlideGates(markers, 2000.0), TCELL_PANEL)
    assert labels.labels.dtype == np.int8 and (labels.labels[:100] == -1).all()
    for i, c in enumerate(labels.counts):
        parts = (c.positive, c.negative, c.uncertain, c.overexposed, c.artefact, c.curated)
        assert sum(parts) == 3000 and min(parts) >= 0
        assert c.positive == (labels.labels[:, i] == 1).sum()
        assert c.artefact == 100
    assert labels.counts[0].overexposed == 50


def test_channels_are_only_those_needed():
    plain = dict.fromkeys(TCELL_PANEL.names, GATE)
    assert needed_channels(SlideGates(plain), TCELL_PANEL) == TCELL_PANEL.names
    corrected = {**plain, "CD4": Gate(1, 2, 3, af=AfCorrection(0.5, 0))}
    assert needed_channels(SlideGates(corrected, 9.0), TCELL_PANEL)[4:] == ("AF1", "Argo550")
    made = make_intensities(10)
    expected = np.maximum(made.channels["CD4"] - 0.5 * made.channels["AF1"], 0)
    assert np.array_equal(gate_values(made.table(), "CD4", corrected["CD4"]), expected)


def test_a_marker_without_gate_is_named():
    with pytest.raises(DataError, match="no gate for CD3e, CD4, CD8a"):
        label_cells(make_intensities(10).table(), SlideGates({"CD45": GATE}), TCELL_PANEL)


def test_quality_counts_known_labels_only():
    labels = np.array([[1], [1], [0], [0], [-1], [-1]], np.int8)
    truth = np.array([[True], [False], [False], [True], [True], [False]])
    panel = TCELL_PANEL.subset(["CD45"])
    (own,) = label_quality(labels, truth, panel)
    assert (own.precision, own.recall, own.negative_precision) == (0.5, 1 / 3, 0.5)
    (pooled,) = pool_quality([(own,), (own,)])
    assert (pooled.cells, pooled.truly_positive, pooled.recall) == (12, 6, 1 / 3)
    assert pool_quality([]) == ()
