"""Fetching from a real server on the loopback address, which misbehaves as networks do."""

from __future__ import annotations

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lymphinfer import downloading
from lymphinfer.bundles.download import fetch, pull_bundle
from lymphinfer.bundles.loading import verify_files
from lymphinfer.errors import BundleError, ResultError
from tests.bundles.test_bundles import folder as folder

CONTENT = bytes(range(256)) * 400


class Files:
    """What the server has, how often it cuts a reply, and what it was asked for."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cuts = 0
        self.ranges: list[str | None] = []
        self.honours_ranges = True
        self.unsatisfiable = False
        self.url = ""


@pytest.fixture
def server(monkeypatch):
    state = Files()
    monkeypatch.setattr(downloading, "TRIES", 3)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            start = 0
            if state.unsatisfiable or (asked == f"bytes={len(content)}-"):
                self.send_error(416)
                return
            if asked and state.honours_ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            rest = content[start:]
            if state.cuts:
                state.cuts -= 1
                rest = rest[: len(rest) // 2]
            self.wfile.write(rest)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.files["/w"] = CONTENT
    server.cuts = 2
    path = fetch(
        server.url + "w", tmp_path / "w", sha256=hashlib.sha256(CONTENT).hexdigest(), wait_s=0
    )
    assert path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_later_command_goes_on_from_the_part_that_is_there(server, tmp_path):
    server.files["/w"] = CONTENT
    server.cuts = 60
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(BundleError, match=r"3 tries brought nothing more .*goes on from what is"):
        fetch(server.url + "w", tmp_path / "w", sha256=digest, wait_s=0)
    assert not (tmp_path / "w").exists()
    server.cuts = 0
    assert fetch(server.url + "w", tmp_path / "w", sha256=digest).read_bytes() == CONTENT
    assert server.ranges[-1] != "bytes=0-" and server.ranges[-1] is not None


def test_a_server_without_ranges_starts_over_and_the_file_is_right(server, tmp_path):
    server.files["/w"] = CONTENT
    server.cuts, server.honours_ranges = 1, False
    path = fetch(server.url + "w", tmp_path / "w", sha256=None, wait_s=0)
    assert path.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_kept(server, tmp_path):
    server.files["/w"] = CONTENT
    with pytest.raises(BundleError, match=r"has sha256 .* not kept"):
        fetch(server.url + "w", tmp_path / "w", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_and_right_is_not_fetched_again(server, tmp_path):
    (tmp_path / "w").write_bytes(CONTENT)
    fetch(server.url + "w", tmp_path / "w", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert not server.ranges


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TRIES", 2)
    with pytest.raises(BundleError, match=rf"fetch the file on another machine.*{tmp_path}"):
        fetch("http://127.0.0.1:9/w", tmp_path / "w", sha256=None, wait_s=0)


def test_a_missing_file_is_no_network_trouble(server, tmp_path):
    with pytest.raises(BundleError, match="answers 404"):
        fetch(server.url + "none", tmp_path / "w", sha256=None)


@pytest.mark.parametrize("url", ["ftp://host/w", "he-v1", "/etc/passwd"])
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(BundleError, match="not an address"):
        fetch(url, tmp_path / "w", sha256=None)


def test_a_part_that_is_no_part_of_the_file_is_fetched_anew(server, tmp_path):
    """A server answers 416 where all its bytes are there; these are others."""
    server.files["/w"] = CONTENT
    (tmp_path / "w.part").write_bytes(b"x" * len(CONTENT))
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(server.url + "w", tmp_path / "w", sha256=digest).read_bytes() == CONTENT


def test_a_server_that_never_has_the_range_is_an_error_with_its_words(server, tmp_path):
    server.files["/w"], server.unsatisfiable = CONTENT, True
    with pytest.raises(BundleError, match="the server has no more bytes than are there"):
        fetch(server.url + "w", tmp_path / "w", sha256=None, wait_s=0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_no_network_trouble(server, tmp_path):
    server.files["/w"] = CONTENT
    (tmp_path / "w.part").symlink_to("/dev/full")
    with pytest.raises(ResultError, match="the disk is full: free some space"):
        fetch(server.url + "w", tmp_path / "w", sha256=None, wait_s=0)
    assert len(server.ranges) == 1


def test_too_small_a_disk_is_told_before_it_is_filled(server, tmp_path, monkeypatch):
    server.files["/w"] = CONTENT
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResultError, match=r"are still to come, but 0.0 GiB are free"):
        fetch(server.url + "w", tmp_path / "w", sha256=None, wait_s=0)


def test_a_file_of_a_shared_folder_is_taken_as_one_of_the_network(tmp_path):
    (tmp_path / "there").write_bytes(CONTENT)
    url = (tmp_path / "there").as_uri()
    assert fetch(url, tmp_path / "w", sha256=None).read_bytes() == CONTENT
    with pytest.raises(BundleError, match=r"none: cannot be read \(No such file"):
        fetch((tmp_path / "none").as_uri(), tmp_path / "w", sha256=None)


def serve(server, folder):
    for path in folder.iterdir():
        server.files[f"/published/tiny/{path.name}"] = path.read_bytes()


@pytest.mark.parametrize(
    "ending", ["published/tiny", "published/tiny/", "published/tiny/bundle.toml"]
)
def test_a_bundle_is_pulled_whole(server, folder, tmp_path, ending):
    serve(server, folder)
    server.cuts = 1
    manifest = pull_bundle(server.url + ending, tmp_path / "mine")
    assert manifest.folder == tmp_path / "mine" / "tiny"
    verify_files(manifest)
    assert not [p for p in (tmp_path / "mine").iterdir() if p.name != "tiny"]
    assert pull_bundle(server.url + ending, tmp_path / "mine").sha256 == manifest.sha256


def test_a_bundle_with_another_manifest_than_its_publisher_states_is_refused(
    server, folder, tmp_path
):
    serve(server, folder)
    with pytest.raises(BundleError, match="sha256"):
        pull_bundle(server.url + "published/tiny", tmp_path / "mine", sha256="1" * 64)
    assert not (tmp_path / "mine" / "tiny").exists()


def test_changed_weights_are_refused_and_no_bundle_appears(server, folder, tmp_path):
    serve(server, folder)
    server.files["/published/tiny/classifier.safetensors"] += b"x"
    with pytest.raises(BundleError, match=r"classifier\.safetensors: has sha256"):
        pull_bundle(server.url + "published/tiny", tmp_path / "mine")
    assert not (tmp_path / "mine" / "tiny").exists()


def test_another_bundle_of_the_same_name_is_not_overwritten(server, folder, tmp_path):
    serve(server, folder)
    pull_bundle(server.url + "published/tiny", tmp_path / "mine")
    toml = server.files["/published/tiny/bundle.toml"]
    server.files["/published/tiny/bundle.toml"] = toml.replace(b'version = "1"', b'version = "2"')
    with pytest.raises(BundleError, match="another bundle of this name"):
        pull_bundle(server.url + "published/tiny", tmp_path / "mine")
