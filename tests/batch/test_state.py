"""States: whole or not there, and readable by a later version."""

from __future__ import annotations

import json

from lymphinfer.batch.state import (
    STATE,
    SlideState,
    Status,
    enqueue,
    find_states,
    read_state,
    slide_stamp,
    write_state,
)


def test_a_state_is_read_as_it_was_written(tmp_path):
    state = SlideState("a.svs", Status.FAILED, 12.5, "why", 3, 4.5, host="h", pid=7, stamp="1-2")
    write_state(tmp_path / "x", state)
    assert read_state(tmp_path / "x") == state
    assert [p.name for p in (tmp_path / "x").iterdir()] == [STATE]


def test_enqueuing_leaves_a_state_that_is_there_alone(tmp_path):
    enqueue(tmp_path / "x", SlideState("a.svs"))
    assert read_state(tmp_path / "x").status is Status.QUEUED
    write_state(tmp_path / "x", SlideState("a.svs", Status.RUNNING))
    enqueue(tmp_path / "x", SlideState("a.svs"))
    assert read_state(tmp_path / "x").status is Status.RUNNING


def test_an_unreadable_state_is_none_and_unknown_fields_are_passed_over(tmp_path):
    assert read_state(tmp_path) is None
    for text in ("", "[]", "{}", '{"slide": "a", "status": "resting"}', "\0"):
        (tmp_path / STATE).write_text(text)
        assert read_state(tmp_path) is None
    (tmp_path / STATE).write_text(json.dumps({"slide": "a", "status": "done", "mood": "good"}))
    assert read_state(tmp_path) == SlideState("a", Status.DONE)


def test_all_states_below_a_root_are_found(tmp_path):
    for name in ("b", "a", "c/d"):
        write_state(tmp_path / name, SlideState(name))
    assert [state.slide for _, state in find_states(tmp_path)] == ["a", "b", "c/d"]


def test_a_stamp_changes_with_the_file(tmp_path):
    file = tmp_path / "a.svs"
    assert slide_stamp(file) == ""
    file.write_text("a")
    first = slide_stamp(file)
    file.write_text("ab")
    assert first and slide_stamp(file) != first
