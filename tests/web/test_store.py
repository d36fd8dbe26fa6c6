from dataclasses import replace

import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.gates_file import read_gates, write_gates
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.web.store import ConflictError, GatesStore, review_state


@pytest.fixture
def store(gates_path, cohort):
    return GatesStore(gates_path, cohort.folders, TCELL_PANEL.names, "A. Pathologist")


def moved(store, slide="CRC01", marker="CD45", to=200.0):
    gate = replace(store.gates.slides[slide].markers[marker], positive_min=to)
    store.save(slide, marker, {marker: store.signed(gate)}, store.revision)


def test_a_change_is_on_disk_with_who_and_when_and_the_rest_stands(store, gates_path):
    before = read_gates(gates_path)
    moved(store)
    after = read_gates(gates_path)
    gate = after.slides["CRC01"].markers["CD45"]
    assert (gate.positive_min, gate.set_by) == (200.0, "A. Pathologist")
    assert gate.set_at > before.slides["CRC01"].markers["CD45"].set_at
    assert after.slides["CRC02"] == before.slides["CRC02"]
    assert after.slides["CRC01"].markers["CD4"] == before.slides["CRC01"].markers["CD4"]
    assert not list(gates_path.parent.glob(".*.tmp"))


def test_undo_gives_the_bytes_back_and_redo_the_change(store, gates_path):
    first = gates_path.read_bytes()
    moved(store)
    second = gates_path.read_bytes()
    assert store.undo(store.revision).marker == "CD45"
    assert gates_path.read_bytes() == first and store.can_redo
    store.redo(store.revision)
    assert gates_path.read_bytes() == second and not store.can_redo
    assert store.redo(store.revision) is None


def test_what_someone_else_wrote_is_not_overwritten(store, gates_path):
    other = GatesStore(gates_path, store.gates.slides, TCELL_PANEL.names, "B")
    moved(other, "CRC02", "CD4")
    theirs = gates_path.read_bytes()
    with pytest.raises(ConflictError, match="Nothing was written") as caught:
        moved(store)
    assert caught.value.changed == ("CRC02 CD4",)
    assert gates_path.read_bytes() == theirs
    assert store.changed_on_disk() and store.reload() == ("CRC02 CD4",)
    moved(store)
    assert read_gates(gates_path).slides["CRC02"].markers["CD4"].set_by == "B"


def test_another_window_and_a_vanished_or_broken_file_are_conflicts(store, gates_path):
    old = store.revision
    moved(store)
    gate = store.gates.slides["CRC01"].markers["CD45"]
    with pytest.raises(ConflictError, match="another window"):
        store.save("CRC01", "CD45", {"CD45": gate}, old)
    gates_path.write_text("a = ")
    with pytest.raises(ConflictError, match="cannot be read"):
        moved(store)
    assert gates_path.read_text() == "a = "
    with pytest.raises(DataError):
        store.reload()
    gates_path.unlink()
    with pytest.raises(ConflictError, match="no such gates file"):
        moved(store)


def test_a_remark_by_hand_is_a_conflict_too(store, gates_path):
    gates_path.write_bytes(gates_path.read_bytes() + b"# mine\n")
    with pytest.raises(ConflictError, match="remarks"):
        moved(store)


def test_wrong_thresholds_are_refused(store, gates_path):
    before = gates_path.read_bytes()
    with pytest.raises(DataError, match=r"CRC01, CD45.*overlap"):
        moved(store, to=1.0)
    assert gates_path.read_bytes() == before


def test_states_tell_proposed_copied_and_reviewed(store):
    gate = store.gates.slides["CRC01"].markers["CD45"]
    assert review_state(gate) == "proposed"
    assert review_state(store.signed(gate, "CRC02")) == "copied"
    assert review_state(store.signed(gate)) == "reviewed"


@pytest.mark.parametrize("who", ["", "  ", "x" * 81, "lymphinfer gate propose", "a\x00b"])
def test_names_that_would_mislead_are_refused(store, who):
    with pytest.raises(DataError, match="name"):
        store.who = who


def test_a_file_without_a_slide_is_refused_at_once(gates_path, cohort):
    gates = read_gates(gates_path)
    slides = {k: v for k, v in gates.slides.items() if k != "CRC02"}
    write_gates(gates_path, replace(gates, slides=slides))
    with pytest.raises(DataError, match="CRC02"):
        GatesStore(gates_path, cohort.folders, TCELL_PANEL.names, "A")
