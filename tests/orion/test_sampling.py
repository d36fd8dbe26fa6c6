import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lymphinfer.errors import DataError
from lymphinfer.orion.sampling import balanced_rows, check_positives, random_rows, sample_patient
from lymphinfer.panel import TCELL_PANEL

RNG = np.random.default_rng


def make_labels(n, seed=0, shares=(0.25, 0.4, 0.5), unknown=0.05):
    rng = RNG(seed)
    truth = np.zeros((n, 4), bool)
    truth[:, 0] = rng.random(n) < shares[0]
    truth[:, 1] = truth[:, 0] & (rng.random(n) < shares[1])
    truth[:, 2] = truth[:, 1] & (rng.random(n) < shares[2])
    truth[:, 3] = truth[:, 1] & ~truth[:, 2]
    labels = truth.astype(np.int8)
    labels[rng.random((n, 4)) < unknown] = -1
    labels[rng.random(n) < 0.02] = -1
    return labels


def test_half_is_positive_for_none_and_a_quarter_of_the_rest_for_each():
    labels = make_labels(40_000)
    rows = balanced_rows(labels, 4000, RNG(1))
    chosen = labels[rows]
    assert len(rows) == len(set(rows.tolist())) == 4000
    assert (np.diff(rows) > 0).all()
    any_positive = (chosen == 1).any(axis=1)
    assert any_positive.sum() == 2000
    assert ((chosen == 1).sum(axis=0) >= 500).all()
    assert not (chosen == -1).all(axis=1).any()


def test_too_few_positives_are_all_taken_and_the_negative_half_does_not_grow():
    labels = make_labels(40_000, shares=(0.02, 0.1, 0.5))
    rows = balanced_rows(labels, 4000, RNG(1))
    positive = (labels == 1).any(axis=1)
    assert positive.sum() < 2000
    assert (labels[rows] == 1).any(axis=1).sum() == positive.sum()
    assert len(rows) == 2000 + positive.sum()


def test_a_rare_marker_gives_all_it_has_and_the_others_fill_up():
    labels = make_labels(40_000, shares=(0.25, 0.4, 0.01))
    rows = balanced_rows(labels, 4000, RNG(1))
    rare = labels[:, 2] == 1
    assert 0 < rare.sum() < 500
    assert (labels[rows, 2] == 1).sum() == rare.sum()
    assert len(rows) == 4000


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 600))
def test_the_rule_holds_for_any_labels(seed, n_cells, n):
    labels = RNG(seed).integers(-1, 2, (n_cells, 4)).astype(np.int8)
    rows = balanced_rows(labels, n, RNG(seed))
    positive = (labels == 1).any(axis=1)
    negative = ~positive & (labels == 0).any(axis=1)
    assert positive[rows].sum() == min(n // 2, positive.sum())
    assert negative[rows].sum() == min(n - n // 2, negative.sum())
    assert len(np.unique(rows)) == len(rows)


def test_the_test_sample_has_the_real_distribution_and_unlabelled_cells():
    labels = make_labels(40_000)
    rows = random_rows(len(labels), 10_000, RNG(0))
    assert len(set(rows.tolist())) == 10_000
    assert (labels[rows] == 1).mean(axis=0) == pytest.approx((labels == 1).mean(axis=0), abs=0.01)
    assert (labels[rows] == -1).all(axis=1).any()
    assert len(random_rows(50, 100, RNG(0))) == 50


def test_a_patients_slides_are_sampled_together_and_rows_are_the_slides_own():
    slides = [make_labels(3000, 1), make_labels(9000, 2)]
    sample = sample_patient("C33", "train", slides, TCELL_PANEL, n=2000)
    assert len(sample) == 2000 and len(sample.rows) == 2
    for rows, labels in zip(sample.rows, slides, strict=True):
        assert rows.min() >= 0 and rows.max() < len(labels)
    assert len(sample.rows[1]) == pytest.approx(3 * len(sample.rows[0]), rel=0.2)
    both = np.concatenate([labels[rows] for labels, rows in zip(slides, sample.rows, strict=True)])
    assert sample.positives == tuple((both == 1).sum(axis=0))
    assert sample.short == ()


def test_a_draw_depends_on_seed_and_patient_alone():
    labels = [make_labels(5000)]

    def rows(patient, seed):
        return sample_patient(patient, "test", labels, TCELL_PANEL, n=500, seed=seed).rows[0]

    assert np.array_equal(rows("C1", 0), rows("C1", 0))
    assert not np.array_equal(rows("C1", 0), rows("C2", 0))
    assert not np.array_equal(rows("C1", 0), rows("C1", 1))


def test_markers_without_a_positive_cell_are_named_by_split():
    none = make_labels(2000, shares=(0.2, 0.0, 0.0))
    some = make_labels(2000)
    samples = [
        sample_patient("C1", "train", [some], TCELL_PANEL, n=400),
        sample_patient("C2", "train", [none], TCELL_PANEL, n=400),
        sample_patient("C3", "val", [none], TCELL_PANEL, n=400),
        sample_patient("C4", "test", [none], TCELL_PANEL, n=400),
    ]
    assert samples[1].short == ("CD3e", "CD4", "CD8a")
    check_positives(samples[:2], TCELL_PANEL)
    with pytest.raises(DataError) as caught:
        check_positives(samples, TCELL_PANEL)
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == ["CD3e", "CD4", "CD8a"]
    assert all("val patients (C3)" in line for line in lines)
