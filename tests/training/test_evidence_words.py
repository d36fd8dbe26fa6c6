"""What a retrained bundle claims: a stain with its patients, or a simulation."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lymphinfer.bundles.evidence import Evidence
from lymphinfer.markers.calibration import Calibration
from lymphinfer.training.bundle import marker_specs


@pytest.fixture
def trained():
    auroc = SimpleNamespace(value=0.9, low=0.85, high=0.94)
    return SimpleNamespace(
        split="test",
        evaluation=SimpleNamespace(markers=[SimpleNamespace(marker="CD45", auroc=auroc)]),
        calibrated=SimpleNamespace(calibrations=(Calibration(),), thresholds=(0.3,)),
    )


def inputs(simulated, one_patient=False):
    layout = SimpleNamespace(file=SimpleNamespace(one_patient=one_patient))
    return SimpleNamespace(
        simulated=simulated,
        splits=SimpleNamespace(train=("a", "b", "c"), val=("d",), test=("e",)),
        cohort=SimpleNamespace(root=Path("cohort"), layout=layout),
        gates=SimpleNamespace(sha256=lambda: "ab" * 32),
    )


def test_a_real_cohort_makes_a_stain_of_so_many_patients(trained):
    (spec,) = marker_specs(inputs(simulated=False), trained)
    assert spec.evidence is Evidence.STAIN and spec.called
    assert spec.statement.startswith("stain, 5 patients, AUROC 0.900 (0.850-0.940): cohort cohort")


def test_a_simulated_cohort_makes_nothing_but_a_simulation(trained):
    (spec,) = marker_specs(inputs(simulated=True), trained)
    assert spec.evidence is Evidence.SIMULATED and spec.patients is None


def test_parts_of_one_patients_slide_are_never_counted_as_patients(trained):
    (spec,) = marker_specs(inputs(simulated=False, one_patient=True), trained)
    assert spec.patients == 1
    assert spec.statement.startswith("stain, one patient, AUROC")
    assert "trained on 3 parts of one patient's slides, tested on 1 held-out parts" in spec.source
