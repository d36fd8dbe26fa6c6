"""Tables compare settings, resume, and print the paper's numbers beside ours."""

import csv
import io

import pytest

from lymphinfer.errors import DataError
from lymphinfer.paper.numbers import TABLE_1, rows_of
from lymphinfer.paper.patch_sizes import run_patch_size_study
from lymphinfer.paper.table1 import as_csv, choose_rows, markdown, row_config, run_table1
from lymphinfer.paper.trial import TrialMarker, TrialResult
from lymphinfer.training.fit import Trainer
from tests.training.training_made import retrain_config


def result(key, auroc=0.5):
    numbers = auroc, 0.4, 0.6, 0.5, 0.55, None
    markers = (
        *(TrialMarker(name, *numbers) for name in ("CD45", "CD3e", "CD4")),
        TrialMarker("CD8a", None, None, None, None, None, None),
    )
    return TrialResult(key, 88_000_000, 3, 12.0, "random weights", "test", markers)


def test_the_paper_s_table_has_twelve_rows():
    assert len(TABLE_1) == len({row.key for row in TABLE_1}) == 12
    assert TABLE_1[2].cells[2] == (0.92, 0.51)
    assert TABLE_1[11].cells[3] == (0.74, 0.65)
    # Weighting lifts balanced accuracy of the rarest marker in every pair of rows.
    for plain, weighted in zip(TABLE_1[::2], TABLE_1[1::2], strict=True):
        assert weighted.cells[3][1] > plain.cells[3][1]


def test_rows_can_be_chosen():
    assert [r.key for r in choose_rows(keys=["convnext_base-wbce"])] == [
        "convnext_base-wbce-single",
        "convnext_base-wbce-mtl",
    ]
    assert len(choose_rows(backbones=["resnet10t"])) == 4
    assert not choose_rows(backbones=["resnet10t"])[0].cells
    assert rows_of("phikon-resize")[0].cells == rows_of("phikon")[0].cells
    with pytest.raises(DataError, match="convnext_base-bce-single"):
        choose_rows(keys=["resnet"])


def test_a_row_s_configuration_is_the_row_s(base_bundle):
    config = row_config(retrain_config(base_bundle), TABLE_1[5])
    assert config.model.backbone == "hovernet"
    assert config.model.independent
    assert config.fit.weighted


def test_both_forms_show_the_paper_s_numbers():
    done = [(TABLE_1[0], result("a")), (rows_of("resnet10t")[3], result("b", 0.75))]
    text = markdown(done)
    assert "| ConvNeXt 88M | 88M |  |  | **0.50 / 0.50** (0.96 / 0.89) |" in text
    assert "| resnet10t | 88M | x | x | **0.75 / 0.50** |" in text
    assert "**- / -** (0.88 / 0.54)" in text
    rows = list(csv.DictReader(io.StringIO(as_csv(done))))
    assert len(rows) == 8
    assert rows[0]["paper_auroc"] == "0.96"
    assert rows[7]["auroc"] == rows[7]["paper_auroc"] == ""


@pytest.mark.slow
def test_a_table_is_run_resumed_and_written(case, tmp_path, monkeypatch):
    options = {"backbones": ["test_resnet"], "keys": ["mtl"], "device": "cpu", "progress": False}
    given = case.cohort, case.gates, case.config
    original = Trainer.fit
    fits = []

    def dying(self):
        fits.append(self.folder.name)
        if len(fits) == 2:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Trainer, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        run_table1(*given, tmp_path, **options)
    first = (tmp_path / "table1.md").read_text()
    text = run_table1(*given, tmp_path, **options)
    assert len(fits) == 3
    assert fits[1] == fits[2]
    assert text.startswith(first.splitlines()[0])
    assert "best possible" in text
    assert (tmp_path / "table1.md").read_text() == text
    assert len((tmp_path / "table1.csv").read_text().splitlines()) == 9
    assert run_table1(*given, tmp_path, **options) == text
    assert len(fits) == 3


def test_patch_sizes_are_compared(case, tmp_path):
    said = []
    text = run_patch_size_study(
        *(case.cohort, case.gates, case.config, tmp_path),
        sizes=(24, 32),
        device="cpu",
        progress=False,
        say=said.append,
    )
    assert len(said) == 2
    assert "| 24 | 8 |" in text
    assert "| 0.92 |" in text
    assert (tmp_path / "patches-24px").is_dir()
    bad = retrain_config(case.config.bundle.detector, model={"backbone": "phikon"})
    with pytest.raises(DataError, match="not 40"):
        run_patch_size_study(case.cohort, case.gates, bad, tmp_path, sizes=(32, 40))
