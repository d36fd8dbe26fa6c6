from __future__ import annotations

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.errors import DataError
from lymphinfer.orion.cohort import scan_cohort
from lymphinfer.orion.layout import read_layout
from tests.cohorts.made_pair import made_nuclei, true_transform
from tests.cohorts.made_pair import write_he as write_pair_he
from tests.cohorts.made_pair import write_if as write_pair_if
from tests.orion.made_cohort import write_he

NAMES = ("DAPI", "CD45", "CD3", "CD4", "CD8")


def run(*words):
    return CliRunner().invoke(app, ["cohort", *map(str, words)])


@pytest.fixture
def folder(tmp_path):
    for name in ("p1", "p2"):
        (tmp_path / name).mkdir()
        write_he(tmp_path / name / "he.ome.tif", mpp=0.5)
        tifffile.imwrite(
            tmp_path / name / "if.ome.tif",
            np.zeros((5, 300, 420), np.uint16),
            ome=True,
            photometric="minisblack",
            metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}, "PhysicalSizeX": 0.5,
                      "PhysicalSizeY": 0.5},
        )  # fmt: skip
    return tmp_path


def test_init_names_slides_channels_and_markers_of_other_spelling(folder):
    done = run("init", folder)
    assert done.exit_code == 0, done.output
    layout = read_layout(folder / "cohort.toml")
    assert layout.channels == NAMES and layout.file.image.nuclei == "DAPI"
    assert layout.channel_of("CD3e") == "CD3" and layout.channel_of("CD8a") == "CD8"
    assert [s.name for s in layout.file.slide] == ["p1", "p2"] and layout.file.mpp == 0.5
    assert layout.file.cells.source == "measure"
    cohort, problems = scan_cohort(folder, measured=False)
    assert problems == [] and cohort.patients == ("p1", "p2")


def test_init_leaves_a_file_that_is_there(folder):
    run("init", folder)
    again = run("init", folder)
    assert isinstance(again.exception, DataError) and "is there already" in str(again.exception)


def test_init_refuses_a_folder_without_slides(tmp_path):
    assert "no H&E" in str(run("init", tmp_path).exception)


def test_check_reports_all_that_is_wrong(folder):
    run("init", folder)
    (folder / "p2" / "if.ome.tif").unlink()
    done = run("check", folder)
    assert done.exit_code == 1
    assert "no such file" in done.output and "has not been measured" in done.output


@pytest.mark.slow
def test_register_writes_transform_and_picture_and_refuses_an_unrelated_slide(tmp_path):
    write_pair_he(tmp_path / "he.ome.tif", made_nuclei())
    write_pair_if(tmp_path / "if.ome.tif", made_nuclei(), true_transform(3.0, 200.0))
    write_pair_if(tmp_path / "other.ome.tif", made_nuclei(seed=5), true_transform(0, 0))
    slides = "".join(
        f'[[slide]]\nname = "{name}"\nhe = "he.ome.tif"\nif = "{file}"\n'
        for name, file in (("good", "if.ome.tif"), ("bad", "other.ome.tif"))
    )
    (tmp_path / "cohort.toml").write_text(
        'format = "lymphinfer-cohort"\nversion = 1\nmpp = 1.0\npanel = "one"\n'
        '[image]\nchannels = ["DAPI", "M"]\nnuclei = "DAPI"\n[cells]\nsource = "measure"\n'
        f'[[marker]]\nname = "M"\ncolor = [1, 2, 3]\n{slides}'
    )
    done = run("register", tmp_path)
    assert done.exit_code == 1
    assert "Refused" in done.output and (tmp_path / "transforms" / "good.png").is_file()
    assert (tmp_path / "transforms" / "good.toml").is_file()
    assert not (tmp_path / "transforms" / "bad.toml").exists()
