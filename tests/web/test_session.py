from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from lymphinfer.errors import DataError, SlideError
from lymphinfer.orion.figure import range_counts
from lymphinfer.orion.gates import SlideGates
from lymphinfer.orion.gates_file import read_gates
from lymphinfer.orion.gating import apply_gates
from lymphinfer.orion.labels import gate_values, load_labelled
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.web.session import UnknownError
from lymphinfer.web.store import ConflictError

MOVED = {"negative_max": 90.5, "positive_min": 400.0, "overexposure_min": 5000.0}


def revised(session, **body):
    return {"revision": session.store.revision, **body}


def applied(cohort, gates):
    return {s.folder: {c.marker: asdict(c) for c in s.labels.counts} for s in
            apply_gates(cohort, gates, TCELL_PANEL)}  # fmt: skip


def test_counts_are_those_of_gate_apply_saved_and_not(session, cohort, gates_path):
    saved = applied(cohort, read_gates(gates_path))
    for folder in cohort.folders:
        assert session.slide_reply(folder)["counts"] == saved[folder]
    preview = session.preview("CRC01", "CD45", MOVED)["counts"]
    assert preview != saved["CRC01"]
    # A stricter parent drops more positives of its children.
    assert preview["CD3e"]["curated"] >= saved["CRC01"]["CD3e"]["curated"]
    assert read_gates(gates_path).slides["CRC01"].markers["CD45"].positive_min == 150
    reply = session.set_thresholds("CRC01", "CD45", revised(session, **MOVED))
    assert reply["slide"]["counts"] == preview
    assert applied(cohort, read_gates(gates_path))["CRC01"] == preview


def test_histogram_holds_every_cell_but_artefacts_and_agrees_with_the_ranges(session):
    reply = session.histogram_reply("CRC01", "CD45")
    view = session.slides.view("CRC01")
    gates = session.store.gates.slides["CRC01"]
    usable = view.usable(gates)
    assert sum(reply["bins"]) == usable.sum()
    gate = gates.markers["CD45"]
    exact = range_counts(gate_values(view.cells, "CD45", gate)[usable], gate)
    below = np.concatenate([[0], np.cumsum(reply["bins"])])
    low, high = reply["log_low"], reply["log_high"]
    at = (np.log10([gate.negative_max, gate.positive_min]) - low) / (high - low) * 4096
    near = np.interp(at, np.arange(4097), below)
    assert near[0] == pytest.approx(exact["negative"], abs=2)
    assert near[1] - near[0] == pytest.approx(exact["uncertain"], abs=3)


def test_examples_lie_in_their_ranges_and_stay_the_same(session, cohort, gates_path):
    query = {"number": "6", "draw": "0"}
    found = session.examples_reply("CRC01", "CD3e", query)["examples"]
    own = read_gates(gates_path).slides["CRC01"]
    cells, labels = load_labelled(cohort.slides[0].cells, own, TCELL_PANEL)
    gate = own.markers["CD3e"]
    values = gate_values(cells, "CD3e", gate)
    assert [len(found[name]) for name in ("negative", "positive")] == [6, 6]
    for name, examples in found.items():
        for e in examples:
            assert range_counts(np.array([e["value"]]), gate)[name] == 1
            assert values[e["row"]] == e["value"] and cells.cell_id[e["row"]] == e["cell_id"]
            assert labels.labels[e["row"], 1] == e["label"]
    assert session.examples_reply("CRC01", "CD3e", query)["examples"] == found
    other = session.examples_reply("CRC01", "CD3e", query | {"draw": "1"})["examples"]
    assert not {e["row"] for e in other["negative"]} & {e["row"] for e in found["negative"]}


def test_pictures_are_of_the_cell(session, cohort):
    import io

    image = Image.open(io.BytesIO(session.picture("CRC01", 5, "he")))
    assert image.size == (112 - 1, 112 - 1) or image.size == (112, 112)
    dark = np.asarray(Image.open(io.BytesIO(session.picture("CRC01", 5, "CD45"))))
    assert dark.max() < 10  # the made immunofluorescence is empty
    assert session.picture("CRC01", 5, "he") == session.picture("CRC01", 5, "he")
    with pytest.raises(SlideError, match="no immunofluorescence"):
        session.picture("CRC02", 5, "CD45")
    with pytest.raises(UnknownError, match="no cell in row 3000"):
        session.picture("CRC01", 3000, "he")


def test_copying_takes_thresholds_and_says_from_where(session, gates_path):
    session.set_thresholds("CRC01", "CD4", revised(session, **MOVED))
    reply = session.copy("CRC02", "CD45", revised(session, source="CRC01", all=True))
    own = read_gates(gates_path).slides
    for name in TCELL_PANEL.names:
        gate, source = own["CRC02"].markers[name], own["CRC01"].markers[name]
        assert replace(gate, set_by=source.set_by, set_at=source.set_at) == source
        assert gate.set_by == "A. Pathologist (copied from CRC01)"
    assert set(reply["states"]["CRC02"].values()) == {"copied"}
    session.accept("CRC02", "CD4", revised(session))
    assert session.cohort_reply()["states"]["CRC02"]["CD4"] == "reviewed"
    assert session.undo(revised(session))["marker"] == "CD4"


def test_raw_and_corrected_intensities_keep_the_ranges_sizes(session, gates_path):
    before = session.slide_reply("CRC01")["counts"]["CD45"]
    reply = session.correct("CRC01", "CD45", revised(session, corrected=False))
    gate = read_gates(gates_path).slides["CRC01"].markers["CD45"]
    assert gate.af is None and gate.positive_min > 200
    after = reply["slide"]["counts"]["CD45"]
    for kind in ("negative", "uncertain", "positive"):
        assert after[kind] == pytest.approx(before[kind], abs=12)
    session.correct("CRC01", "CD45", revised(session, corrected=True))
    assert read_gates(gates_path).slides["CRC01"].markers["CD45"].af is not None


def test_a_proposal_is_that_of_gate_propose_and_counts_as_unseen(session):
    session.set_thresholds("CRC01", "CD45", revised(session, **MOVED))
    reply = session.propose("CRC01", "CD45", revised(session))
    assert reply["states"]["CRC01"]["CD45"] == "proposed"
    assert reply["slide"]["gates"]["CD45"]["set_by"].startswith("lymphinfer gate propose")


def test_mistakes_are_told(session):
    with pytest.raises(UnknownError, match="no slide 'CRC99'"):
        session.slide_reply("CRC99")
    with pytest.raises(UnknownError, match="no marker"):
        session.histogram_reply("CRC01", "CD99")
    for value in ("x", float("nan"), True, None):
        with pytest.raises(DataError, match="no number"):
            session.preview("CRC01", "CD45", {"positive_min": value})
    with pytest.raises(DataError, match="overlap"):
        session.preview("CRC01", "CD45", {"positive_min": 1})
    with pytest.raises(ConflictError):
        session.accept("CRC01", "CD45", {"revision": "old"})
    with pytest.raises(DataError, match="another slide"):
        session.copy("CRC01", "CD45", revised(session, source="CRC01"))


def test_a_slide_without_artefact_limit_uses_all_cells(session):
    view = session.slides.view("CRC02")
    own = session.store.gates.slides["CRC02"]
    assert view.usable(SlideGates(own.markers)).all()
