"""What a batch says of itself."""

from __future__ import annotations

from pathlib import Path

from lymphinfer.batch.state import Status
from lymphinfer.batch.summary import BatchResult, SlideOutcome, remove_report


def outcome(name: str, numbers: str) -> SlideOutcome:
    return SlideOutcome(Path(f"{name}.svs"), Path(name), Status.DONE, numbers=numbers)


def test_numbers_of_machines_of_unlike_kind_are_told():
    same = [outcome("a", "fp32 by torch"), outcome("b", "fp32 by torch"), outcome("c", "")]
    assert BatchResult(Path(), tuple(same), 1.0).notes == []
    unlike = (*same, outcome("d", "bfloat16 by openvino"))
    (note,) = BatchResult(Path(), unlike, 1.0).notes
    assert "2 in fp32 by torch, 1 in bfloat16 by openvino" in note and "--precision" in note


def test_the_page_of_an_earlier_batch_goes_and_a_users_own_stays(tmp_path):
    page = tmp_path / "report.html"
    remove_report(tmp_path)
    page.write_text("<html><head><title>of the user</title></head></html>")
    remove_report(tmp_path)
    assert page.exists()
    page.write_text('<html><meta name="generator" content="lymphinfer 0.1.0"></html>')
    remove_report(tmp_path)
    assert not page.exists()
