"""The head over two scales, learned on small made rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lymphinfer.markers.configs import TwoScaleConfig
from lymphinfer.markers.two_scale_head import TwoScaleHead
from recipes.he import head
from recipes.he.crc01 import MARKERS, PARENTS
from recipes.he.far import OUTPUTS
from recipes.he.head import Rows, fit, trust_far

CHILDREN = [OUTPUTS.index(f"{child} given {parent}") for child, parent in PARENTS.items()]
CD45 = OUTPUTS.index(MARKERS[0])


@pytest.fixture
def near(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.3, (8, 12)).astype(np.float32)
    np.savez(
        tmp_path / "reader.npz", weight=weight, bias=np.zeros(8, np.float32), last=weight[:1, :8]
    )
    return tmp_path


def made_rows(n=2400, seed=0):
    """Nuclei whose CD45 near and far say, and children that stand in no relation to either."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, len(MARKERS))).astype(np.float32)
    values = rng.normal(0, 1, (n, 4, 12)) + labels[:, :1, None]
    far = rng.normal(0, 1, (n, len(OUTPUTS))).astype(np.float32)
    far[:, CD45] += 2 * labels[:, 0] - 1
    tile = rng.integers(0, 6, n)
    return Rows(
        torch.from_numpy(values).half(), torch.from_numpy(far), torch.from_numpy(labels),
        torch.full((n,), 1 / n), np.array([f"c01/{t}" for t in tile]), np.zeros(n, np.int64),
    )  # fmt: skip


def test_children_are_the_far_scale_s_whatever_tiles_are_learned_from(near):
    rows = made_rows()
    half = np.arange(len(rows.far)) % 2 == 0
    for chosen in (half, ~half):
        trained = fit(rows, chosen, near)
        with torch.inference_mode():
            logits = trained(rows.values.float(), rows.far)
        torch.testing.assert_close(logits[:, 1:], rows.far[:, CHILDREN])


def test_cd45_weighs_the_far_scale_more_than_was_learned(near, monkeypatch):
    rows, every = made_rows(), np.ones(2400, bool)
    trained = fit(rows, every, near)
    monkeypatch.setattr(head, "trust_far", lambda _: None)
    learned = fit(rows, every, near)
    with torch.inference_mode():
        more = trained(rows.values.float(), rows.far) - learned(rows.values.float(), rows.far)
    torch.testing.assert_close(more[:, 0], head.FAR_MORE * rows.far[:, CD45], atol=1e-4, rtol=1e-3)
    assert not more[:, 1:].any()


def test_no_more_trust_leaves_a_head_as_it_is():
    one = TwoScaleHead(TwoScaleConfig(MARKERS, near=8, far=len(OUTPUTS)))
    before = {k: v.clone() for k, v in one.state_dict().items()}
    trust_far(one, 0.0)
    assert all(torch.equal(v, before[k]) for k, v in one.state_dict().items())
