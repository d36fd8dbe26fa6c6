"""`lymphinfer weights` as a user calls it."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.cli.app import app
from tests.bundles.test_bundles import folder as folder
from tests.nuclei.test_keras import net as net
from tests.nuclei.test_keras import write_model


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)], env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output or result.exception
    return result.output


def test_list_names_the_shipped_bundles_and_their_evidence():
    text = run("list")
    assert "he-v2 (default)" in " ".join(text.split())
    assert "sim-orion-v1" in text and "base-rate" in text


def test_info_shows_the_card_and_what_each_marker_rests_on():
    text = run("info", "he-v1")
    assert "nothing learned; never called" in " ".join(text.split()) and "Intended use" in text


def test_the_shipped_bundles_are_good():
    assert "Bad" not in run("verify")


def test_verify_fails_on_one_flipped_byte(folder):
    assert "Good" in run("verify", folder)
    path = folder / "stardist.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert "stardist.safetensors has sha256" in " ".join(run("verify", folder, code=1).split())


@pytest.mark.parametrize("name", ["model.pkl", "extra/state.pt"])
def test_verify_refuses_a_pickle_beside_the_weights(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x80\x04.")
    assert "pickle" in run("verify", folder, code=1)


def test_pull_takes_a_bundle_from_an_address(folder, tmp_path):
    run("pull", folder.as_uri(), "--to", tmp_path / "mine")
    assert read_manifest(tmp_path / "mine" / "tiny").sha256 == read_manifest(folder).sha256


def test_import_makes_a_bundle_of_a_keras_model(folder, net, tmp_path):
    source = tmp_path / "2D_made_he"
    write_model(source, net)
    run("import", "stardist-keras", source, "--mpp", 0.5, "--markers-from", folder,
        "--to", tmp_path / "mine")  # fmt: skip
    made = load_bundle(tmp_path / "mine" / "2D_made_he")
    assert made.detector.scale == pytest.approx(0.325 / 0.5)
    for key, value in made.detector.net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), net.state_dict()[key].numpy())
    card = (tmp_path / "mine" / "2D_made_he" / "CARD.md").read_text()
    assert "2D_made_he" in card and "tiny" in card
    assert "nothing" in run("info", tmp_path / "mine" / "2D_made_he")


def test_import_does_not_overwrite(folder, net, tmp_path):
    write_model(tmp_path / "model", net)
    arguments = ["import", "stardist-keras", tmp_path / "model", "--mpp", 0.5, "--markers-from",
                 folder, "--to", tmp_path / "mine"]  # fmt: skip
    run(*arguments)
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    assert result.exit_code != 0 and "is there already" in str(result.exception)
