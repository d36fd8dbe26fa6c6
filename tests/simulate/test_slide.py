from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lymphinfer.errors import ResultError
from lymphinfer.simulate import slide as writing
from lymphinfer.simulate.slide import write_demo_slide, write_large_slide

openslide = pytest.importorskip("openslide")


def test_openslide_opens_the_demo_slide_as_aperio_with_pixel_size_and_power(
    tmp_path: Path,
) -> None:
    path = tmp_path / "demo.svs"
    cells = write_demo_slide(path, size_px=(1100, 900), seed=1)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.325)
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.level_dimensions == ((1100, 900), (275, 225))
        image = np.array(slide.read_region((0, 0), 0, (1100, 900)).convert("RGB"))
    assert np.median(image[:20]) > 230
    y, x = np.rint(cells.y).astype(int), np.rint(cells.x).astype(int)
    assert np.median(image[y, x, 0]) < 150
    assert len(cells.type) == len(cells.markers) == len(cells) > 40


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_demo_slide(tmp_path / name / "demo.svs", size_px=(600, 500), seed=4)
    first, second = ((tmp_path / n / "demo.svs").read_bytes() for n in ("a", "b"))
    assert first == second


def test_a_large_slide_repeats_its_period_on_glass(tmp_path: Path) -> None:
    path = tmp_path / "large.svs"
    assert write_large_slide(path, 5000, seed=0, period_px=1024) > 100
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((5000, 5000), (1250, 1250), (312, 312))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.325)
        here, there = (
            np.array(slide.read_region((x, 2300), 0, (200, 200)).convert("RGB"), float)
            for x in (1600, 1600 + 1024)
        )
        corner = np.array(slide.read_region((0, 0), 0, (256, 256)).convert("RGB"))
        small = np.array(slide.read_region((0, 0), 2, (312, 312)).convert("RGB"))
    assert np.abs(here - there).mean() < 3
    assert corner.min() > 225
    assert np.median(small[:6]) > 230
    assert small[120:190, 120:190].mean() < 225


def test_a_period_that_does_not_tile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1024"):
        write_large_slide(tmp_path / "x.svs", 3000, period_px=1000)


def test_a_place_that_cannot_be_written_is_named_and_nothing_half_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match=r"demo\.svs .*a file stands where a folder is needed"):
        write_demo_slide(tmp_path / "file" / "demo.svs", size_px=(300, 300))

    def stopped() -> Iterator[tuple[tuple[int, int], Iterator[np.ndarray]]]:
        yield (512, 512), iter([np.zeros((256, 256, 3), np.uint8)] * 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing._write_levels(tmp_path / "half.svs", stopped(), 0.5, bigtiff=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
