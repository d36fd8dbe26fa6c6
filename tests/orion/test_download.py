import fsspec
import pytest

from lymphinfer import downloading
from lymphinfer.errors import DataError, ResultError
from lymphinfer.orion import download as module
from lymphinfer.orion.download import download, find_remote
from lymphinfer.orion.manifest import select

CONTENT = {"he": bytes(range(256)) * 40, "cells": b"CellID\n" * 700}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(downloading.time, "sleep", lambda _: None)


@pytest.fixture
def bucket():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for row in select(["CRC01", "C33"]):
        for kind, content in CONTENT.items():
            fs.pipe(f"/bucket/{row.folder}/{row.files[kind].name}", content)
    yield fs
    fs.store.clear()


class Counting:
    """A file system that counts bytes and breaks when told to."""

    def __init__(self, fs, fail_after=None, error=None):
        self.fs, self.fail_after, self.error = fs, fail_after, error
        self.ranges = []

    def ls(self, *args, **kwargs):
        return self.fs.ls(*args, **kwargs)

    def cat_file(self, path, start, end):
        if self.fail_after is not None and len(self.ranges) >= self.fail_after:
            raise self.error or ConnectionResetError("gone")
        self.ranges.append((path, start, end))
        return self.fs.cat_file(path, start=start, end=end)


def test_chosen_kinds_of_chosen_slides_arrive_whole(bucket, tmp_path):
    files = find_remote(bucket, select(["C33"]), ("he", "cells"), "/bucket")
    assert [(f.folder, f.kind) for f in files] == [
        (folder, kind) for folder in ("CRC33_01", "CRC33_02") for kind in ("he", "cells")
    ]
    seen = []
    paths = download(bucket, files, tmp_path, lambda *args: seen.append(args))
    for file, path in zip(files, paths, strict=True):
        assert path == tmp_path / file.folder / file.name
        assert path.read_bytes() == CONTENT[file.kind]
    assert seen[-1][1:] == (4900, 4900)
    assert not list(tmp_path.rglob("*.part"))


def test_a_broken_download_goes_on_where_it_stopped(bucket, tmp_path):
    files = find_remote(bucket, select(["CRC01"]), ("he",), "/bucket")
    broken = Counting(bucket, fail_after=4)
    with pytest.raises(DataError, match="stopped at byte 4,000 of 10,240"):
        download(broken, files, tmp_path)
    part = tmp_path / "CRC01" / f"{files[0].name}.part"
    assert part.stat().st_size == 4000 and not part.with_suffix("").exists()
    again = Counting(bucket)
    (path,) = download(again, files, tmp_path)
    assert again.ranges[0][1] == 4000 and len(again.ranges) == 7
    assert path.read_bytes() == CONTENT["he"]
    done = Counting(bucket)
    download(done, files, tmp_path)
    assert done.ranges == []


def test_wrong_sizes_are_fetched_again(bucket, tmp_path):
    files = find_remote(bucket, select(["CRC01"]), ("cells",), "/bucket")
    home = tmp_path / "CRC01"
    home.mkdir()
    (home / files[0].name).write_bytes(b"short")
    (home / f"{files[0].name}.part").write_bytes(b"x" * 6000)
    (path,) = download(bucket, files, tmp_path)
    assert path.read_bytes() == CONTENT["cells"]


def test_short_answers_are_asked_for_again_and_never_stored(bucket, tmp_path):
    class Short(Counting):
        def cat_file(self, path, start, end):
            data = super().cat_file(path, start, end)
            return data[:-1] if len(self.ranges) % 2 else data

    files = find_remote(bucket, select(["CRC01"]), ("cells",), "/bucket")
    (path,) = download(Short(bucket), files, tmp_path)
    assert path.read_bytes() == CONTENT["cells"]


def test_no_network_is_said_with_what_to_do(bucket, tmp_path):
    class Offline:
        def ls(self, *_, **__):
            raise TimeoutError("no route to host")

    with pytest.raises(DataError, match=r"cannot be reached \(TimeoutError: no route.*HTTPS_PROXY"):
        find_remote(Offline(), select(["CRC01"]), ("he",), "/bucket")


def test_missing_folders_and_double_files_are_all_named(bucket):
    bucket.pipe("/bucket/CRC01/extra-registered.ome.tif", b"")
    with pytest.raises(DataError) as caught:
        find_remote(bucket, select(["CRC01", "CRC02"]), ("he", "mask"), "/bucket")
    text = str(caught.value)
    assert "2 files match *-registered.ome.tif" in text
    assert "0 files match *-mask.ome.tif" in text
    assert "CRC02: no such folder" in text


def test_too_small_a_disk_is_told_before_anything_is_fetched(bucket, tmp_path, monkeypatch):
    files = find_remote(bucket, select(["CRC01"]), ("he",), "/bucket")
    usage = module.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    counting = Counting(bucket)
    with pytest.raises(ResultError, match="are free"):
        download(counting, files, tmp_path)
    assert counting.ranges == []
