"""A machine without torch, made by letting nothing of it be imported, predicts the same."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lymphinfer.batch.single import predict_slide
from lymphinfer.predict.settings import PredictSettings

from .conftest import write_svs

pytest.importorskip("openvino")

WITHOUT = """
import importlib.util, sys
missing = {"torch", "torchvision", "timm", "accelerate"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
known = importlib.util.find_spec
importlib.util.find_spec = lambda n, p=None: None if n.split(".")[0] in missing else known(n, p)
from lymphinfer.cli.app import main
main()
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=Path(__file__).parents[2]
    )


@pytest.fixture(scope="module")
def real_tissue(tmp_path_factory) -> Path:
    """A part of the H&E picture that the stardist package carries."""
    from stardist.data import test_image_he_2d

    pixels = np.ascontiguousarray(test_image_he_2d()[:400, :400])
    return write_svs(tmp_path_factory.mktemp("real") / "real.svs", pixels)


def nuclei(folder: Path) -> dict[str, dict[str, float]]:
    """Measurements of a result by the nucleus' id."""
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        found = json.loads(archive.read(archive.namelist()[0]))
    features = found["features"] if isinstance(found, dict) else found
    return {f["id"]: f["properties"]["measurements"] for f in features}


@pytest.mark.parametrize(
    "bundle",
    [
        "he-v2",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("he-v1-fast", "he-v1", "crc01-paper-v1", "sim-orion-v1")
        ),
    ],
)
def test_without_torch_the_file_is_that_of_torch(real_tissue, tmp_path, bundle):
    done = run("predict", real_tissue, "--bundle", bundle, "--out", tmp_path / "a",
               "--precision", "fp32")  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain = PredictSettings(bundle=bundle, device="cpu", precision="fp32", runtime="torch")
    predict_slide(real_tissue, tmp_path / "b", settings=plain)
    (folder,) = (p.parent for p in (tmp_path / "a").rglob("summary.json"))
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["arguments"]["runtime"] == "openvino"
    own, theirs = nuclei(folder), nuclei(tmp_path / "b")
    both = own.keys() & theirs.keys()
    assert len(own) > 50 and len(both) >= 0.98 * max(len(own), len(theirs))
    names = [name for name in own[next(iter(both))] if name.endswith("probability")]
    assert len(names) == 5
    delta = [abs(own[i][name] - theirs[i][name]) for i in both for name in names]
    assert np.quantile(delta, 0.999) <= 0.02


def test_what_needs_torch_says_how_to_get_it(real_tissue, tmp_path):
    done = run("predict", real_tissue, "--runtime", "torch", "--out", tmp_path / "a")
    assert done.returncode == 2 and "pip install 'lymphinfer[torch]'" in done.stderr
    done = run("train-detector", tmp_path, "--out", tmp_path / "mine")
    assert done.returncode == 2 and "lymphinfer[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_is_taught_without_torch(real_tissue, tmp_path):
    """As far as its annotations, of which there are none here."""
    nothing = tmp_path / "nothing.geojson"
    nothing.write_text('{"type": "FeatureCollection", "features": []}', "utf-8")
    done = run("teach", "--slides", real_tissue, "--annotations", nothing, "--from", "he-v2",
               "--out", tmp_path / "mine")  # fmt: skip
    assert done.returncode == 2 and "nothing.geojson" in done.stderr
    assert "torch" not in done.stderr


def test_a_prediction_loads_neither_torch_nor_what_else_it_needs_not(real_tissue, tmp_path):
    code = (
        "import sys; from lymphinfer.batch.single import predict_slide; "
        "from lymphinfer.predict.settings import PredictSettings; from pathlib import Path; "
        "predict_slide(Path(sys.argv[1]), Path(sys.argv[2]), "
        "settings=PredictSettings(device='cpu', roi=None)); "
        "print({'torch', 'pandas', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(real_tissue), str(tmp_path / "a")],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "set()", done.stderr
