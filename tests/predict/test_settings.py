"""Every setting counts for the result, or is declared to have no bearing on it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lymphinfer.predict import settings as module
from lymphinfer.predict.earlier import finished
from lymphinfer.predict.settings import (
    IDLE,
    RESOLVED,
    VIEWED,
    PredictSettings,
    fingerprint,
)

BASE = PredictSettings(
    bundle="he-v1", roi="r.geojson", tissue="t.geojson", nuclei="n.geojson", regions="g.geojson"
)
OTHER = {
    "bundle": "he-v2", "mpp": 0.3, "format": "geojson", "hierarchy": "none", "device": "mps",
    "precision": "bf16", "workers": 9, "tile_px": 512, "crop_to_bounds": False, "redo": True,
    "roi": "other.geojson", "within_class": ("Tumor",), "detector": "stardist",
    "runtime": "openvino", "tissue": "other.geojson", "operating_point": "precise", "series": "2",
    "force": True, "nuclei": "other.geojson",
    "regions": "other.geojson", "margins": ("Tumor:500",),
}  # fmt: skip


def mark(settings: PredictSettings, **changes: object) -> str:
    """The fingerprint with what the settings come to on a slide."""
    resolved = {
        "slide_identity": f"slide {settings.series}",
        "mpp": settings.mpp or 0.5,
        "bundle_sha256": f"{settings.bundle} {settings.detector}",
        "hierarchy": settings.hierarchy or "clip",
        "precision": settings.precision,
        "runtime": settings.runtime,
        "halo_px": 96,
        "roi_sha256": settings.roi,
        "tissue_sha256": settings.tissue,
        "nuclei_sha256": settings.nuclei,
        **changes,
    }
    return fingerprint(settings, **resolved)


def test_every_setting_has_another_value_here():
    assert OTHER.keys() == {field.name for field in fields(PredictSettings)}
    assert all(getattr(BASE, name) != value for name, value in OTHER.items())
    assert not (IDLE & VIEWED or IDLE & RESOLVED or VIEWED & RESOLVED)
    assert OTHER.keys() >= IDLE | VIEWED | RESOLVED


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_setting_is_in_the_fingerprint_of_the_nuclei_or_of_the_view_or_idle(name, tmp_path):
    # A detector and given nuclei are not for one command.
    none = {"nuclei": None} if name == "detector" else {}
    other = replace(BASE, **{name: OTHER[name]}, **none)
    assert (mark(other) == mark(BASE)) is (name in IDLE | VIEWED)
    # A finished result under the one is that of the other where the setting is idle, and only then.
    (tmp_path / f"a.{BASE.format}").touch()
    summary = {"arguments": {**BASE.to_dict(), "fingerprint": mark(BASE)},
               "file": f"a.{BASE.format}", "shards": {"total": 0}}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = finished(tmp_path, tmp_path / f"a.{other.format}", {mark(other)}, other)
    assert (found is not None) is (name in IDLE)


def test_classes_count_as_a_set():
    one, two = (replace(BASE, within_class=c) for c in (("A", "B"), ("B", "A", "B")))
    assert mark(one) == mark(two)


@pytest.mark.parametrize("name", ["slide_identity", "mpp", "bundle_sha256", "hierarchy",
                                  "precision", "runtime", "halo_px", "roi_sha256",
                                  "tissue_sha256", "nuclei_sha256"])  # fmt: skip
def test_what_a_setting_comes_to_counts(name):
    assert mark(BASE, **{name: 7}) != mark(BASE)


def test_another_version_of_the_results_is_another_result(monkeypatch):
    before = mark(BASE)
    monkeypatch.setattr(module, "RESULT_VERSION", module.RESULT_VERSION + 1)
    assert mark(BASE) != before


def test_no_setting_is_taken_for_a_file(tmp_path):
    assert finished(tmp_path, Path("a.zip"), {"x"}, BASE) is None
