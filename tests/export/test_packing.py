"""Texts that were compressed whole are read by whoever reads zip and gzip."""

import gzip
import shutil
import subprocess
import zipfile
import zlib

import numpy as np
import pytest

from lymphinfer.export.packing import add_packed, packed

TEXTS = {
    "a-0001.geojson": b"",
    "a-0002.geojson": "µm^2 ".encode() * 300_000,
    "a-0003.geojson": np.random.default_rng(0).bytes(100_000),
}
# What QuPath reads with.
JAVA = """
import java.io.*; import java.nio.file.*; import java.util.*; import java.util.zip.*;
public class Reads {
  static void tell(String name, InputStream in) throws IOException {
    CRC32 crc = new CRC32(); byte[] all = in.readAllBytes(); crc.update(all);
    System.out.println(name + " " + all.length + " " + crc.getValue());
  }
  public static void main(String[] args) throws IOException {
    try (ZipInputStream zip = new ZipInputStream(Files.newInputStream(Path.of(args[0])))) {
      for (ZipEntry e; (e = zip.getNextEntry()) != null; ) tell(e.getName(), zip);
    }
    try (ZipFile zip = new ZipFile(args[0])) {
      for (ZipEntry e : Collections.list(zip.entries())) tell(e.getName(), zip.getInputStream(e));
    }
    tell("gzip", new GZIPInputStream(Files.newInputStream(Path.of(args[1]))));
  }
}
"""


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in TEXTS.items():
            add_packed(archive, name, packed(text))
    return path


def test_a_zip_holds_what_was_packed(archive):
    with zipfile.ZipFile(archive) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == TEXTS
        assert {entry.date_time[0] for entry in found.infolist()} == {1980}


def test_members_one_behind_the_other_are_one_gzip_file():
    assert gzip.decompress(b"".join(packed(text).member for text in TEXTS.values())) == b"".join(
        TEXTS.values()
    )


def test_the_same_text_gives_the_same_bytes():
    text = TEXTS["a-0002.geojson"]
    assert packed(text) == packed(bytes(bytearray(text)))
    assert len(packed(text).member) < len(text) / 50


def test_a_zip_beyond_4_gb_can_be_read(tmp_path):
    path = tmp_path / "a.zip"
    text = TEXTS["a-0002.geojson"]
    with zipfile.ZipFile(path, "w") as archive:
        add_packed(archive, "first", packed(text))
        # A hole that takes no room on the disk.
        archive.start_dir = 5 * 2**30
        add_packed(archive, "last", packed(text[::-1]))
    assert path.stat().st_size > 5 * 2**30
    with zipfile.ZipFile(path) as found:
        assert found.read("first") == text
        assert found.read("last") == text[::-1]


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not there")
def test_unzip_finds_no_error(archive):
    assert subprocess.run(["unzip", "-t", archive], capture_output=True).returncode == 0


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler is there")
def test_java_reads_both_as_qupath_does(archive, tmp_path):
    source, whole = tmp_path / "Reads.java", tmp_path / "a.gz"
    source.write_text(JAVA)
    whole.write_bytes(b"".join(packed(text).member for text in TEXTS.values()))
    told = subprocess.run(
        ["java", source, archive, whole], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    entries = [line_of(name, text) for name, text in TEXTS.items()]
    assert told == [*entries, *entries, line_of("gzip", b"".join(TEXTS.values()))]


def line_of(name, text):
    return f"{name} {len(text)} {zlib.crc32(text)}"
