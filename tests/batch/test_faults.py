"""Crashes, hangs, full disks and full memories cost what they must and no more."""

from __future__ import annotations

import json

import pytest

from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.run import predict_folder
from lymphinfer.batch.state import Status
from tests.predict.conftest import disc_image, write_svs

from . import readers_made
from .made_batch import result_bytes, settings, write_slides


@pytest.mark.slow
def test_slides_that_break_their_reader_cost_themselves_alone(disc_bundle, tmp_path):
    slides = write_slides(tmp_path / "in", 3, side=300)
    image, _ = disc_image(300, 300)
    reasons = {
        "abort": "crashed: signal 6 (SIGABRT)",
        "hungry": "more than 2.2 GB",
        "odd": "ZeroDivisionError: by a made reader",
    }
    for name in reasons:
        write_svs(slides / f"a_{name}.svs", image)
    result = predict_folder(
        slides, tmp_path / "out", settings=settings(disc_bundle),
        options=BatchOptions(
            worker_setup=readers_made.all_wrong, memory_limit_gb=2.2
        ),
    )  # fmt: skip
    assert (len(result.done), len(result.failed), result.exit_code) == (3, 3, 1)
    for failed in result.failed:
        assert reasons[failed.slide.stem.removeprefix("a_")] in failed.reason
    # A good slide must not meet the limit, on whatever machine and beside whatever else.
    limit_s = 10 + round(10 * max(o.seconds for o in result.done))
    hanging = tmp_path / "hanging"
    for name in ("a_hang", "good"):
        hanging.mkdir(exist_ok=True)
        write_svs(hanging / f"{name}.svs", image)
    result = predict_folder(
        hanging, tmp_path / "out2", settings=settings(disc_bundle),
        options=BatchOptions(worker_setup=readers_made.all_wrong, slide_timeout=limit_s),
    )  # fmt: skip
    assert [o.slide.name for o in result.done] == ["good.svs"]
    assert f"--slide-timeout {limit_s} s" in result.failed[0].reason


def test_a_slide_without_progress_has_hung(disc_bundle, tmp_path):
    slide = write_svs(tmp_path / "hang.svs", disc_image(300, 300)[0])
    result = predict_folder(
        slide, tmp_path / "out", settings=settings(disc_bundle),
        options=BatchOptions(worker_setup=readers_made.all_wrong, stall_timeout=8),
    )  # fmt: skip
    assert "hung: no tile" in result.failed[0].reason


@pytest.mark.slow
def test_a_full_disk_stops_the_batch_and_the_next_run_goes_on(disc_bundle, tmp_path, monkeypatch):
    slides = write_slides(tmp_path / "in", 3, side=300)
    calm = predict_folder(slides, tmp_path / "calm", settings=settings(disc_bundle))
    assert calm.exit_code == 0
    sign = tmp_path / "full"
    sign.touch()
    monkeypatch.setenv("LYMPHINFER_TEST_FULL", str(sign))
    options = BatchOptions(worker_setup=readers_made.full_disk)
    stopped = predict_folder(
        slides, tmp_path / "out", settings=settings(disc_bundle), options=options
    )
    assert "disk is full" in stopped.stopped
    assert not stopped.failed and stopped.exit_code == 1 and len(stopped.done) == 1
    assert {o.status for o in stopped.outcomes} == {Status.DONE, Status.QUEUED}
    assert not list((tmp_path / "out").rglob("*.tmp"))
    sign.unlink()
    resumed = predict_folder(
        slides, tmp_path / "out", settings=settings(disc_bundle), options=options
    )
    assert resumed.exit_code == 0
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "calm")


@pytest.mark.slow
def test_a_device_without_memory_gets_smaller_pieces_and_the_same_nuclei(patch_bundle, tmp_path):
    image, _ = disc_image(700, 600)
    slide = write_svs(tmp_path / "a.svs", image)
    chosen = settings(patch_bundle, tile_px=512)
    plain = predict_folder(slide, tmp_path / "plain", settings=chosen)
    careful = predict_folder(
        slide, tmp_path / "careful", settings=chosen,
        options=BatchOptions(worker_setup=readers_made.out_of_memory),
    )  # fmt: skip
    a, b = (json.loads((r.done[0].folder / "summary.json").read_text()) for r in (plain, careful))
    assert a["nuclei"] == b["nuclei"] > 100
    assert b["markers"]["CD45"]["expected"] == pytest.approx(
        a["markers"]["CD45"]["expected"], rel=1e-3
    )


@pytest.mark.slow
def test_a_wrong_worker_setup_ends_clearly(disc_bundle, tmp_path):
    slides = write_slides(tmp_path / "in", 1, side=300)
    with pytest.raises(Exception, match="cannot be started"):
        predict_folder(
            slides, tmp_path / "out", settings=settings(disc_bundle),
            options=BatchOptions(worker_setup=_raise),
        )  # fmt: skip


def _raise() -> None:
    raise RuntimeError("made")
