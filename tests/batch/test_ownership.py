"""Whose a result folder is, and where a slide's results go."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.ownership import check_owner, new_state
from lymphinfer.batch.state import Status, write_state
from lymphinfer.cells.naming import MAX_NAME_BYTES, safe_name, slide_stem
from lymphinfer.errors import ResultError
from lymphinfer.slides.identity import file_identity, image_identity


def slide(path: Path, content: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or str(path))
    return path


def finish(job) -> None:
    """Leave what a finished slide leaves, pictures that could be taken for slides among it."""
    write_state(job.folder, new_state(job.slide, status=Status.DONE))
    summary = {"slide": {"name": job.slide.name, "identity": file_identity(job.slide)}}
    (job.folder / "summary.json").write_text(json.dumps(summary))
    for name in (f"{job.folder.name}.labels.ome.tif", "figures/map_cd45.png", "parts/0.parquet"):
        slide(job.folder / name)


def folders(source: Path, out: Path) -> dict[str, str]:
    return {
        j.slide.relative_to(source).as_posix(): j.folder.relative_to(out).as_posix()
        for j in find_jobs(source, out)
    }


@pytest.mark.parametrize("out", ["slides", "slides/results", ".", "elsewhere"])
def test_results_are_never_taken_for_slides_wherever_they_go(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    for name in ("a.svs", "a.tif", "x/b.ome.tif", "x/y/c.png", "a/d.svs"):
        slide(tmp_path / "slides" / name)
    first = find_jobs(Path("slides"), Path(out))
    assert len({job.folder for job in first}) == len(first) == 5
    for job in first:
        assert not job.folder.is_file()
        finish(job)
    Path(out, "batch.json").write_text("{}")
    slide(Path(out, "figures", "slides.png"))
    assert find_jobs(Path("slides"), Path(out)) == first


def test_the_current_folder_may_hold_slides_and_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slide(tmp_path / "a.svs")
    for _ in range(2):
        (job,) = find_jobs(Path(), Path())
        assert (job.slide, job.folder) == (Path("a.svs"), Path("a"))
        finish(job)


def test_slides_in_the_results_folder_are_passed_over_with_a_word(tmp_path, caplog):
    slide(tmp_path / "in" / "a.svs")
    slide(tmp_path / "in" / "old" / "b.svs")
    assert folders(tmp_path / "in", tmp_path / "in" / "old") == {"a.svs": "a"}
    assert "1 files in it that may be slides are passed over" in caplog.text


def test_the_folder_of_a_mirax_slide_is_not_written_into(tmp_path):
    slide(tmp_path / "m.mrxs")
    slide(tmp_path / "m" / "Slidedat.ini")
    (job,) = find_jobs(tmp_path, tmp_path)
    assert job.folder.name.startswith("m~")
    finish(job)
    assert find_jobs(tmp_path, tmp_path) == [job]


def test_results_stay_where_they_are_when_slides_come_and_go(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    slide(source / "a.svs")
    (job,) = find_jobs(source, out)
    finish(job)
    slide(source / "a.ndpi")
    expected = {"a.svs": "a", "a.ndpi": "a.ndpi"}
    assert folders(source, out) == expected
    for job in find_jobs(source, out):
        finish(job)
    (source / "a.svs").unlink()
    assert folders(source, out) == {"a.ndpi": "a.ndpi"}


def test_a_slide_that_has_moved_or_changed_keeps_its_results(tmp_path):
    one = slide(tmp_path / "p1" / "a.svs", "pixels")
    out = tmp_path / "out"
    (job,) = find_jobs(one, out)
    finish(job)
    one.write_text("a better scan")
    assert find_jobs(one, out)[0].folder == job.folder
    one.write_text("pixels")
    (tmp_path / "p9").mkdir()
    moved = one.rename(tmp_path / "p9" / "a.svs")
    assert find_jobs(moved, out)[0].folder == job.folder


def test_namesakes_of_any_number_have_folders_of_their_own(tmp_path, caplog):
    out = tmp_path / "out"
    found = []
    for patient in range(4):
        (job,) = find_jobs(slide(tmp_path / f"p{patient}" / "a.svs"), out)
        finish(job)
        found.append(job.folder)
    assert found[0] == out / "a" and len(set(found)) == 4
    assert caplog.text.count("holds the results of another slide") == 3
    again = [find_jobs(tmp_path / f"p{n}" / "a.svs", out)[0].folder for n in range(4)]
    assert again == found
    with pytest.raises(ResultError, match="holds the results of another slide"):
        check_owner(found[0], tmp_path / "p1" / "a.svs")


def test_loops_and_hard_links_give_each_slide_once(tmp_path, caplog):
    if sys.platform == "win32":
        pytest.skip("links need rights on Windows")
    one = slide(tmp_path / "in" / "x" / "a.svs")
    os.link(one, tmp_path / "in" / "b.svs")
    for name, target in (("self", "."), ("up", ".."), ("x/back", "../x"), ("gone", "nowhere")):
        (tmp_path / "in" / name).symlink_to(target)
    slide(tmp_path / "beside.svs")
    assert list(folders(tmp_path / "in", tmp_path / "out")) == ["b.svs"]
    for words in ("up leads to a folder above", "gone is a link to nothing", "is the same file as"):
        assert words in caplog.text


def test_what_systems_leave_is_passed_over(tmp_path):
    slide(tmp_path / "in" / "a.SVS")
    for junk in ("._a.svs", "Thumbs.db", ".DS_Store", "@eaDir/a.jpg", "__MACOSX/x.tif"):
        slide(tmp_path / "in" / junk)
    assert folders(tmp_path / "in", tmp_path / "out") == {"a.SVS": "a"}


@pytest.mark.parametrize(
    "name",
    ["n" * 251 + ".svs", "ä" * 125 + ".svs", "blank .svs", "dot..svs", "line\nbreak.svs", "...svs",
     "Gr\udcf6.svs", "n" * 240 + ".ome.tif"],
)  # fmt: skip
def test_an_odd_name_becomes_one_that_every_disk_takes(name):
    stem = slide_stem(Path(name))
    assert len(stem.encode()) + len(".points.geojson.gz") <= MAX_NAME_BYTES
    assert stem == stem.rstrip(" .") and stem.isprintable() and "~" in stem
    assert stem != slide_stem(Path("x" + name[1:]))


@pytest.mark.parametrize("name", ["a", "B 1.8 (x)", "x[1]", "100%", "日本", "n" * 230, "-dash"])
def test_a_plain_name_is_its_own(name):
    assert safe_name(name) == name


def test_an_address_keeps_its_results_and_tells_no_password(tmp_path, monkeypatch):
    address = Path("https://example.org/a.svs?token=secret")
    monkeypatch.chdir(tmp_path)
    (job,) = find_jobs(address, Path("out"))
    assert job.folder == Path("out", "a")
    write_state(job.folder, new_state(address, status=Status.DONE))
    (job.folder / "summary.json").write_text(
        json.dumps({"slide": {"name": "a.svs", "identity": "0" * 64, "image": 0}})
    )
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert find_jobs(address, Path("../out"))[0].folder == Path("../out/a")
    check_owner(Path("../out/a"), address)
    assert "secret" not in (tmp_path / "out" / "a" / "state.json").read_text()
    slide(tmp_path / "in" / "a.svs")
    (other,) = find_jobs(Path("a.svs"), Path("../out"))
    assert other.folder != Path("../out/a")


def test_another_image_of_a_file_that_has_moved_is_known_by_the_file(tmp_path):
    first = slide(tmp_path / "x" / "a.tif", "content")
    (job,) = find_jobs(first, tmp_path / "out")
    write_state(job.folder, new_state(first, status=Status.DONE))
    identity = image_identity(file_identity(first), 2)
    (job.folder / "summary.json").write_text(
        json.dumps({"slide": {"name": "a.tif", "identity": identity, "image": 2}})
    )
    moved = slide(tmp_path / "y" / "a.tif", "content")
    first.unlink()
    assert find_jobs(moved, tmp_path / "out")[0].folder == job.folder


def test_a_store_is_one_slide_and_its_insides_are_none(tmp_path):
    store = tmp_path / "in" / "a.zarr"
    slide(store / ".zattrs", "{}")
    slide(store / "pictures" / "b.png")
    finished = tmp_path / "in" / "c"
    write_state(finished, new_state(slide(tmp_path / "in" / "c.svs"), status=Status.DONE))
    slide(finished / "c.spatialdata.zarr" / ".zattrs", "{}")
    assert folders(tmp_path / "in", tmp_path / "in") == {"a.zarr": "a", "c.svs": "c"}
