from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy import ndimage

from lymphinfer.slides import TileGrid
from lymphinfer.slides.focus import (
    BlurredField,
    blurred_fields,
    read_fields,
    with_fields,
)


def tile_of(image, mpp=0.5, halo=0):
    height, width = image.shape[:2]
    return TileGrid((width, height), mpp, mpp, halo_px=halo).tile((0, 0, width, height))


def blurred(image, sigma_px):
    soft = ndimage.gaussian_filter(image.astype(np.float32), (sigma_px, sigma_px, 0))
    return np.rint(soft).astype(np.uint8)


@pytest.fixture(scope="module", params=["brca-m2c/val/*.jpg", "consep/test/test_1.png"])
def real(request, shared_data):
    path = min(shared_data.glob(request.param))
    image = np.asarray(Image.open(path).convert("RGB"))
    return image, 0.25 if "consep" in request.param else 0.5


def test_real_tissue_is_sharp_and_blurred_tissue_is_not(real):
    image, mpp = real
    tile = tile_of(image, mpp)
    fields = (image.shape[0] * mpp // 128) * (image.shape[1] * mpp // 128)
    assert blurred_fields(image, tile, mpp, 1.0) == []
    soft = blurred_fields(blurred(image, 2.5 / mpp), tile, mpp, 1.0)
    assert len(soft) >= 0.9 * fields


def test_pale_stain_and_dim_light_change_nothing(real):
    image, mpp = real
    pale = (255 - (255 - image.astype(np.float32)) * 0.4).astype(np.uint8)
    dim = (image * 0.7).astype(np.uint8)
    for changed in (pale, dim):
        assert blurred_fields(changed, tile_of(image, mpp), mpp, 1.0) == []


def test_only_the_blurred_half_is_named_in_level0_pixels():
    rng = np.random.default_rng(1)
    image = (ndimage.gaussian_filter(rng.random((512, 1024)), 1) * 900 % 256).astype(np.uint8)
    image = np.stack([image] * 3, axis=-1)
    image[:, :512] = blurred(image[:, :512], 6)
    found = blurred_fields(image, tile_of(image), 0.5, 2.0)
    assert len(found) == 4
    assert {field.box for field in found} == {
        (x, y, x + 512, y + 512) for x in (0, 512) for y in (0, 512)
    }


def test_fields_travel_with_the_shard_in_any_order():
    table = pa.table({"x": [5.0, 15.0, 15.0], "y": [5.0, 5.0, 25.0]})
    fields = [BlurredField((10, 0, 20, 10), 0.07), BlurredField((0, 0, 10, 10), 0.08)]
    one, two = (with_fields(table, order) for order in (fields, fields[::-1]))
    assert one.schema.metadata == two.schema.metadata
    assert [(f.focus, f.nuclei) for f in read_fields(one.schema.metadata)] == [(0.08, 1), (0.07, 1)]
    assert read_fields(with_fields(table, []).schema.metadata) == []
