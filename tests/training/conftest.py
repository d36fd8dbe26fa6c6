"""A small simulated cohort with gates, a base bundle with a tiny detector, and one retraining."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lymphinfer.bundles.schema import Evidence, MarkerSpec
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.gates_file import write_gates
from lymphinfer.orion.gating import propose_cohort
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate.cohort import simulate_cohort
from lymphinfer.training.retrain import RetrainResult, retrain
from tests.training.training_made import Case, retrain_config


@pytest.fixture(scope="session")
def base_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = StarDistConfig()
    folder = tmp_path_factory.mktemp("bundles") / "base"
    write_bundle(
        folder,
        modules={"detector.safetensors": build_network(network)},
        header={
            **{"name": "base", "version": "1", "summary": "for tests", "licence": "Apache-2.0"},
            **{"panel": TCELL_PANEL.name, "mpp": 0.325, "hierarchy": "conditional"},
        },
        detector={
            **{"kind": "stardist", "file": "detector.safetensors", "mpp": 0.325},
            **{"prob_threshold": 0.5, "nms_threshold": 0.3, "network": asdict(network)},
        },
        classifier={"kind": "feature", "markers": []},
        markers=[
            MarkerSpec(name, Evidence.BASE_RATE, "made", rate=0.3) for name in TCELL_PANEL.names
        ],
    )
    return folder


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory, base_bundle: Path) -> Case:
    root = tmp_path_factory.mktemp("simulated")
    cohort, gates = root / "cohort", root / "gates.toml"
    simulate_cohort(cohort, 4, 512, 5, imbalance="rich", workers=1)
    write_gates(gates, propose_cohort(open_cohort(cohort), TCELL_PANEL)[0])
    return Case(cohort, gates, retrain_config(base_bundle))


@pytest.fixture(scope="session")
def trained(case: Case, tmp_path_factory: pytest.TempPathFactory) -> RetrainResult:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("weights") / "mine"
    result = retrain(
        case.cohort, case.gates, case.config, out, device="cpu", progress=False, command="made"
    )
    assert result is not None
    return result
