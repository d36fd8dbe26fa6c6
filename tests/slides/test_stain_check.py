"""What does not look like H&E, and that real H&E always does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lymphinfer.slides import check_stain, open_slide
from lymphinfer.slides.stain_check import appearance

FIELDS = {
    # Folder, pattern, pixel size in µm/px, and how many of its fields are looked at.
    "consep": ("*/*.png", 0.25, 14),
    "brca-m2c": ("*/*.jpg", 0.5, 20),
    "tnbc": ("*.png", 0.25, 25),
    "nuinsseg": ("**/*.jpg", 0.16, 40),
    "nucls": ("*.png", 0.25, 15),
    "orion-c01-tiles": ("*.png", 0.5, 24),
    "orion-crc01": ("he/*.jpg", 1.3, 36),
}


def field(path: Path, mpp: float) -> np.ndarray:
    """A field at about 1 µm/px."""
    with Image.open(path) as image:
        scale = min(1.0, mpp)
        size = [max(1, round(n * scale)) for n in image.size]
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX))


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_real_h_and_e_of_any_laboratory_is_neither_refused_nor_warned_of(shared_data, name):
    pattern, mpp, most = FIELDS[name]
    files = sorted((shared_data / name).glob(pattern))
    picked = files[:: max(1, len(files) // most)]
    assert picked
    unlike = {p.name: found for p in picked if (found := appearance([field(p, mpp)], []))}
    assert not unlike


def test_a_real_slide_is_h_and_e(real_svs):
    with open_slide(real_svs) as slide:
        assert check_stain(slide) == []


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["CD45", "Hoechst"])
@pytest.mark.parametrize("colour", [(1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 1)])
def test_real_immunofluorescence_in_any_colour_is_not(shared_data, channel, colour):
    files = sorted((shared_data / "orion-crc01" / channel).glob("*.jpg"))
    for path in files[5::12]:
        grey = field(path, 1.0)[..., :1]
        if (grey > 60).mean() < 0.02:
            continue
        found = appearance([(grey * np.array(colour)).astype(np.uint8)], [])
        assert found is not None and found.kind == "fluorescence" and found.is_certain


def test_h_and_e_without_its_colours_is_grey(real_svs):
    with open_slide(real_svs) as slide:
        patch = slide.read_region(200, 200, 400, 400, 1.0)
    grey = np.asarray(Image.fromarray(patch).convert("L").convert("RGB"))
    found = appearance([grey], [])
    assert found is not None and found.kind == "grey"


@pytest.mark.parametrize("gain", [0.4, 1.0, 2.5])
def test_faint_and_over_stained_h_and_e_stays_h_and_e(real_svs, gain):
    with open_slide(real_svs) as slide:
        patch = slide.read_region(200, 200, 700, 700, 1.0).astype(float)
    stained = 255 * (np.maximum(patch, 1) / 255) ** gain
    assert appearance([stained.astype(np.uint8)], []) is None


def test_the_black_that_scanners_fill_in_does_not_count(real_svs):
    with open_slide(real_svs) as slide:
        patch = slide.read_region(200, 200, 400, 400, 1.0)
    black = np.zeros_like(patch)
    assert appearance([black] * 9 + [patch], []) is None
    found = appearance([black], [])
    assert found is not None and "black" in found.reason


# Optical densities of one unit (Ruifrok & Johnston 2001): haematoxylin as counterstain, Fast Red,
# AEC, eosin.
BLUE, FAST_RED, AEC, EOSIN = (0.70, 0.62, 0.30), (0.21, 0.85, 0.48), (0.27, 0.68, 0.68), (
    0.07, 0.99, 0.11)  # fmt: skip


def stained(share: float, chromogen: tuple[float, ...], over_all: float = 0.0) -> np.ndarray:
    """Blue tissue, a share of its cells in a chromogen."""
    rng = np.random.default_rng(0)
    cells = rng.random((64, 64)).repeat(8, 0).repeat(8, 1)
    density = np.full((512, 512, 1), 0.25) * BLUE * rng.uniform(0.6, 1.4, (512, 512, 1))
    density[cells > 0.7] += 0.8 * np.array(BLUE)
    density[cells < share] += np.array(chromogen)
    density += over_all * np.array(EOSIN)
    image = 243 * 10**-density
    image[:, :100] = 243
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("chromogen", [FAST_RED, AEC])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_red_immunohistochemistry_is_warned_of(chromogen, share):
    found = appearance([stained(share, chromogen)], [])
    assert found is not None and found.kind in ("chromogen", "dab")
    # With eosin all over it may be H&E.
    assert appearance([stained(share, FAST_RED, over_all=0.4)], []) is None


def test_an_empty_slide_is_let_through():
    assert appearance([np.full((64, 64, 3), 243, np.uint8)], []) is None
