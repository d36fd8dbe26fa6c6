"""Folders of slides: every one done or named, whatever happens on the way."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.run import predict_folder
from lymphinfer.batch.state import Status, read_state
from tests.predict.conftest import MPP, disc_image, write_svs

from .made_batch import BAD, GOOD, result_bytes, settings, write_bad_slides, write_slides


@pytest.fixture(scope="module")
def night(disc_bundle, tmp_path_factory):
    """Twelve good slides, six bad ones and one without tissue, run once."""
    root = tmp_path_factory.mktemp("night")
    slides = write_bad_slides(write_slides(root / "slides", GOOD))
    secret = write_slides(root / "secret", 1) / "slide00.svs"
    secret.rename(slides / "secret.svs").chmod(0)
    result = predict_folder(slides, root / "out", settings=settings(disc_bundle))
    return root, result


def test_a_night_ends_with_what_could_be_done_and_reasons_for_the_rest(night):
    _, result = night
    # Root reads what nobody may, and Windows knows no such right.
    hidden = [] if getattr(os, "geteuid", int)() == 0 else ["secret.svs"]
    assert result.exit_code == 1
    assert {o.slide.name for o in result.failed} == {*BAD, *hidden}
    assert len(result.done) == GOOD + 1 + (not hidden)
    reasons = {o.slide.name: o.reason for o in result.failed}
    words = {"empty": "empty", "text": "not a slide", "folder": "a folder", "cut": "cut short",
             "no_mpp": "--mpp"}  # fmt: skip
    for name, word in words.items():
        assert word in reasons[f"{name}.svs"]
    (white,) = (o for o in result.done if o.slide.name == "white.svs")
    assert white.nuclei == 0 and white.file.is_file()


def test_nothing_is_half_written(night):
    root, result = night
    for path in (root / "out").rglob("*"):
        assert not path.name.endswith((".tmp", ".guard", ".lock")), path
    for failed in result.failed:
        assert [p.name for p in failed.folder.iterdir()] == ["state.json"]
        assert read_state(failed.folder).status is Status.FAILED


def test_the_summary_has_a_row_a_slide(night):
    root, result = night
    with (root / "out" / "batch.csv").open() as file:
        rows = list(csv.DictReader(file))
    batch = json.loads((root / "out" / "batch.json").read_text())
    assert len(rows) == len(batch["slides"]) == len(result.outcomes)
    assert (batch["done"], batch["failed"]) == (len(result.done), len(result.failed))
    good = next(r for r in rows if Path(r["slide"]).name == "slide00.svs")
    assert int(good["nuclei"]) > 10 and float(good["CD45 expected"]) > 0
    assert float(good["tissue_mm2"]) > 0 and float(good["seconds_per_mm2"]) > 0
    assert next(r for r in rows if r["reason"])["nuclei"] == ""
    white = next(r for r in rows if Path(r["slide"]).name == "white.svs")
    assert "No tissue was found" in white["warnings"]
    for outcome in result.done:
        told = json.loads((outcome.folder / "summary.json").read_text())["warnings"]
        row = next(r for r in rows if r["folder"] == str(outcome.folder))
        assert row["warnings"].split(" | ") == (told or [""])


def test_the_same_batch_again_computes_nothing_and_fails_nothing_twice(night, disc_bundle):
    root, result = night
    before = result_bytes(root / "out")
    attempts = {o.slide: o.attempts for o in result.outcomes}
    again = predict_folder(root / "slides", root / "out", settings=settings(disc_bundle))
    assert {o.slide: o.attempts for o in again.outcomes} == attempts
    assert {o.slide: o.reason for o in again.failed} == {o.slide: o.reason for o in result.failed}
    assert result_bytes(root / "out") == before
    retried = predict_folder(
        root / "slides", root / "out", settings=settings(disc_bundle),
        options=BatchOptions(retry_failed=True),
    )  # fmt: skip
    assert all(o.attempts == attempts[o.slide] + 1 for o in retried.failed)


@pytest.mark.slow
def test_a_failed_slide_is_tried_again_once_its_file_or_the_request_has_changed(
    disc_bundle, tmp_path
):
    image, _ = disc_image(400, 400)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.svs").write_text("not a slide")
    write_svs(tmp_path / "in" / "no_mpp.svs", image, mpp=None)
    arguments = tmp_path / "in", tmp_path / "out"
    assert predict_folder(*arguments, settings=settings(disc_bundle)).exit_code == 2
    write_svs(tmp_path / "in" / "text.svs", image)
    result = predict_folder(*arguments, settings=settings(disc_bundle))
    assert [o.slide.name for o in result.done] == ["text.svs"]
    result = predict_folder(*arguments, settings=settings(disc_bundle, mpp=MPP))
    assert result.exit_code == 0


@pytest.mark.slow
def test_one_slide_spreads_over_devices_by_its_shards_with_the_same_bytes(disc_bundle, tmp_path):
    image, _ = disc_image(2100, 1100)
    write_svs(tmp_path / "in.svs", image)
    one = predict_folder(tmp_path / "in.svs", tmp_path / "one", settings=settings(disc_bundle))
    two = predict_folder(
        tmp_path / "in.svs", tmp_path / "two", settings=settings(disc_bundle),
        options=BatchOptions(devices=("cpu", "cpu")),
    )  # fmt: skip
    assert one.done[0].shards > 4
    assert result_bytes(tmp_path / "one") == result_bytes(tmp_path / "two")
    seconds = json.loads((two.done[0].folder / "summary.json").read_text())["seconds"]
    assert {"tissue", "read", "detect", "decode", "classify", "write", "total"} <= seconds.keys()


def test_a_list_gives_each_slide_its_own_pixel_size_and_folder(disc_bundle, tmp_path):
    write_slides(tmp_path, 1)
    image, _ = disc_image(400, 400)
    write_svs(tmp_path / "no_mpp.svs", image, mpp=None)
    table = tmp_path / "list.csv"
    table.write_text(f"slide,mpp,out\nslide00.svs,,a\nno_mpp.svs,{MPP},b/c\nmissing.svs,,\n")
    result = predict_folder(table, tmp_path / "out", settings=settings(disc_bundle))
    assert [o.status for o in result.outcomes] == [Status.DONE, Status.DONE, Status.FAILED]
    assert (tmp_path / "out" / "b" / "c" / "no_mpp.zip").is_file()
    assert "no such file" in result.failed[0].reason
