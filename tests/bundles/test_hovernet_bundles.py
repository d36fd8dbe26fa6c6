"""HoVer-Net weights from a server or a file, and bundles that borrow a detector."""

from __future__ import annotations

import hashlib
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file

from lymphinfer.bundles import importing_hovernet
from lymphinfer.bundles.composing import compose, find_detector, used_manifest
from lymphinfer.bundles.importing_hovernet import import_hovernet, pull_hovernet, read_weights
from lymphinfer.bundles.loading import load_bundle, verify_files
from lymphinfer.bundles.schema import read_manifest
from lymphinfer.errors import BundleError
from lymphinfer.nuclei.hovernet.detector import HoVerNetDetector
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network
from lymphinfer.nuclei.hovernet.tiatoolbox import Published
from tests.bundles.test_bundles import edit
from tests.bundles.test_bundles import folder as folder
from tests.bundles.test_download import server as server

REASON = "TIAToolbox is not installed (extra hovernet)"
TYPES = ("Epithelial", "Lymphocyte")


@pytest.fixture
def weights(tmp_path):
    pytest.importorskip("tiatoolbox", reason=REASON)
    torch.manual_seed(0)
    path = tmp_path / "made.pth"
    torch.save(build_network(HoVerNetConfig("fast", TYPES, 8)).state_dict(), path)
    return path


def test_a_pickle_of_tensors_becomes_a_bundle_without_one(weights, folder, tmp_path):
    made = import_hovernet(weights, tmp_path / "mine" / "hv", types=TYPES, markers_from=folder)
    assert {p.suffix for p in made.folder.iterdir()} == {".safetensors", ".toml", ".md"}
    bundle = load_bundle(made.folder)
    assert isinstance(bundle.detector, HoVerNetDetector)
    assert bundle.detector.config == HoVerNetConfig("fast", TYPES, 8)
    assert bundle.detector.scale == pytest.approx(0.325 / 0.25)
    state = bundle.detector.net.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in read_weights(weights).items())
    assert made.detector["source_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "nothing to compare it with" in (made.folder / "CARD.md").read_text()
    with pytest.raises(BundleError, match="is there already"):
        import_hovernet(weights, made.folder, markers_from=folder)


class Harm:
    """What a pickle may hold."""

    def __reduce__(self):
        return print, ("this must never run",)


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, folder, capsys):
    pytest.importorskip("tiatoolbox", reason=REASON)
    for name, content in (("zip.pth", {"w": Harm()}), ("list.pth", [1, 2])):
        torch.save(content, tmp_path / name)
        with pytest.raises(BundleError, match=r"more than tensors|not a table of tensors"):
            import_hovernet(tmp_path / name, tmp_path / "out", markers_from=folder)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(BundleError, match="more than tensors"):
        read_weights(tmp_path / "plain.pth")
    assert "never run" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_an_old_torch_reads_no_pickle(weights, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(BundleError, match=r"update it to 2\.6"):
        read_weights(weights)


def test_other_weights_a_wrong_hash_and_wrong_types_are_refused(weights, folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BundleError, match="expected 000000"):
        import_hovernet(weights, out, markers_from=folder, sha256="0" * 64)
    with pytest.raises(BundleError, match="3 types are named"):
        import_hovernet(weights, out, types=("a", "b", "c"), markers_from=folder)
    save_file({"fc": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="not the weights of TIAToolbox"):
        import_hovernet(tmp_path / "other.safetensors", out, markers_from=folder)
    assert not out.exists()


def entry(server):
    return Published("hovernet_made", "fast", TYPES, 0.25, f"{server.url}made.pth")


def test_published_weights_are_pulled_resumed_and_hashed(weights, server, folder, tmp_path):
    server.files["/made.pth"] = weights.read_bytes()
    server.cuts = 1
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    out = tmp_path / "mine" / "hovernet_made"
    made = pull_hovernet("hovernet_made", out, markers_from=folder, sha256=digest,
                         published=entry(server), wait_s=0)  # fmt: skip
    assert server.ranges[1] == f"bytes={len(weights.read_bytes()) // 2}-"
    assert made.detector["network"]["types"] == list(TYPES)
    verify_files(made)
    assert [p.name for p in out.parent.iterdir()] == ["hovernet_made"]


def test_a_wrong_hash_and_a_missing_network_leave_nothing_and_say_what_to_do(
    weights, server, folder, tmp_path, monkeypatch
):
    server.files["/made.pth"] = weights.read_bytes()
    out = tmp_path / "mine" / "hovernet_made"
    with pytest.raises(BundleError, match="it was not kept"):
        pull_hovernet("hovernet_made", out, markers_from=folder, sha256="1" * 64,
                      published=entry(server))  # fmt: skip
    offline = Published("hovernet_made", "fast", TYPES, 0.25, "http://127.0.0.1:9/made.pth")
    with pytest.raises(BundleError, match=r"weights import hovernet hovernet_made\.pth"):
        pull_hovernet("hovernet_made", out, markers_from=folder, published=offline, wait_s=0)
    assert not out.exists()


def test_tiatoolbox_s_table_names_the_four_published_networks():
    pytest.importorskip("tiatoolbox", reason=REASON)
    table = importing_hovernet.published_models()
    assert {"hovernet_fast-monusac", "hovernet_fast-pannuke", "hovernet_original-consep",
            "hovernet_original-kumar"} <= set(table)  # fmt: skip
    assert table["hovernet_fast-pannuke"].types[1] == "Inflammatory"
    assert table["hovernet_original-kumar"].types == ()
    assert all(p.mpp == 0.25 and p.url.endswith(f"{n}.pth") for n, p in table.items())


def test_a_borrowed_detector_changes_name_and_hash_and_keeps_the_markers(weights, folder, tmp_path):
    made = import_hovernet(weights, tmp_path / "hv", types=TYPES, markers_from=folder)
    base = read_manifest(folder)
    composed, source = compose(base, made.folder)
    assert source.sha256 == made.sha256
    assert composed.sha256 not in (base.sha256, made.sha256)
    assert composed.markers == base.markers
    assert composed.identity["detector"]["name"] == "hv"
    assert used_manifest(folder, made.folder).sha256 == composed.sha256
    bundle = load_bundle(folder, detector=made.folder)
    assert isinstance(bundle.detector, HoVerNetDetector)
    assert bundle.markers.patch_px == 112
    assert compose(base, folder)[0] is base


def test_markers_off_the_detector_s_own_features_take_no_other_detector(weights, folder, tmp_path):
    made = import_hovernet(weights, tmp_path / "hv", types=TYPES, markers_from=folder)
    text = (folder / "bundle.toml").read_text()
    start, end = text.index("[classifier]"), text.index("[[marker]]")
    edit(folder, text[start:end], '[classifier]\nkind = "feature"\nmarkers = ["CD45"]\n\n')
    with pytest.raises(BundleError, match="choose a --bundle whose markers fit any nuclei"):
        compose(read_manifest(folder), made.folder)


def test_a_detector_that_is_not_here_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("lymphinfer.bundles.registry.user_weights", lambda: tmp_path)
    assert find_detector("stardist").name == "he-v2"
    with pytest.raises(BundleError, match="known bundles"):
        find_detector("nothing")
    monkeypatch.setitem(sys.modules, "tiatoolbox.models.architecture", None)
    with pytest.raises(BundleError, match=r"lymphinfer\[hovernet\]"):
        find_detector("hovernet")
    monkeypatch.undo()
    pytest.importorskip("tiatoolbox", reason=REASON)
    monkeypatch.setattr("lymphinfer.bundles.registry.user_weights", lambda: tmp_path)
    with pytest.raises(BundleError, match=r"weights pull hovernet_fast-monusac.*train-detector"):
        find_detector("hovernet")
