"""Slides in groups: the numbers are those of the slides, and what is not known is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lymphinfer.cli.app import app
from lymphinfer.errors import ResultError
from lymphinfer.export.report.batch import write_batch_report
from lymphinfer.export.report.cohort import group_slides, read_grouping, write_tables
from lymphinfer.export.report.slide import SlideReport
from tests.export.browser import open_page
from tests.export.results_made import made_nuclei, made_result, spread_centers
from tests.export.test_report import Page

DENSITIES = {"a": 0.2, "b": 0.3, "c": 0.5, "d": 0.7, "e": 0.8, "f": 0.9}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    centers = spread_centers(40)
    for name, p in DENSITIES.items():
        made_result(folder / name, [made_nuclei(centers, np.full(40, p))], name=f"{name}.svs",
                    identity=name)  # fmt: skip
    return folder


def table(root, text):
    path = root.parent / "patients.csv"
    path.write_text(text)
    return path


def results(root):
    from lymphinfer.export.results import open_result

    return [open_result(root / name) for name in DENSITIES]


ROWS = ("slide;patient;stage;age\nslides/a.svs;1;10;50\nb;1;10;50\nc.svs;2;10;61\nd.svs;3;10;70\n"
        "e.svs;4;2;44\n")  # fmt: skip


def test_a_group_has_the_mean_of_its_slides_and_an_interval_over_patients(root):
    cohort = group_slides(results(root), read_grouping(table(root, ROWS), "stage"))
    assert cohort.names == ("2", "10") and cohort.left_out == ("f.svs",)
    rows = {(r["group"], r["marker"]): r for r in cohort.groups}
    early = rows["10", "CD45"]
    wanted = np.array([0.2, 0.3, 0.5, 0.7]) * 40 / 0.15
    assert early["slides"] == 4 and early["patients"] == 3
    assert early["mean"] == pytest.approx(wanted.mean(), rel=1e-3)
    assert early["median"] == pytest.approx(np.median(wanted), rel=1e-3)
    # The slides of patient 1 stand or fall together: 0.25 on average is the least of a draw.
    assert 0.25 * 40 / 0.15 <= early["mean_low"] + 1 < early["mean"] < early["mean_high"]
    late = rows["2", "CD45"]
    assert late["slides"] == 1 and late["mean_low"] is None
    for words in (
        "5 slides of 4 patients in 2 groups by `stage`",
        "f.svs",
        "none below 3 patients",
    ):
        assert words in cohort.statement


def test_the_tables_are_read_by_pandas_with_the_user_s_columns(root, tmp_path):
    cohort = group_slides(results(root), read_grouping(table(root, ROWS), "stage"))
    slides, groups = map(pd.read_csv, write_tables(tmp_path, cohort))
    assert len(slides) == 6 * 4 and len(groups) == 2 * 4
    one = slides[(slides.slide == "c.svs") & (slides.marker == "CD45")].iloc[0]
    assert one.age == 61 and one.evidence == "stain" and one.group == 10
    assert slides[slides.slide == "f.svs"].group.isna().all()
    assert set(groups.evidence) == {"stain", "base-rate"}


def test_the_page_of_all_shows_the_groups_with_their_evidence(root):
    reports = [SlideReport(r.folder / "report.html", r, "data:,", "") for r in results(root)]
    grouping = read_grouping(table(root, ROWS), "stage")
    page = Page(write_batch_report(root, reports, figures=False, grouping=grouping))
    for said in ("By stage", "5 slides of 4 patients", "too few", "base-rate", "groups.csv"):
        assert said in page.words
    assert (root / "cohort.csv").is_file() and (root / "groups.csv").is_file()


@pytest.mark.parametrize(("text", "words"), [
    ("slide,age\na.svs,5\n", "no column stage in the table of slides; it has slide, age"),
    ("slide,stage\na.svs,1\nx/a.svs,2\n", "the slide a.svs stands there twice"),
    ("slide,stage\nother.svs,1\n", "none of its slides"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_told(root, text, words):
    with pytest.raises(ResultError, match=words):
        group_slides(results(root), read_grouping(table(root, text), "stage"))


def test_a_column_without_a_table_is_told(root):
    done = CliRunner().invoke(app, ["report", str(root), "--by", "stage"])
    assert isinstance(done.exception, ResultError)


def test_a_browser_shows_the_groups_and_asks_for_nothing(root):
    reports = [SlideReport(r.folder / "report.html", r, "data:,", "") for r in results(root)]
    grouping = read_grouping(table(root, ROWS), "stage")
    path = write_batch_report(root, reports, figures=False, grouping=grouping)
    with open_page(path) as (page, asked, said):
        section = page.locator("section[aria-labelledby=groups]")
        assert section.is_visible()
        width = section.locator("img").evaluate("image => image.naturalWidth")
        assert width > 400
        rows = section.locator("tbody tr")
        assert rows.count() == 8 and "CD45" in rows.first.inner_text()
        # Nothing stands out of the page beside the table, which scrolls by itself.
        assert page.evaluate("document.body.scrollWidth <= window.innerWidth")
        # A slide's name is not broken into syllables by the columns beside it.
        assert page.locator("#table tbody th").first.evaluate("cell => cell.clientWidth") > 180
        page.screenshot(path=str(root / "cohort.png"), full_page=True)
    assert said == []
    assert all(url.startswith(("data:", "file:")) for url in asked)
