"""H&E on glass of any level and tint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lymphinfer.slides import open_slide, tissue_mask

# Making the files takes the time; tests/slides/test_grounds.py looks at such glass in memory.
pytestmark = pytest.mark.slow
TRUE_MM2 = 3.14159 * 0.42 * 1200 * 0.42 * 1600 * 0.25**2 / 1e6
ON_GLASS = (
    "white", "qupath53_223_215_213", "yellow_old_240_228_200", "dim_grey_185",
    "dim_warm_200_190_175", "pink_glass_245_225_235", "blue_glass_215_225_245",
    "green_glass_225_240_225", "black_border", "vignette",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("backgrounds")
    script = shared_data.parent / "cases" / "10_backgrounds.py"
    if not script.is_file():
        pytest.skip(f"needs {script}")
    subprocess.run([sys.executable, str(script), str(out)], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("name", ON_GLASS)
def test_the_tissue_is_found_on_any_glass(folder, name):
    with open_slide(folder / f"{name}.tif") as slide:
        tissue = tissue_mask(slide)
    assert tissue.glass
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.1)


def test_black_in_place_of_glass_is_told(folder):
    with open_slide(folder / "black_instead_of_glass.tif") as slide:
        tissue = tissue_mask(slide)
    assert not tissue.glass
    assert tissue.area_mm2 == pytest.approx(TRUE_MM2, rel=0.1)


@pytest.mark.parametrize("name", ["blank", "pure_white", "black"])
def test_an_empty_slide_has_no_tissue(folder, name):
    with open_slide(folder / f"{name}.tif") as slide:
        assert tissue_mask(slide).area_mm2 == 0


def test_densities_do_not_depend_on_the_glass(folder, tmp_path):
    from lymphinfer.batch.single import predict_slide
    from lymphinfer.predict.settings import PredictSettings

    settings = PredictSettings(bundle="he-v1-fast", device="cpu", precision="fp32")
    results = [
        predict_slide(folder / f"{name}.tif", tmp_path / name, settings=settings).summary
        for name in ("white", "yellow_old_240_228_200")
    ]
    white, yellow = (result["nuclei_per_mm2"] for result in results)
    assert yellow == pytest.approx(white, rel=0.15)
    assert not any(result["warnings"] for result in results)
