"""The gallery's pictures come from the product's own results."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from recipes.gallery import GAP_PX, PICTURE_PX, PLATES, Plate, draw, truth_points


@pytest.mark.slow
def test_a_plate_shows_a_picture_beside_its_nuclei_and_their_truth(shared_data):
    plate = next(p for p in PLATES if p.name == "crc01-infiltrate")
    picture = np.asarray(draw(plate, shared_data, "he-v2")).astype(int)
    assert picture.shape == (PICTURE_PX, 2 * PICTURE_PX + GAP_PX, 3)
    plain, drawn = picture[:, :PICTURE_PX], picture[:, -PICTURE_PX:]
    # Outlines in the colours of calls, and black dots, lie on nothing else than the right half.
    changed = np.abs(plain - drawn).max(axis=2) > 40
    assert 0.02 < changed.mean() < 0.4
    assert (drawn.max(axis=2) == 0).sum() > 20 * (plain.max(axis=2) == 0).sum() + 100


def test_the_truth_is_read_with_a_header_or_without(tmp_path):
    plate = Plate("a", "a.png", 0.5, truth=(2, "1"))
    for text in ("x,y,label\n3,4,1\n5,6,2\n", "3,4,1\n5,6,2\n"):
        (tmp_path / "a.csv").write_text(text, "utf-8")
        assert truth_points(plate, tmp_path / "a.png").tolist() == [[3.0, 4.0]]
    assert truth_points(Plate("b", "b.png", 0.5), tmp_path / "b.png").shape == (0, 2)


def test_every_picture_is_shown_and_small(request):
    root = request.config.rootpath
    text = (root / "docs" / "gallery.md").read_text("utf-8")
    for plate in PLATES:
        path = root / "docs" / "images" / "gallery" / f"{plate.name}.jpg"
        assert f"images/gallery/{plate.name}.jpg" in text
        assert path.stat().st_size < 200_000
        assert Image.open(path).size == (2 * PICTURE_PX + GAP_PX, PICTURE_PX)
