"""The pages as their readers meet them: in the file, and in a browser."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lymphinfer.errors import ResultError
from lymphinfer.export.report.batch import write_batch_report
from lymphinfer.export.report.hotspots import hot_spots, window_sums
from lymphinfer.export.report.pictures import NoSlide, open_result_slide
from lymphinfer.export.report.slide import write_slide_report
from lymphinfer.export.report.survey import survey
from lymphinfer.slides.identity import file_identity
from tests.cells.nuclei_made import nuclei
from tests.export.browser import open_page
from tests.export.results_made import (
    BALANCED,
    SIMULATED,
    STAIN,
    made_nuclei,
    made_result,
    spread_centers,
)
from tests.slides.made import write_svs

DIMENSIONS = (2000, 1500)
CLUSTER = (1500, 400)


def near_cluster(centers):
    return np.hypot(*(centers - CLUSTER).T) < 260


@pytest.fixture(scope="module")
def tables():
    centers = spread_centers(700, dimensions=DIMENSIONS)
    rng = np.random.default_rng(3)
    cd45 = np.where(near_cluster(centers), rng.uniform(0.7, 1, 700), rng.uniform(0, 0.3, 700))
    return [made_nuclei(centers[:300], cd45[:300]), made_nuclei(centers[300:], cd45[300:])]


@pytest.fixture(scope="module")
def slide(tmp_path_factory, tables):
    """A pink slide with a dark disc at every nucleus."""
    width, height = DIMENSIONS
    image = np.full((height, width, 3), (230, 180, 205), np.uint8)
    yy, xx = np.mgrid[-10:11, -10:11]
    disc = yy**2 + xx**2 <= 100
    for table in tables:
        for x, y in zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True):
            image[int(y) - 10 : int(y) + 11, int(x) - 10 : int(x) + 11][disc] = (70, 40, 120)
    return write_svs(tmp_path_factory.mktemp("slides") / "lung.svs", image, levels=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tables, slide):
    """A finished report with pictures of the slide."""
    folder = tmp_path_factory.mktemp("results") / "lung"
    result = made_result(
        folder,
        tables,
        dimensions=DIMENSIONS,
        identity=file_identity(slide),
        bounds_offset=(100, 50),
    )
    return write_slide_report(result, slides=slide.parent)


class Page(HTMLParser):
    """What a page holds: its words, tags with their attributes, and cells row by row."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.rows = [], [], []
        self._silent, self._in_cell = 0, False
        self.text = path.read_text("utf-8")
        self.feed(self.text)
        self.words = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._silent += tag in ("script", "style")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_cell &= tag not in ("th", "td")
        self._silent -= tag in ("script", "style")

    def handle_data(self, data):
        if self._silent:
            return
        self.words.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data.strip()

    def row(self, head):
        return next(row for row in self.rows if row and row[0] == head)


def test_counts_stand_beside_the_evidence_for_them(made):
    page = Page(made.path)
    markers = made.result.summary["markers"]
    cd45, cd8a = page.row("CD45"), page.row("CD8a")
    assert cd45[1] == "stain" and "AUROC 0.942" in cd45[-1]
    assert cd45[4] == f"{markers['CD45']['positive']:,}"
    assert cd8a[1] == "base-rate: not measured" and cd8a[4] == "never"
    assert f"{made.result.summary['nuclei']:,}" in page.words
    assert "ab" * 32 in page.words and "conditional" in page.words
    assert "Research use only. Not for diagnosis." in page.words
    assert "SIMULATED" not in page.text


def test_a_learned_marker_that_is_never_called_has_no_calls_on_the_page(tmp_path, tables):
    result = made_result(
        tmp_path / "a", tables, dimensions=DIMENSIONS, evidence=STAIN, point=BALANCED
    )
    page = Page(write_slide_report(result, figures=False).path)
    assert page.row("CD8a")[1] == "stain" and page.row("CD8a")[4] == "never"
    assert page.row("CD3e")[4] == "0"
    assert page.row("CD8a to CD3e")[1] == "never called"
    assert f"Called at {BALANCED['statement']}." in page.words


def test_a_ratio_is_given_only_where_both_markers_were_learned(made, tmp_path, tables):
    assert "nothing was learned for CD8a and CD3e" in Page(made.path).row("CD8a to CD3e")[1]
    calls = np.arange(700) % 5
    table = made_nuclei(spread_centers(700), np.linspace(0, 1, 700), calls=calls)
    result = made_result(tmp_path / "a", [table], evidence=SIMULATED)
    ratio = Page(write_slide_report(result, figures=False).path).row("CD8a to CD3e")
    assert ratio[1] == f"{140 / 420:.3f}" and ratio[2] == "0.460"


def test_a_simulated_bundle_is_announced_before_anything_else(tmp_path, tables):
    result = made_result(tmp_path / "a", tables, evidence=SIMULATED)
    page = Page(write_slide_report(result, figures=False).path)
    words = page.words
    assert words.index("says nothing about real tissue") < words.index("nuclei per mm²")
    assert "trained on SIMULATED slides" in words


def test_a_slide_that_is_not_there_is_told_and_the_rest_is_shown(tmp_path, tables):
    report = write_slide_report(made_result(tmp_path / "a", tables), figures=False)
    page = Page(report.path)
    assert "the slide file lung.svs was not found beside the results" in report.missing
    assert report.missing in page.words
    assert page.row("CD45") and page.text.count('class="heat"') == 5
    assert 'class="tissue"' not in page.text


def test_another_slide_of_the_same_name_is_not_shown(tmp_path, tables, slide):
    report = write_slide_report(
        made_result(tmp_path / "a", tables), slides=slide.parent, figures=False
    )
    assert "its content is not the one that was predicted" in report.missing


def test_the_slide_is_found_where_predict_read_it(tmp_path, tables, slide):
    (tmp_path / "cohort" / "sub").mkdir(parents=True)
    (tmp_path / "cohort" / "sub" / "lung.svs").write_bytes(slide.read_bytes())
    folder = tmp_path / "cohort.lymphinfer" / "sub" / "lung"
    result = made_result(folder, tables, identity=file_identity(slide))
    assert write_slide_report(result, figures=False).missing == ""


def test_the_slide_is_found_where_the_batch_names_it(tmp_path, tables, slide):
    folder = tmp_path / "out" / "lung"
    result = made_result(folder, tables, identity=file_identity(slide))
    (tmp_path / "out" / "batch.json").write_text(json.dumps({"slides": [{"slide": str(slide)}]}))
    with open_result_slide(result) as found:
        assert found.path == slide


def test_the_slide_is_found_where_the_summary_says_that_it_lay(tmp_path, tables, slide):
    from lymphinfer.cells.naming import slide_places

    kept = tmp_path / "a" / "slides" / "lung.svs"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(slide.read_bytes())
    folder = tmp_path / "a" / "elsewhere" / "deep" / "down" / "for" / "results" / "lung"
    places = slide_places(kept, folder)
    assert places == {
        "path": str(kept), "relative_path": "../../../../../../slides/lung.svs"
    }  # fmt: skip
    result = made_result(folder, tables, identity=file_identity(slide))
    result.summary["slide"].update(places)
    with open_result_slide(result) as found:
        assert found.path == kept
    # Both moved together: the full path leads nowhere, the other one still holds.
    (tmp_path / "a").rename(tmp_path / "b")
    moved = replace(result, folder=tmp_path / "b" / folder.relative_to(tmp_path / "a"))
    with open_result_slide(moved) as found:
        assert found.path.read_bytes() == slide.read_bytes()
    (tmp_path / "b" / "slides" / "lung.svs").unlink()
    with pytest.raises(NoSlide, match=f"nor at {kept}, where it was predicted: it was moved"):
        open_result_slide(moved)


def test_a_slide_without_nuclei_has_a_page(tmp_path):
    result = made_result(tmp_path / "a", [nuclei(np.empty((0, 32, 2)))])
    page = Page(write_slide_report(result).path)
    assert "no window of the slide has one expected CD45 nucleus" in page.words


def test_names_from_files_cannot_break_the_page(tmp_path, tables):
    name = "<script>alert(1)</script>.svs"
    result = made_result(tmp_path / "a", tables, name=name, warnings=["a <b> c"])
    page = Page(write_slide_report(result, figures=False).path)
    assert name in page.words and "a <b> c" in page.words
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_pages_are_small_and_ask_for_nothing(made):
    page = Page(made.path)
    assert made.path.stat().st_size < 5_000_000
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert not re.match(r"(?i)(https?:|//|file:)", value), (tag, value[:80])
        if tag == "img":
            assert attributes["src"].startswith("data:image/") and attributes["alt"].strip()
    assert not re.search(r"(?i)url\(|@import|fetch\(|XMLHttpRequest", page.text)
    assert "https://" not in page.text and "http://" not in page.text
    assert str(made.path.parent.parent) not in page.text


def test_every_figure_is_there_as_png_and_svg(made):
    folder = made.path.parent / "figures"
    names = {f"map_{k}" for k in ("nuclei", "cd45", "cd3e", "cd4", "cd8a")}
    names |= {f"histogram_{k}" for k in ("cd45", "cd3e", "cd4", "cd8a")} | {"densities"}
    assert {p.name for p in folder.iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "svg")}
    with Image.open(folder / "map_cd45.png") as picture:
        assert picture.width > 1000
    assert "<svg" in (folder / "map_cd45.svg").read_text()


def test_maps_histograms_and_examples_agree_with_the_nuclei(made, tables):
    found = survey(made.result)
    p = np.concatenate([t["p_cd45"].to_numpy() for t in tables])
    assert found.nuclei.sum() == 700
    np.testing.assert_allclose(found.expected["CD45"].sum(), p.sum(), rtol=1e-6)
    assert found.called["CD45"].sum() == (p >= 0.5).sum()
    np.testing.assert_array_equal(found.histograms["CD45"], np.histogram(p, 50, (0, 1))[0])
    assert {name for name, _ in found.examples} == {"CD45"}
    for (_, band), rows in found.examples.items():
        values = rows["p_cd45"].to_numpy()
        assert ((values >= band / 5) & (values <= (band + 1) / 5)).all()
        assert len(rows) == min(8, ((p >= band / 5) & (p < (band + 1) / 5)).sum())
    # A density integrates to the count.
    total = found.density(found.nuclei).sum() * (found.bin_um / 1000) ** 2
    assert abs(total / 700 - 1) < 0.05


def test_the_hottest_window_lies_on_the_cluster(made, tables):
    found = survey(made.result)
    spots = hot_spots(found)
    first = spots[0]
    assert abs(first.x + first.side / 2 - CLUSTER[0]) < 120
    assert abs(first.y + first.side / 2 - CLUSTER[1]) < 120
    x, y, p = (np.concatenate([t[c].to_numpy() for t in tables]) for c in ("x", "y", "p_cd45"))
    inside = (x >= first.x) & (x < first.x + first.side)
    inside &= (y >= first.y) & (y < first.y + first.side)
    assert first.nuclei == inside.sum()
    np.testing.assert_allclose(first.expected, p[inside].sum(), rtol=1e-6)
    assert hot_spots(found, first.expected / first.area_mm2)[1:] == []
    assert [s.expected for s in spots] == sorted((s.expected for s in spots), reverse=True)
    for i, a in enumerate(spots):
        for b in spots[i + 1 :]:
            assert abs(a.x - b.x) >= a.side - 1e-6 or abs(a.y - b.y) >= a.side - 1e-6
    row = Page(made.path).row("1")
    assert f"{round(first.x) - 100}, {round(first.y) - 50}" in row


def test_window_sums_are_those_of_a_loop():
    grid = np.random.default_rng(0).uniform(0, 1, (7, 9))
    sums = window_sums(grid, 3)
    assert sums.shape == (5, 7)
    for i in range(5):
        for j in range(7):
            assert sums[i, j] == pytest.approx(grid[i : i + 3, j : j + 3].sum())


def test_the_batch_links_every_slide_and_names_what_failed(made, tmp_path, tables):
    root = made.path.parent.parent
    other = made_result(root / "sub dir" / "b#1", tables, name="b#1.svs", evidence=SIMULATED)
    second = write_slide_report(other, figures=False)
    rows = [{"slide": "/x/bad.svs", "status": "failed", "reason": "cut short"},
            {"slide": "/x/lung.svs", "status": "done", "reason": ""}]  # fmt: skip
    (root / "batch.json").write_text(json.dumps({"slides": rows}))
    path = write_batch_report(root, [made, second], [(root / "broken", "cannot be read")])
    page = Page(path)
    links = [a["href"] for tag, a in page.tags if tag == "a" and a["href"] != "#content"]
    assert links == ["lung/report.html", "sub%20dir/b%231/report.html"]
    assert "broken: cannot be read" in page.words and "bad.svs: cut short" in page.words
    assert "1 of 2 slides" in page.words and "not measured" in page.words
    assert path.stat().st_size < 5_000_000
    assert {p.name for p in (root / "figures").iterdir()} == {"slides.png", "slides.svg"}


def test_a_missing_package_names_the_extra(tmp_path, tables, monkeypatch):
    import sys

    result = made_result(tmp_path / "a", tables)
    for name in ("matplotlib", "jinja2"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ResultError, match=r"pip install 'lymphinfer\[report\]'"):
                write_slide_report(result, figures=False)


def test_chooser_and_slider_change_the_map_and_nothing_is_fetched(made):
    with open_page(made.path) as (page, asked, said):
        shown = (
            "[...document.querySelectorAll('img.heat')].filter(i => !i.hidden)"
            ".map(i => i.dataset.layer)"
        )
        assert page.evaluate(shown) == ["cd45"]
        page.get_by_label("CD8a").check()
        assert page.evaluate(shown) == ["cd8a"]
        assert page.locator(".scale:visible").inner_text().count("not measured") == 1
        page.get_by_label("all nuclei").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(shown) == ["cd45"]
        opacity = "getComputedStyle(document.querySelector('img.heat:not([hidden])')).opacity"
        assert float(page.evaluate(opacity)) == pytest.approx(0.65)
        page.locator("#opacity").fill("20")
        assert float(page.evaluate(opacity)) == pytest.approx(0.2)
        assert page.locator("#opacity-value").inner_text() == "20 %"
        page.keyboard.press("Tab")
        page.locator("#show-spots").uncheck()
        assert page.locator("#spots").is_hidden()
        ratio = "(r => r.width / r.height)(document.getElementById('map').getBoundingClientRect())"
        assert page.evaluate(ratio) == pytest.approx(DIMENSIONS[0] / DIMENSIONS[1], rel=0.01)
        loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert page.evaluate(loaded)
        picture = Image.open(io.BytesIO(page.screenshot()))
        assert picture.size == (1280, 900)
        page.emulate_media(media="print")
        assert page.locator(".controls").is_hidden()
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [made.path.as_uri()]


def test_the_batch_is_sorted_by_a_click_on_a_heading(made, tables):
    root = made.path.parent.parent
    few = made_result(root / "few", [tables[0]], name="few.svs")
    path = write_batch_report(root, [made, write_slide_report(few, figures=False)], figures=False)
    with open_page(path) as (page, asked, said):
        names = "[...document.querySelectorAll('tbody a')].map(a => a.textContent)"
        assert page.evaluate(names) == ["lung.svs", "few.svs"]
        heading = page.get_by_role("button", name="nuclei", exact=True)
        heading.click()
        assert page.evaluate(names) == ["few.svs", "lung.svs"]
        assert page.locator("th[aria-sort=ascending]").count() == 1
        heading.click()
        assert page.evaluate(names) == ["lung.svs", "few.svs"]
        page.get_by_role("link", name="lung.svs").click()
        assert page.title() == "lung.svs"
        assert said == []
        assert all(url.startswith(("data:", "file:")) for url in asked)
