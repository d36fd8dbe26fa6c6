"""A gated cohort becomes a bundle; a kill in any stage does not change which."""

import hashlib
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import open_cohort
from lymphinfer.training import retrain as module
from lymphinfer.training.fit import Trainer
from lymphinfer.training.plan import plan_retrain
from lymphinfer.training.retrain import retrain
from tests.training.training_made import retrain_config


class Killed(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def run(case, out, **changes):
    given = {"cohort": case.cohort, "gates": case.gates, "config": case.config} | changes
    given = {"device": "cpu", "progress": False, "command": "made"} | given
    return retrain(out=out, **given)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_bundle_loads_and_says_what_it_rests_on(trained):
    bundle = load_bundle(trained.bundle.folder)
    assert bundle.manifest.is_simulated
    assert bundle.markers.patch_px == 32
    assert {p.name for p in trained.bundle.folder.iterdir()} == {
        *("bundle.toml", "CARD.md", "detector.safetensors", "classifier.safetensors")
    }
    patches = np.full((3, 32, 32, 3), 200, np.uint8)
    heads = bundle.markers.head_outputs(bundle.markers.logits(patches, None))
    assert heads.shape == (3, 4)
    assert ((heads >= 0) & (heads <= 1)).all()
    for spec, measured in zip(trained.bundle.markers, trained.evaluation.markers, strict=True):
        assert 0 < spec.threshold < 1
        if spec.auroc is not None:
            assert spec.auroc == pytest.approx(measured.auroc.value, abs=1e-4)


def test_the_card_has_the_usual_headings_and_the_numbers(trained):
    text = (trained.bundle.folder / "CARD.md").read_text()
    for heading in ("Intended use", "Evidence", "Data", "Training", "Metrics", "Limits"):
        assert f"\n## {heading}\n" in text
    for part in ("Not for diagnosis", "Every label here was simulated", "Best possible", "`made`"):
        assert part in text


def test_the_same_command_again_does_nothing(case, trained):
    said = []
    before = digests(trained.bundle.folder)
    again = run(case, trained.bundle.folder, say=said.append)
    assert again.evaluation is None
    assert "everything is done" in said[0]
    assert digests(trained.bundle.folder) == before


def test_a_lost_bundle_is_made_again_without_training(case, trained, monkeypatch, tmp_path):
    out = tmp_path / "mine"
    shutil.copytree(trained.work, module.work_folder(out))
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("trained again"))
    run(case, out)
    assert digests(out) == digests(trained.bundle.folder)


def dying(monkeypatch, where, name, after=0):
    """Replace a function by one that dies at its call number `after`."""
    original = getattr(where, name)
    calls = iter(range(10_000))

    def function(*args, **kwargs):
        if next(calls) >= after:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(where, name, function)


STAGES = [
    ("lymphinfer.orion.patch_writer.PatchWriter", "finish", 1),
    ("lymphinfer.training.fit.Trainer", "_step", 13),
    ("lymphinfer.training.retrain", "population_of", 0),
    ("lymphinfer.training.results", "plot_evaluation", 0),
    ("lymphinfer.training.bundle", "write_card", 0),
]


@pytest.mark.slow
def test_a_kill_in_each_stage_ends_in_the_same_bundle(case, trained, tmp_path, monkeypatch):
    out = tmp_path / "mine"
    for where, name, after in STAGES:
        with monkeypatch.context() as patch:
            dying(patch, pkgutil.resolve_name(where), name, after)
            with pytest.raises(Killed):
                run(case, out)
    run(case, out)
    assert digests(out) == digests(trained.bundle.folder)


SCRIPT = """
import itertools, os, signal, sys, tomllib, torch
from pathlib import Path
torch.set_num_threads(1)
from lymphinfer.training.config_file import parse_config
from lymphinfer.training.retrain import retrain
cohort, gates, config, out = map(Path, sys.argv[1:5])
name, number = sys.argv[5], int(sys.argv[6])
events = itertools.count(1)
def die(event, values):
    writes = event == "os.rename" or (event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and name in str(values) and next(events) == number:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
settings = parse_config(tomllib.loads(config.read_text()))
retrain(cohort, gates, settings, out, device="cpu", progress=False, command="made")
"""


@pytest.mark.slow
def test_kill_9_again_and_again_ends_in_the_same_bundle(case, trained, tmp_path):
    out, config = tmp_path / "mine", tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(case.config.to_dict()))
    command = [sys.executable, "-c", SCRIPT, *map(str, (case.cohort, case.gates, config, out))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    # Dead at such an opening or renaming of a file to write, in each stage.
    for name, number in (("zarr.json", 7), ("state.safetensors", 4), ("calibration.json", 2),
                         ("CARD.md", 2)):  # fmt: skip
        done = subprocess.run([*command, name, str(number)], env=environment)
        assert done.returncode == -signal.SIGKILL, name
    assert subprocess.run([*command, "nothing", "0"], env=environment).returncode == 0
    assert digests(out) == digests(trained.bundle.folder)


def test_every_problem_is_told_at_once(case, tmp_path):
    document = tomllib.loads(case.gates.read_text())
    slides = list(document["slides"])
    del document["slides"][slides[0]]
    document["slides"][slides[1]]["CD45"]["negative_max"] = 1e6
    gates = tmp_path / "gates.toml"
    gates.write_text(tomli_w.dumps(document))
    cohort = tmp_path / "cohort"
    shutil.copytree(case.cohort, cohort)
    next((cohort / "data" / slides[2]).glob("*-registered.ome.tif")).unlink()
    config = retrain_config(
        tmp_path / "nothing", model={"backbone": "resnet_of_dreams", "backbone_weights": "no.file"}
    )
    with pytest.raises(DataError) as error:
        run(case, tmp_path / "out", cohort=cohort, gates=gates, config=config)
    text = str(error.value)
    for part in (
        *(f"no gates for slide {slides[0]}", "overlap", slides[2], "resnet_of_dreams"),
        *("no.file", "[bundle] detector"),
    ):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_a_cohort_of_one_patient_is_refused(case, tmp_path):
    folder = sorted((case.cohort / "data").iterdir())[0]
    with pytest.raises(DataError, match="1 patient"):
        run(case, tmp_path / "out", cohort=folder)


def test_a_marker_without_a_positive_cell_is_named(case, tmp_path):
    document = tomllib.loads(case.gates.read_text())
    for slide in document["slides"].values():
        slide["CD8a"] |= {"positive_min": 5e4, "overexposure_min": 6e4}
    gates = tmp_path / "gates.toml"
    gates.write_text(tomli_w.dumps(document))
    with pytest.raises(DataError, match="CD8a has no positive cell"):
        run(case, tmp_path / "out", gates=gates)


def test_two_patients_are_measured_on_validation_and_it_is_said(case, tmp_path):
    splits = tmp_path / "splits.toml"
    first, second, *_ = open_cohort(case.cohort).patients
    splits.write_text(f"train = ['{first}']\nval = ['{second}']\n")
    said = []
    config = retrain_config(case.config.bundle.detector, data={"splits": str(splits)})
    result = run(case, tmp_path / "out", config=config, say=said.append)
    assert any("VALIDATION" in line for line in said)
    assert "VALIDATION patients" in (tmp_path / "out" / "CARD.md").read_text()
    assert "the validation patients" in result.bundle.markers[0].source


def test_a_plan_tells_steps_sizes_and_time(case, trained, tmp_path):
    out = tmp_path / "new"
    steps = plan_retrain(
        case.cohort, case.gates, case.config, out, module.work_folder(out), device="cpu"
    )
    assert [s.name for s in steps] == [
        *("check", "patches", "train", "calibrate", "evaluate", "bundle")
    ]
    assert "4 slides" in steps[0].size
    assert "test_resnet" in steps[2].size
    assert all(s.seconds >= 0 and s.duration for s in steps)
    assert not list(tmp_path.iterdir())
    later = plan_retrain(case.cohort, case.gates, case.config, out, trained.work, device="cpu")
    assert "patches" in later[1].done
    assert later[2].done == "begun"
