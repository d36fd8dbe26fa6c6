"""What a source stands for: folders, patterns, lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from lymphinfer.batch.inputs import find_jobs, is_single, results_root
from lymphinfer.errors import SlideError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def tree(jobs, root: Path) -> dict[str, str]:
    return {job.slide.name: job.folder.relative_to(root).as_posix() for job in jobs}


def test_a_folder_is_searched_and_mirrored(tmp_path):
    slides, out = tmp_path / "in", tmp_path / "in" / "results"
    touch(slides / "a.svs", slides / "a.ndpi", slides / "x" / "b.ome.tif", slides / "x" / "y.SVS",
          slides / ".hidden.svs", slides / ".cache" / "c.svs", slides / "notes.txt",
          slides / "old.lymphinfer" / "d.tif", out / "e" / "f.tif")  # fmt: skip
    (slides / "folder.svs").mkdir()
    assert tree(find_jobs(slides, out), out) == {
        "a.ndpi": "a", "a.svs": "a.svs", "folder.svs": "folder", "b.ome.tif": "x/b", "y.SVS": "x/y",
    }  # fmt: skip


def test_the_folder_beside_a_mirax_slide_is_not_searched(tmp_path):
    touch(tmp_path / "m.mrxs", tmp_path / "m" / "Slidedat.ini", tmp_path / "m" / "preview.jpg",
          tmp_path / "n" / "other.jpg")  # fmt: skip
    assert set(tree(find_jobs(tmp_path, tmp_path / "out"), tmp_path / "out")) == {
        "m.mrxs", "other.jpg",
    }  # fmt: skip


def test_a_pattern_is_mirrored_from_its_first_wildcard(tmp_path):
    touch(tmp_path / "c" / "1" / "a.svs", tmp_path / "c" / "2" / "a.svs", tmp_path / "c" / "b.tif")
    pattern = tmp_path / "c" / "*" / "*.svs"
    jobs = find_jobs(pattern, tmp_path / "out")
    assert [job.folder for job in jobs] == [tmp_path / "out" / n / "a" for n in "12"]
    assert results_root(pattern) == tmp_path / "c.lymphinfer"
    assert not is_single(pattern)
    with pytest.raises(SlideError, match="no slide matches"):
        find_jobs(tmp_path / "c" / "*.ndpi")


def test_the_current_folder_has_its_results_beside_it(tmp_path, monkeypatch):
    touch(tmp_path / "here" / "a.svs")
    monkeypatch.chdir(tmp_path / "here")
    assert results_root(Path()) == tmp_path / "here.lymphinfer"
    (job,) = find_jobs(Path())
    assert job.folder == tmp_path / "here.lymphinfer" / "a"


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_a_list_names_slides_relative_to_itself(tmp_path, suffix, separator):
    (tmp_path / "lists" / "mine").mkdir(parents=True)
    rows = [("Slide", "note", "MPP", "bundle", "out"), ("x/a.svs", "hi", "0.25", "mine", ""),
            (str(tmp_path / "far" / "b.ome.tif"), "", "", "he-v1", ""), ("", "", "", "", ""),
            ("c.svs", "", "", "", "deep/c")]  # fmt: skip
    table = tmp_path / "lists" / f"l.{suffix}"
    table.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows), "utf-8")
    a, b, c = find_jobs(table, tmp_path / "out")
    assert (a.slide, a.folder) == (tmp_path / "lists/x/a.svs", tmp_path / "out/x/a")
    assert (a.mpp, a.bundle) == (0.25, str(tmp_path / "lists" / "mine"))
    inner = tmp_path.relative_to(tmp_path.anchor)
    assert (b.folder, b.mpp, b.bundle) == (tmp_path / "out" / inner / "far" / "b", None, "he-v1")
    assert c.folder == tmp_path / "out" / "deep" / "c"


def test_every_bad_row_of_a_list_is_named_with_its_line(tmp_path):
    table = tmp_path / "l.csv"
    table.write_text("slide,mpp\na.svs,0.25\nb.svs,small\n,0.5\nc.svs,-1\na.svs,\n")
    with pytest.raises(SlideError) as caught:
        find_jobs(table)
    message = str(caught.value)
    assert "4 bad rows" in message
    for words in ("line 3: mpp 'small'", "line 4: no slide", "line 5: mpp -1", "line 6: the same"):
        assert words in message
    table.write_text("file,mpp\na.svs,0.25\n")
    with pytest.raises(SlideError, match="no column `slide`"):
        find_jobs(table)
    table.write_text("slide\n")
    with pytest.raises(SlideError, match="no rows"):
        find_jobs(table)
