from __future__ import annotations

import pytest
import torch

from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.registry import find_bundle
from lymphinfer.bundles.schema import Evidence, MarkerSpec, read_manifest
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.errors import BundleError
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.panel import Marker, Panel


@pytest.fixture
def folder(tmp_path):
    return write_tiny(
        tmp_path / "tiny", StarDistConfig(n_filter_base=4, n_conv_after_unet=8, n_depth=2)
    )


def write_tiny(folder, config):
    """A bundle of a small classifier and a detector with random weights."""
    torch.manual_seed(0)
    net = build_network(config)
    classifier = MarkerClassifier(ClassifierConfig(("CD45",), backbone="test_resnet", hidden=8))
    write_bundle(
        folder,
        modules={"stardist.safetensors": net, "classifier.safetensors": classifier},
        header={"name": folder.name, "version": "1", "summary": "", "licence": "Apache-2.0",
                "panel": "t-cell", "mpp": 0.325, "hierarchy": "conditional"},
        detector={"kind": "stardist", "file": "stardist.safetensors", "mpp": 0.325,
                  "prob_threshold": 0.5, "nms_threshold": 0.4, "network": net.config.to_dict()},
        classifier={"kind": "patch", "file": "classifier.safetensors",
                    "network": classifier.config.to_dict()},
        markers=[
            MarkerSpec("CD45", Evidence.MORPHOLOGY, "made", threshold=0.5, auroc=0.9,
                       auroc_interval=(0.8, 0.95)),
            MarkerSpec("CD3e", Evidence.BASE_RATE, "made", rate=0.4, rate_range=(0.1, 0.6)),
            MarkerSpec("CD4", Evidence.BASE_RATE, "made", rate=0.6),
            MarkerSpec("CD8a", Evidence.BASE_RATE, "made", rate=0.5),
        ],
    )  # fmt: skip
    return folder


def edit(folder, old: str, new: str) -> None:
    path = folder / "bundle.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_bundle_loads_as_it_was_written(folder):
    bundle = load_bundle(folder)
    assert bundle.manifest.panel.names == ("CD45", "CD3e", "CD4", "CD8a")
    assert bundle.markers.learned == ("CD45",)
    heads = bundle.markers.head_outputs(torch.zeros(2, 1).numpy())
    assert heads[0].tolist() == pytest.approx([0.5, 0.4, 0.6, 0.5])
    assert bundle.manifest.evidence["CD45"]["auroc_interval"] == [0.8, 0.95]


def test_one_flipped_byte_is_refused_and_the_file_named(folder):
    path = folder / "classifier.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"classifier\.safetensors has sha256"):
        load_bundle(folder)


def test_a_missing_weight_file_is_named(folder):
    (folder / "stardist.safetensors").unlink()
    with pytest.raises(BundleError, match=r"stardist\.safetensors is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "../outside.safetensors"])
def test_weights_in_another_format_or_place_are_refused(folder, name):
    edit(folder, '"stardist.safetensors" =', f'"{name}" =')
    with pytest.raises(BundleError, match="safetensors in the bundle's own folder"):
        read_manifest(folder)


def test_every_problem_of_a_manifest_is_reported_at_once(folder):
    edit(folder, 'name = "CD4"', 'name = "CD5"')
    edit(folder, 'evidence = "morphology"', 'evidence = "believed"')
    with pytest.raises(BundleError, match=r"CD45\] .*believed.*no \[\[marker\]\] named CD4"):
        read_manifest(folder)


def test_a_manifest_of_a_later_schema_asks_for_an_update(folder):
    edit(folder, "schema = 1", "schema = 99")
    with pytest.raises(BundleError, match="update LymphInfer"):
        read_manifest(folder)


def test_weights_of_another_network_are_refused(folder):
    edit(folder, "n_filter_base = 4", "n_filter_base = 8")
    with pytest.raises(BundleError, match="not the weights of the network"):
        load_bundle(folder)


def test_an_unknown_name_lists_the_known_ones(folder, monkeypatch):
    monkeypatch.setenv("LYMPHINFER_WEIGHTS", str(folder.parent))
    assert find_bundle("tiny") == folder
    with pytest.raises(BundleError, match=r"known bundles: .*tiny"):
        find_bundle("he-v999")


def test_a_base_rate_says_so_in_its_statement(folder):
    statement = read_manifest(folder).evidence["CD3e"]["statement"]
    assert statement.startswith("base-rate: ") and "base rate" in statement
    assert "nothing learned" in statement


@pytest.mark.parametrize("name", ["he-v1", "he-v1-fast", "he-v2"])
def test_context_beyond_the_halo_does_not_change_what_the_shipped_detectors_say(name):
    from pathlib import Path

    import numpy as np
    import stardist
    from PIL import Image

    picture = Image.open(Path(stardist.__file__).parent / "data/images/histo.jpg").convert("RGB")
    pixels = np.asarray(picture.resize((832, 512)))
    detector = load_bundle(name).own_detector
    whole = detector.infer(pixels).dense
    x, y, core = 256, 192, 128
    halo = detector.halo_px
    part = detector.infer(
        np.ascontiguousarray(pixels[y - halo : y + core + halo, x - halo : x + core + halo])
    ).dense
    inner = slice(halo // 2, (halo + core) // 2)
    rows, columns = slice(y // 2, (y + core) // 2), slice(x // 2, (x + core) // 2)
    assert np.abs(part.prob[inner, inner] - whole.prob[rows, columns]).max() < 1e-3
    inside = whole.prob[rows, columns] > 0.3
    assert inside.any()
    difference = np.abs(part.dist[:, inner, inner] - whole.dist[:, rows, columns])
    assert difference[:, inside].max() < 0.02


DEEP = StarDistConfig(n_filter_base=1, n_conv_after_unet=1, n_depth=6)


def test_a_network_that_sees_further_than_any_halo_is_refused_when_it_is_loaded(tmp_path):
    """Else its nuclei would change where two tiles meet."""
    deep = write_tiny(tmp_path / "deep", DEEP)
    with pytest.raises(BundleError, match=r"deep.*n_depth = 6 see .* px around"):
        load_bundle(deep)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('mpp = 0.325\nhierarchy', 'mpp = "fine"\nhierarchy', "mpp = 'fine': expected a number"),
        ("mpp = 0.325\nhierarchy", "mpp = 0\nhierarchy", "mpp = 0: expected 0.1 or more"),
        ("mpp = 0.325\nhierarchy", "mpp = nan\nhierarchy", "mpp = nan: expected a finite number"),
        ('name = "tiny"', 'name = "../../x"', "'../../x': a bundle's name is that of its folder"),
        ('name = "tiny"', "name = 5", "name = 5: expected text"),
        ('name = "tiny"', 'name = ""', "name = '': expected text that is not empty"),
        ('version = "1"\n', "", "version is missing"),
        ("prob_threshold = 0.5", "prob_threshold = 5", r"\[detector\] prob_threshold = 5: exp"),
        ("prob_threshold = 0.5", "probe = 0.5", r"\[detector\] probe: unknown; known there: kind"),
        ('kind = "stardist"', 'kind = "yolo"', r"\[detector\] kind = 'yolo': expected 'stardist'"),
        ('kind = "patch"\n', "", r"\[classifier\] kind is missing"),
        ("rate = 0.6\n", "rate = 6\n", r"\[marker.CD4\] rate = 6: expected 1 or less"),
        ("rate = 0.6\n", "", r"\[\[marker\]\] CD4: a base-rate marker needs a rate"),
        ('name = "CD8a"', 'name = "CD4"', r"\[\[marker\]\] CD4: is there 2 times"),
        ("panel = ", "colour = ", "panel is missing"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_what_cannot_be_is_refused(folder, old, new, words):
    edit(folder, old, new)
    with pytest.raises(BundleError, match=words):
        read_manifest(folder)


@pytest.mark.parametrize("table", ["detector", "classifier"])
def test_weights_that_nothing_hashes_are_not_loaded(folder, table):
    """Else they could be anybody's, and `weights verify` would say that all is well."""
    name = {"detector": "stardist", "classifier": "classifier"}[table]
    (folder / "other.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    edit(folder, f'file = "{name}.safetensors"', 'file = "other.safetensors"')
    with pytest.raises(
        BundleError, match=rf"\[{table}\] file = 'other.safetensors': not in \[files\]"
    ):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("n_rays = 32", 'n_rays = "many"', r"\[detector.network\] n_rays = 'many': expected a who"),
        ("n_rays = 32", "n_ray = 32", r"\[detector.network\] n_ray: unknown; known there: n_rays"),
        ("hidden = 8", "hidden = 0", r"\[classifier.network\] hidden = 0: expected 1 or more"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_its_place(folder, old, new, words):
    edit(folder, old, new)
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)


def test_all_problems_of_a_manifest_come_at_once_with_their_places(folder):
    edit(folder, 'name = "tiny"', "name = 5")
    edit(folder, "nms_threshold = 0.4", 'nms_threshold = "low"')
    edit(folder, "rate = 0.6", "rate = 6")
    with pytest.raises(BundleError) as caught:
        read_manifest(folder)
    for part in (str(folder), "name = 5", "[detector] nms_threshold = 'low'", "[marker.CD4] rate"):
        assert part in str(caught.value)


def own_panel_bundle(folder):
    panel = Panel("mine", (Marker("A", None, (1, 2, 3)), Marker("B", "A", (4, 5, 6))))
    net = build_network(StarDistConfig(n_filter_base=4, n_conv_after_unet=8, n_depth=2))
    classifier = MarkerClassifier(ClassifierConfig(panel.names, backbone="test_resnet", hidden=8))
    write_bundle(
        folder,
        modules={"stardist.safetensors": net, "classifier.safetensors": classifier},
        header={"name": folder.name, "version": "1", "summary": "", "licence": "Apache-2.0",
                "panel": panel.name, "mpp": 0.5, "hierarchy": "conditional"},
        detector={"kind": "stardist", "file": "stardist.safetensors", "mpp": 0.5,
                  "prob_threshold": 0.5, "nms_threshold": 0.4, "network": net.config.to_dict()},
        classifier={"kind": "patch", "file": "classifier.safetensors", "mpp": 1.3,
                    "network": classifier.config.to_dict()},
        markers=[MarkerSpec(n, Evidence.STAIN, "made", threshold=0.5) for n in panel.names],
        panel=panel,
    )  # fmt: skip
    return panel


def test_a_panel_of_ones_own_stands_in_the_bundle(tmp_path):
    panel = own_panel_bundle(tmp_path / "own")
    bundle = load_bundle(tmp_path / "own")
    assert bundle.manifest.panel == panel
    edit(tmp_path / "own", 'parent = "A"', 'parent = "C"')
    with pytest.raises(BundleError, match="must be listed before it"):
        read_manifest(tmp_path / "own")


def test_patches_of_another_pixel_size_reach_as_far_as_their_micrometres(tmp_path):
    own_panel_bundle(tmp_path / "own")
    markers = load_bundle(tmp_path / "own").markers
    assert markers.patch_zoom == pytest.approx(1.3 / 0.5)
    assert markers.patch_reach_px == -(-markers.patch_px * 1.3 // (2 * 0.5))
