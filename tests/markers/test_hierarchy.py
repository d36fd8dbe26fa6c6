from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lymphinfer.markers.hierarchy import HierarchyMode, apply_hierarchy, call_phenotypes
from lymphinfer.panel import TCELL_PANEL, Marker, Panel

PARENTS = TCELL_PANEL.parent_indices
probabilities = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 8), st.just(4)),
    elements=st.floats(0, 1, width=32),
)  # fmt: skip


@given(probabilities, st.sampled_from(["clip", "conditional"]))
def test_no_child_exceeds_its_parent_and_nothing_leaves_zero_to_one(p, mode):
    result = apply_hierarchy(p, PARENTS, mode)
    assert ((result >= 0) & (result <= 1)).all()
    for child, parent in enumerate(PARENTS):
        if parent >= 0:
            assert (result[:, child] <= result[:, parent]).all()


@given(probabilities, st.sampled_from(["clip", "conditional"]))
def test_coherent_input_comes_back_unchanged(p, mode):
    coherent = apply_hierarchy(p, PARENTS, "clip")
    np.testing.assert_array_equal(apply_hierarchy(coherent, PARENTS, mode), coherent)


@given(probabilities)
def test_mode_none_changes_nothing_and_the_root_never_changes(p):
    np.testing.assert_array_equal(apply_hierarchy(p, PARENTS, HierarchyMode.NONE), p)
    for mode in HierarchyMode:
        np.testing.assert_array_equal(apply_hierarchy(p, PARENTS, mode)[:, 0], p[:, 0])


@pytest.mark.parametrize("mode", list(HierarchyMode))
def test_a_base_rate_is_multiplied_by_its_parent_in_every_mode(mode):
    heads = np.array([[0.5, 0.38, 0.61, 0.46]])
    result = apply_hierarchy(heads, PARENTS, mode, conditional_heads=[False, True, True, True])
    np.testing.assert_allclose(
        result[0], [0.5, 0.5 * 0.38, 0.5 * 0.38 * 0.61, 0.5 * 0.38 * 0.46], rtol=1e-6
    )


def test_a_value_that_is_no_probability_is_refused():
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="within"):
            apply_hierarchy(np.array([[bad, 0, 0, 0]]), PARENTS)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        apply_hierarchy(np.zeros((3, 2)), PARENTS)


@given(probabilities, hnp.arrays(np.float64, 4, elements=st.floats(0.05, 0.95)))
def test_a_call_implies_that_every_marker_of_its_lineage_is_positive(p, thresholds):
    calls = call_phenotypes(p, TCELL_PANEL, thresholds)
    for row, call in zip(p, calls, strict=True):
        name = TCELL_PANEL.calls[call]
        if name == "Other":
            assert row[0] < np.float32(thresholds[0])
            continue
        for marker in TCELL_PANEL.lineage(name):
            i = TCELL_PANEL.index(marker)
            assert row[i] >= np.float32(thresholds[i])


def test_the_deepest_positive_marker_is_called_and_of_two_siblings_the_more_probable_one():
    p = np.array([[0.2, 0.1, 0, 0], [0.9, 0.2, 0, 0], [0.9, 0.8, 0.6, 0.7], [0.9, 0.2, 0.9, 0.9]])
    calls = call_phenotypes(p, TCELL_PANEL, [0.5] * 4)
    assert [TCELL_PANEL.calls[c] for c in calls] == ["Other", "CD45", "CD8a", "CD45"]
    # A rare marker's low threshold does not make it win over a sibling that is more probable.
    calls = call_phenotypes(p[2:3], TCELL_PANEL, [0.5, 0.5, 0.02, 0.6])
    assert TCELL_PANEL.calls[calls[0]] == "CD8a"


def test_a_marker_without_evidence_is_never_called():
    calls = call_phenotypes(
        np.ones((5, 4)), TCELL_PANEL, [0.5] * 4, callable_markers=[True, False, False, False]
    )
    assert {TCELL_PANEL.calls[c] for c in calls} == {"CD45"}


def test_another_panel_is_another_value():
    panel = Panel("b-cell", (Marker("CD20", None, (1, 2, 3)), Marker("CD27", "CD20", (4, 5, 6))))
    assert panel.parent_indices == (-1, 0)
    assert panel.class_name("CD27") == "CD20: CD27"
    with pytest.raises(ValueError, match="before it"):
        Panel("wrong", (Marker("CD27", "CD20", (4, 5, 6)),))
