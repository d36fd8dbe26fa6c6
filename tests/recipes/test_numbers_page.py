"""The manual's page for pathologists has the default bundle's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lymphinfer.bundles.registry import DEFAULT_BUNDLE
from lymphinfer.bundles.schema import read_manifest
from recipes.he.numbers_page import BEGIN, END, block, rewritten

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights" / DEFAULT_BUNDLE


def test_the_page_says_what_the_default_bundle_says():
    page = (ROOT / "docs" / "what-the-numbers-mean.md").read_text("utf-8")
    assert page == rewritten(page, block(WEIGHTS)), "run python -m recipes.he.numbers_page"


def test_every_marker_and_point_of_the_bundle_is_on_it():
    text = block(WEIGHTS)
    manifest = read_manifest(WEIGHTS)
    assert f"`{manifest.name}` {manifest.version}" in text
    for marker in manifest.markers:
        assert f"| {marker.name} | `{marker.evidence.value}`" in text
        for point in marker.points.values():
            assert f"from {point.threshold:.2f}: {round(100 * point.precision)} right" in text


def test_a_bundle_without_points_or_stain_says_so():
    text = block(ROOT / "weights" / "he-v1-fast")
    assert "`base-rate` | not measured | never" in text and "given" not in text


def test_a_page_without_its_marks_is_told():
    with pytest.raises(ValueError, match="these two lines"):
        rewritten(f"{BEGIN}\n{BEGIN}\n{END}", "text")
