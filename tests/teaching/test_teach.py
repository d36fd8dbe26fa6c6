"""A bundle learns from nuclei that a person has named, and says what that was worth."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lymphinfer.batch.single import predict_slide
from lymphinfer.bundles.loading import load_bundle
from lymphinfer.bundles.schema import Evidence, MarkerSpec, OperatingPoint
from lymphinfer.bundles.writing import write_bundle
from lymphinfer.cli.app import app
from lymphinfer.errors import AnnotationError, BundleError, LymphinferError
from lymphinfer.export.results import open_result
from lymphinfer.nuclei.stardist.network import StarDistConfig, build_network
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.teaching.learning import (
    estimated_share,
    operating_points,
    teach_marker,
    too_little,
)
from lymphinfer.teaching.marked import read_marked
from lymphinfer.teaching.naming import read_names
from lymphinfer.teaching.teach import TeachOptions, probabilities, teach
from lymphinfer.teaching.teachable import Change, teachable
from tests.predict.conftest import (  # noqa: F401 - fixtures
    MPP,
    RADIUS_PX,
    disc_bundle,
    two_scale_bundle,
    write_svs,
)

BLUE, BROWN = (40, 30, 130), (120, 60, 30)


def coloured_slide(path: Path, seed: int = 0) -> tuple[Path, np.ndarray, np.ndarray]:
    """Discs of two colours on a slide of four places, their centres, and which are blue."""
    rng = np.random.default_rng(seed)
    image = np.full((1100, 1600, 3), (225, 170, 200), np.uint8)
    image += rng.integers(0, 12, image.shape, dtype=np.uint8)
    yy, xx = np.mgrid[-10:11, -10:11]
    disc = yy**2 + xx**2 <= RADIUS_PX**2
    centers, blue = [], []
    for y in range(60, 1050, 90):
        for x in range(60, 1550, 90):
            blue.append(bool(rng.integers(0, 2)))
            image[y - 10 : y + 11, x - 10 : x + 11][disc] = BLUE if blue[-1] else BROWN
            centers.append((x + 0.5, y + 0.5))
    return write_svs(path, image), np.array(centers), np.array(blue)


def point(center, name: str) -> dict[str, object]:
    properties = {"objectType": "annotation", "classification": {"name": name}}
    geometry = {"type": "Point", "coordinates": [*map(float, center)]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def ring(center, radius: float = RADIUS_PX) -> list[list[float]]:
    angles = np.linspace(0, 2 * np.pi, 17)
    return (np.asarray(center) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).tolist()


def outlined(center, name: str, **properties: object) -> dict[str, object]:
    feature = point(center, name)
    feature["geometry"] = {"type": "Polygon", "coordinates": [ring(center)]}
    feature["properties"] |= properties
    return feature


def written(path: Path, features: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return coloured_slide(tmp_path_factory.mktemp("teach") / "two.svs")


@pytest.fixture(scope="module")
def named(slide, tmp_path_factory) -> Path:
    _, centers, blue = slide
    half = slice(0, None, 2)
    features = [
        point(c, "Lymphocytes" if b else "Tumor")
        for c, b in zip(centers[half], blue[half], strict=True)
    ]
    return written(tmp_path_factory.mktemp("named") / "two.geojson", features)


OPTIONS = {"device": "cpu", "runtime": "torch"}


@pytest.fixture(scope="module")
def taught(slide, named, two_scale_bundle, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("made") / "mine"
    options = TeachOptions(base=str(two_scale_bundle), **OPTIONS)
    return out, teach(slide[0], named, out, options, command="lymphinfer teach …")


def test_what_was_taught_is_predicted(taught, slide, tmp_path):
    out, done = taught
    (cd45,) = done.taught
    assert cd45.after.balanced_accuracy[0] > cd45.before.balanced_accuracy[0]
    assert cd45.after.auroc[0] > 0.9
    path, centers, blue = slide
    settings = PredictSettings(bundle=str(out), workers=1, **OPTIONS)
    found = open_result(predict_slide(path, tmp_path / "r", settings=settings).folder)
    tables = list(found.tables(("x", "y", "p_cd45", "p_cd3e")))
    x, y, p, child = (np.concatenate([t.column(i).to_numpy() for t in tables]) for i in range(4))
    away = np.hypot(x[:, None] - centers[:, 0], y[:, None] - centers[:, 1])
    # Those that were not named.
    which, near = away.argmin(axis=1), away.min(axis=1) < 4
    unseen = near & (which % 2 == 1)
    called = p[unseen] >= cd45.points["balanced"].threshold
    assert unseen.sum() > 50 and np.mean(called == blue[which[unseen]]) > 0.9
    assert (child <= p + 1e-6).all()


def test_the_bundle_and_its_card_say_what_it_rests_on(taught):
    out, done = taught
    cd45, cd3e, *rates = done.manifest.markers
    assert cd45.evidence is Evidence.MORPHOLOGY
    assert "own annotations, n = " in cd45.statement and "1 slide" in cd45.statement
    assert cd3e.auroc is None and "not measured below the CD45" in cd3e.source
    assert all(m.evidence is Evidence.BASE_RATE for m in rates)
    text = (out / "CARD.md").read_text()
    for words in (
        "Before and after, on the same held-out nuclei",
        "morphology",
        "(0.",
        "Tumor",
        "lymphinfer teach …",
        "cross-validated by place of 250 µm",
    ):
        assert words in text or words == "Tumor"
    assert tomllib.loads((out / "bundle.toml").read_text())["name"] == "mine"


def test_only_the_taught_layer_differs(taught, two_scale_bundle):  # noqa: F811
    out, _ = taught
    same = [f.name for f in out.glob("*.safetensors")
            if f.read_bytes() == (two_scale_bundle / f.name).read_bytes()]  # fmt: skip
    assert sorted(same) == ["far.safetensors", "near.safetensors", "stardist.safetensors"]


def test_a_change_of_the_layer_is_what_the_bundle_then_says(two_scale_bundle):  # noqa: F811
    layer = teachable(load_bundle(two_scale_bundle))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)).astype(np.float32)
    change = Change(0.7, rng.normal(size=8), -0.3)
    before = layer.logits(features)[:, 0]
    head = layer.bundle.markers.head
    head.weights = layer.changed({"CD45": change})
    wanted = 0.7 * before + features @ change.weights - 0.3
    assert np.allclose(layer.logits(features)[:, 0], wanted, atol=1e-4)
    assert probabilities(layer, layer.logits(features)).shape == (50, 4)


@pytest.fixture(scope="module")
def feature_bundle(tmp_path_factory) -> Path:
    """A detector of random weights that finds nothing, with a marker head over its context."""
    torch.manual_seed(0)
    net = build_network(
        StarDistConfig(n_rays=8, n_filter_base=8, n_depth=2, n_conv_after_unet=8, n_markers=1,
                       encoder="resnet", n_blocks=1, n_marker_context=12)
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundles") / "head"
    write_bundle(
        folder, modules={"stardist.safetensors": net},
        header={"name": "head", "version": "1", "summary": "a head", "licence": "none",
                "panel": "t-cell", "mpp": MPP, "hierarchy": "conditional"},
        detector={"kind": "stardist", "file": "stardist.safetensors", "mpp": MPP,
                  "prob_threshold": 1.0, "nms_threshold": 0.2, "network": net.config.to_dict()},
        classifier={"kind": "feature", "markers": ["CD45"]},
        markers=[MarkerSpec("CD45", Evidence.MORPHOLOGY, "made", threshold=0.5),
                 *(MarkerSpec(n, Evidence.BASE_RATE, "made", rate=0.4)
                   for n in TCELL_PANEL.names[1:])],
        half=False,
    )  # fmt: skip
    return folder


def test_a_detector_s_own_head_is_taught_by_small_outlines(feature_bundle, slide, tmp_path):
    path, centers, blue = slide
    features = [outlined(c, "CD45" if b else "Other") for c, b in zip(centers, blue, strict=True)]
    drawn = written(tmp_path / "two.geojson", features[::2])
    options = TeachOptions(base=str(feature_bundle), **OPTIONS)
    done = teach(path, drawn, tmp_path / "mine", options)
    (cd45,) = done.taught
    assert cd45.after.auroc[0] > 0.9 and not cd45.share_known
    # The same nuclei as detections: what predict says of them is what was learned.
    given = written(tmp_path / "given.geojson", [f | {"properties": {"objectType": "detection"}}
                                                 for f in features])  # fmt: skip
    settings = PredictSettings(bundle=str(tmp_path / "mine"), nuclei=str(given), workers=1,
                               **OPTIONS)  # fmt: skip
    found = open_result(predict_slide(path, tmp_path / "r", settings=settings).folder)
    tables = list(found.tables(("x", "y", "p_cd45")))
    x, y, p = (np.concatenate([t.column(i).to_numpy() for t in tables]) for i in range(3))
    which = np.hypot(x[:, None] - centers[:, 0], y[:, None] - centers[:, 1]).argmin(axis=1)
    assert np.mean((p >= 0.5) == blue[which]) > 0.9


def test_ten_labels_are_refused(slide, two_scale_bundle, tmp_path):  # noqa: F811
    path, centers, blue = slide
    few = [point(c, "CD45" if b else "Other") for c, b in zip(centers[:10], blue[:10], strict=True)]
    with pytest.raises(AnnotationError, match=r"too few named nuclei.*20 of each are needed"):
        teach(path, written(tmp_path / "two.geojson", few), tmp_path / "mine",
              TeachOptions(base=str(two_scale_bundle), **OPTIONS))  # fmt: skip
    assert not (tmp_path / "mine").exists()


def test_a_bundle_that_reads_patches_is_refused(slide, named, disc_bundle, tmp_path):  # noqa: F811
    options = TeachOptions(base=str(disc_bundle), **OPTIONS)
    with pytest.raises(BundleError, match="read off patches"):
        teach(slide[0], named, tmp_path / "mine", options)


def test_an_earlier_bundle_is_not_written_over(slide, named, taught):
    with pytest.raises(LymphinferError, match="is there already"):
        teach(slide[0], named, taught[0])


def test_the_command_says_before_and_after(slide, named, two_scale_bundle, tmp_path):  # noqa: F811
    words = ["teach", "--slides", str(slide[0]), "--annotations", str(named), "--from",
             str(two_scale_bundle), "--out", str(tmp_path / "mine"), "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "balanced accuracy" in done.stderr and "held-out nuclei" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "mine")


def manifest(folder: Path):
    return load_bundle(folder).manifest


def test_detections_that_nobody_changed_are_no_labels(two_scale_bundle, tmp_path):  # noqa: F811
    numbers = {m.measurement: 0.9 if m.name == "CD45" else 0.1 for m in TCELL_PANEL.markers}
    as_called = outlined((50, 50), "CD45", objectType="detection", measurements=numbers)
    changed = outlined((100, 50), "Other", objectType="detection", measurements=numbers)
    path = written(tmp_path / "d.geojson", [as_called, changed])
    where = {"dimensions": (200, 200), "mpp": MPP}
    names = read_names(TCELL_PANEL, [])
    found = read_marked(path, names, manifest(two_scale_bundle), **where)
    assert [mark.call for mark in found.marks] == ["Other"]
    assert any("the model's own call: 1" in note for note in found.notes)
    everyone = read_marked(path, names, manifest(two_scale_bundle), unchanged=True, **where)
    assert len(everyone.marks) == 2


def test_what_is_no_named_nucleus_is_passed_over_and_told(two_scale_bundle, tmp_path):  # noqa: F811
    features = [
        point((20, 20), "CD3e"),
        point((30, 30), "Suggested"),
        point((40, 40), "Ignore*"),
        point((50, 50), "My own word"),
        outlined((100, 100), "CD45") | {
            "geometry": {"type": "Polygon", "coordinates": [ring((100, 100), 80)]}
        },
        point((900, 20), "CD45"),
    ]  # fmt: skip
    path = written(tmp_path / "d.geojson", features)
    where = {"dimensions": (200, 200), "mpp": MPP}
    base = manifest(two_scale_bundle)
    found = read_marked(path, read_names(TCELL_PANEL, []), base, **where)
    assert [mark.call for mark in found.marks] == ["CD3e"]
    told = "; ".join(found.notes)
    for words in ("1 My own word", "larger than a nucleus passed over", "beyond the slide"):
        assert words in told
    own = read_names(TCELL_PANEL, ["My own word=Other"])
    assert len(read_marked(path, own, base, **where).marks) == 2
    only = written(tmp_path / "e.geojson", features[1:3])
    with pytest.raises(AnnotationError, match="no named nucleus"):
        read_marked(only, own, base, **where)


def test_a_class_labels_its_lineage_and_nothing_below():
    names = read_names(TCELL_PANEL, [])
    assert names.labels(["CD3e", "Other", "CD45"]).tolist() == [
        [1, 1, -1, -1], [0, 0, 0, 0], [1, -1, -1, -1]]  # fmt: skip
    with pytest.raises(AnnotationError, match="not a class and a marker"):
        read_names(TCELL_PANEL, ["Blue=CD99"])


def made_logits(n: int, share: float, seed: int):
    rng = np.random.default_rng(seed)
    labels = (rng.uniform(size=n) < share).astype(np.int8)
    return rng.normal(np.where(labels == 1, 1.0, -1.0), 1.2), labels


def test_the_real_share_is_found_behind_labels_that_were_chosen_evenly():
    logits, labels = made_logits(4000, 0.12, 1)
    # Exact for normal classes of equal width, and half of each.
    p = 1 / (1 + np.exp(-2 * logits / 1.2**2))
    assert estimated_share(p, 0.5) == pytest.approx(labels.mean(), abs=0.02)


def test_points_have_the_precision_and_recall_that_they_state():
    logits, labels = made_logits(2000, 0.4, 2)
    p = 1 / (1 + np.exp(-2 * logits / 1.2**2))
    points = operating_points(p, labels, np.ones(len(labels)))
    called = p >= points["balanced"].threshold
    assert points["balanced"] == OperatingPoint(
        points["balanced"].threshold, pytest.approx(labels[called].mean(), abs=1e-3),
        pytest.approx(called[labels == 1].mean(), abs=1e-3),
    )  # fmt: skip
    assert points["sensitive"].recall >= 0.85
    assert points["precise"].precision > points["balanced"].precision


def test_features_that_say_nothing_do_not_make_it_worse():
    logits, labels = made_logits(300, 0.5, 3)
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(300, 147)).astype(np.float32)
    groups = rng.integers(0, 20, 300)
    assert not too_little(labels, groups)
    found = teach_marker("CD45", noise, logits.astype(np.float32), labels, groups,
                         now=1 / (1 + np.exp(-logits)), threshold=0.5)  # fmt: skip
    assert found.after.auroc[0] > found.before.auroc[0] - 0.03
    assert found.gain[1] < 0 < found.gain[2]


def test_a_marker_below_another_is_called_on_its_final_probability():
    logits, labels = made_logits(300, 0.5, 4)
    rng = np.random.default_rng(4)
    nothing = np.zeros((300, 3), np.float32)
    above = np.full(300, 0.6, np.float32)
    found = teach_marker("CD3e", nothing, logits.astype(np.float32), labels,
                         rng.integers(0, 20, 300), now=0.6 / (1 + np.exp(-logits)),
                         threshold=0.3, above=above)  # fmt: skip
    assert found.points["precise"].threshold <= 0.6
    assert found.after.balanced_accuracy[0] > 0.7


def test_features_overrule_what_was_said_only_where_they_are_worth_more_than_chance():
    logits, labels = made_logits(300, 0.5, 5)
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 20, 300)
    noise = rng.normal(size=(300, 30)).astype(np.float32)
    told = noise.copy()
    told[:, 0] = labels + rng.normal(size=300) / 3
    given = {"now": 1 / (1 + np.exp(-logits)), "threshold": 0.5}
    logits = logits.astype(np.float32)
    assert teach_marker("CD45", noise, logits, labels, groups, **given).strength == 0
    found = teach_marker("CD45", told, logits, labels, groups, **given)
    assert found.strength > 0
    assert found.after.auroc[0] > found.before.auroc[0]
