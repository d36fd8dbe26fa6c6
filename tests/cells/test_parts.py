"""A part is there whole or not at all, and a folder of parts reads as one table."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lymphinfer.cells import parts
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.parts import count, is_done, list_parts, read_parts, write_part
from lymphinfer.errors import ResultError
from lymphinfer.panel import TCELL_PANEL
from tests.cells.nuclei_made import nuclei, outlines

EMPTY = np.empty((0, 32, 2))


@pytest.fixture
def folder(tmp_path):
    for i, n in enumerate([5, 0, 7]):
        write_part(tmp_path / f"shard-{i:05d}.parquet", nuclei(outlines(n, seed=i)), "print-1")
    return tmp_path


def test_parts_read_back_as_they_were_written_in_the_order_of_their_names(folder):
    tables = list(read_parts(folder, TCELL_PANEL))
    assert pa.concat_tables(tables).equals(
        pa.concat_tables([nuclei(outlines(5, seed=0)), nuclei(outlines(7, seed=2))])
    )
    assert count(folder) == 12


def test_one_row_group_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROW_GROUP", 4)
    write_part(tmp_path / "a.parquet", nuclei(outlines(10)), "p")
    assert [t.num_rows for t in read_parts(tmp_path, TCELL_PANEL)] == [4, 4, 2]


def test_the_same_nuclei_give_the_same_bytes(tmp_path):
    for name in ("a.parquet", "b.parquet"):
        write_part(tmp_path / name, nuclei(outlines(50)), "p")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_part_is_done_under_its_own_fingerprint_alone(folder):
    path = folder / "shard-00001.parquet"
    assert is_done(path, "print-1")
    assert not is_done(path, "print-2")
    assert not is_done(folder / "shard-00009.parquet", "print-1")
    assert not is_done(folder, "print-1")


@pytest.mark.parametrize("keep", [0, 3, 8, 200, -1])
def test_a_truncated_part_is_not_done(folder, keep):
    path = folder / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    assert not is_done(path, "print-1")


def test_a_foreign_file_is_not_done_and_is_named_when_read(folder):
    path = folder / "shard-00001.parquet"
    path.write_text("not parquet at all, but long enough to be looked at")
    assert not is_done(path, "print-1")
    with pytest.raises(ResultError, match=r"shard-00001.parquet .*delete it and run"):
        list(read_parts(folder, TCELL_PANEL))
    with pytest.raises(ResultError, match="shard-00001"):
        count(folder)


def test_damage_inside_a_part_is_named_when_read(folder):
    path = folder / "shard-00002.parquet"
    content = bytearray(path.read_bytes())
    content[4:600] = bytes(596)
    path.write_bytes(content)
    with pytest.raises(ResultError, match="shard-00002"):
        list(read_parts(folder, TCELL_PANEL))


def test_parts_of_two_runs_are_not_mixed(folder):
    write_part(folder / "shard-00003.parquet", nuclei(outlines(3)), "print-2")
    with pytest.raises(ResultError, match="different runs"):
        list(read_parts(folder, TCELL_PANEL))
    assert sum(t.num_rows for t in read_parts(folder, TCELL_PANEL, "print-1")) == 12
    assert sum(t.num_rows for t in read_parts(folder, TCELL_PANEL, "print-2")) == 3


def test_parts_of_another_panel_are_refused(folder):
    with pytest.raises(ResultError, match="not a nucleus table of the panel"):
        list(read_parts(folder, TCELL_PANEL.subset(["CD45", "CD3e"]), "print-1"))


def test_extra_columns_are_read_back(tmp_path):
    write_part(tmp_path / "a.parquet", nuclei(outlines(2), extras={"solidity": [1, 0.5]}), "p")
    (table,) = read_parts(tmp_path, TCELL_PANEL)
    assert sorted(table.column("solidity").to_pylist()) == [0.5, 1.0]


def test_a_missing_folder_has_no_parts(tmp_path):
    assert list_parts(tmp_path / "none") == []
    assert list(read_parts(tmp_path / "none", TCELL_PANEL)) == []


def test_a_full_disk_is_named_and_leaves_the_old_part(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_part(path, nuclei(outlines(2)), "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match=r"a\.parquet .*disk is full.*--out"):
        write_part(path, nuclei(outlines(9)), "new")
    assert is_done(path, "old")
    assert [f.name for f in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_while_a_part_is_written_is_named(tmp_path, monkeypatch):
    really_open = Path.open

    def full(self, mode):
        return really_open(Path("/dev/full"), "wb")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ResultError, match="disk is full"):
        write_part(tmp_path / "a.parquet", nuclei(outlines(500)), "p")


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EACCES, "no permission"), (errno.EROFS, "read-only")]
)
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, code, words):
    def refuse(self, mode):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ResultError, match=words):
        write_part(tmp_path / "a.parquet", nuclei(EMPTY), "p")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultError, match="no permission"):
        write_part(tmp_path / "a.parquet", nuclei(EMPTY), "p")


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "parts").write_text("")
    with pytest.raises(ResultError, match="stands where a folder is needed"):
        write_part(tmp_path / "parts" / "a.parquet", nuclei(EMPTY), "p")


def test_other_errors_pass_and_leave_nothing_behind(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "sub" / "file") as file:
        file.write(b"half")
        raise KeyError("broken")
    assert not list((tmp_path / "sub").iterdir())
