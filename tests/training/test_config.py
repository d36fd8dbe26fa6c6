"""A configuration file is read whole, and its problems are told at once."""

from pathlib import Path

import pytest

from lymphinfer.errors import DataError
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.config_file import load_config, parse_config, replace_section

EXAMPLES = Path(__file__).parents[2] / "examples" / "retrain"


def test_defaults_are_the_paper_s():
    config = RetrainConfig()
    assert (config.data.patch_px, config.data.mpp) == (112, 0.325)
    assert config.data.cells_per_patient == 20_000
    assert (config.model.backbone, config.model.hidden) == ("convnext_base", 512)
    fit = config.fit
    assert (fit.learning_rate, fit.weight_decay) == (5e-5, 1e-5)
    assert fit.batch_size * fit.accumulation == 512


def test_the_paper_s_example_says_the_defaults():
    assert load_config(EXAMPLES / "paper.toml") == RetrainConfig()


def test_the_small_example_is_valid():
    assert load_config(EXAMPLES / "cpu.toml").model.backbone == "resnet10t"


def test_every_problem_is_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        "[data]\npatch_px = 5\ncolour = 1\n[model]\nindependent = 1\n"
        "[fit]\nlearning_rate = 'fast'\nschedule = 'steps'\n[extra]\nx = 1\n"
    )
    with pytest.raises(DataError) as error:
        load_config(path)
    text = str(error.value)
    for part in (
        str(path),
        "[data] patch_px = 5: expected 16 or more",
        "[data] colour: unknown; known there: patch_px",
        "[model] independent = 1: expected true or false",
        "learning_rate = 'fast': expected a number",
        "[fit] schedule = 'steps': expected 'constant' or 'cosine'",
        "extra: unknown; known there: data, model, fit, bundle",
    ):
        assert part in text


def test_a_whole_number_is_a_number_and_a_truth_value_is_none():
    assert parse_config({"fit": {"learning_rate": 1}}).fit.learning_rate == 1.0
    with pytest.raises(DataError, match="learning_rate"):
        parse_config({"fit": {"learning_rate": True}})
    with pytest.raises(DataError, match="fit = 3: expected a table"):
        parse_config({"fit": 3})


def test_named_files_are_relative_to_the_configuration(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[data]\nsplits = 'splits.toml'\n")
    assert load_config(path).data.splits == str(tmp_path / "splits.toml")


@pytest.mark.parametrize(("text", "part"), [("a = [", "not valid TOML"), (None, "cannot be read")])
def test_an_unreadable_file_is_named(tmp_path, text, part):
    path = tmp_path / "c.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=part):
        load_config(path)


def test_changed_keys_are_checked_again():
    config = replace_section(RetrainConfig(), model={"backbone": "hovernet"})
    assert config.model.backbone == "hovernet"
    with pytest.raises(DataError, match="patch_px"):
        replace_section(config, data={"patch_px": 1})
