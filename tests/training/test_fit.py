"""A run learns, stops in time, and goes on after a kill as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lymphinfer.errors import DataError, LymphinferError
from lymphinfer.training.checkpoint import BEST, STATE, read_log, read_state
from lymphinfer.training.config_file import replace_section
from lymphinfer.training.fingerprint import run_fingerprint
from lymphinfer.training.fit import Trainer
from tests.training.training_made import make_sets, tiny_config


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return make_sets(tmp_path_factory.mktemp("stores"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(sets, folder, **changes):
    config = tiny_config(**changes)
    return Trainer(config, *sets, folder, device="cpu", progress=False).fit()


@pytest.fixture(scope="module")
def reference(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    torch.set_num_threads(1)
    return folder, train(sets, folder)


def curve(folder):
    return [(r["step"], r["loss"]) for r in read_log(folder) if "loss" in r]


def weights(net):
    return {k: v.numpy() for k, v in net.state_dict().items()}


class Killed(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def kill_at(monkeypatch, step):
    original = Trainer._step

    def dying(self, group):
        if self.state.step == step:
            raise Killed
        return original(self, group)

    monkeypatch.setattr(Trainer, "_step", dying)


def test_it_learns(reference):
    _, result = reference
    assert result.state.best_auroc > 0.9
    assert result.state.history[-1]["train_loss"] < result.state.history[0]["train_loss"]


# Before the first checkpoint, within an epoch, at its end, and in the last.
@pytest.mark.parametrize(
    "step", [1, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 19))]
)
def test_a_killed_run_ends_with_the_same_curve_and_weights(
    sets, reference, tmp_path, monkeypatch, step
):
    folder, whole = reference
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            train(sets, tmp_path)
    resumed = train(sets, tmp_path)
    assert curve(tmp_path) == curve(folder)
    assert resumed.state.history == whole.state.history
    for name, value in weights(whole.net).items():
        np.testing.assert_array_equal(value, weights(resumed.net)[name])
    one, two = load_file(tmp_path / STATE), load_file(folder / STATE)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_kill_9_of_a_process_changes_nothing(sets, reference, tmp_path):
    folder, _ = reference
    script = (
        "import sys, torch, os, signal; torch.set_num_threads(1)\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from tests.training.training_made import tiny_config\n"
        "from lymphinfer.training.data import StoreSet\n"
        "from lymphinfer.training.fit import Trainer\n"
        "train, val, out = sys.argv[1].split(','), sys.argv[2], Path(sys.argv[3])\n"
        "t = Trainer(tiny_config(), StoreSet([Path(p) for p in train]), StoreSet([Path(val)]), out,"
        " device='cpu', progress=False)\n"
        "step = t._step\n"
        "def dying(group):\n"
        "    if t.state.step == 11: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(group)\n"
        "t._step = dying\n"
        "t.fit()\n"
    )
    paths = [str(s.path) for s in sets[0].stores], str(sets[1].stores[0].path)
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(paths[0]), paths[1], str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert read_state(tmp_path).step == 10
    train(sets, tmp_path)
    assert curve(tmp_path) == curve(folder)


def test_a_finished_run_is_read_not_repeated(sets, reference, monkeypatch):
    folder, whole = reference
    kill_at(monkeypatch, 0)
    again = train(sets, folder)
    for name, value in weights(whole.net).items():
        np.testing.assert_array_equal(value, weights(again.net)[name])


def test_it_stops_once_validation_no_longer_rises(sets, tmp_path, monkeypatch):
    rising = iter([0.6, 0.7, 0.65, 0.7, 0.6, 0.9])
    values = {}

    def auroc(labels, scores):
        key = labels.tobytes() + scores.tobytes()
        if key not in values:
            values[key] = next(rising) if len(values) % 4 == 0 else list(values.values())[-1]
        return values[key]

    monkeypatch.setattr("lymphinfer.training.validation.metrics.auroc", auroc)
    result = train(sets, tmp_path, epochs=6, patience=2)
    assert len(result.state.history) == 4
    assert result.state.best_epoch == 1


def test_another_configuration_does_not_go_on_with_a_run(sets, reference):
    folder, _ = reference
    with pytest.raises(DataError, match=r"settings: fit\.weighted was false, is true.*--work"):
        train(sets, folder, weighted=True)


def test_weights_of_the_same_name_and_other_content_are_other_weights(sets, tmp_path):
    file = tmp_path / "start.safetensors"
    marks = []
    for content in (b"one", b"other"):
        file.write_bytes(content)
        config = replace_section(tiny_config(), model={"backbone_weights": str(file)})
        marks.append(run_fingerprint(config, sets))
    assert marks[0] != marks[1]


def test_more_epochs_go_on_with_a_run(sets, tmp_path):
    train(sets, tmp_path, epochs=1)
    longer = train(sets, tmp_path, epochs=3)
    assert len(longer.state.history) == 3


def test_a_damaged_checkpoint_is_named(sets, tmp_path):
    tmp_path.joinpath(STATE).write_bytes(b"no tensors")
    with pytest.raises(DataError, match=STATE):
        train(sets, tmp_path)


def test_a_loss_that_explodes_is_told(sets, tmp_path):
    with pytest.raises(LymphinferError, match="learning_rate"):
        train(sets, tmp_path, learning_rate=1e30)


@pytest.mark.slow
def test_independent_weighted_half_precision_cosine_all_run(sets, tmp_path):
    config = tiny_config(weighted=True, schedule="cosine", precision="bf16", epochs=1)
    config = replace_section(config, model={"independent": True})
    result = Trainer(config, *sets, tmp_path, device="cpu", progress=False).fit()
    assert len(result.net.backbones) == 4
    rates = [r["rate"] for r in read_log(tmp_path) if "rate" in r]
    assert rates[-1] < rates[1]
    assert load_file(tmp_path / BEST).keys() == result.net.state_dict().keys()


def test_the_log_is_json_and_tensorboard_can_be_absent(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = tiny_config(epochs=1)
    Trainer(config, *sets, tmp_path, device="cpu").fit()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["aurocs"].keys() == set(sets[0].panel)
    assert not (tmp_path / "events").exists()
