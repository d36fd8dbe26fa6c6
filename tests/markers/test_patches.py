from __future__ import annotations

import numpy as np

from lymphinfer.markers.patches import cut_patches, resampled


def test_the_centroid_lies_in_the_middle_of_its_patch():
    tile = np.zeros((200, 300, 3), np.uint8)
    tile[80, 150] = (10, 20, 30)
    patch = cut_patches(tile, np.array([[150.3, 79.8]]), 112)[0]
    assert patch.shape == (112, 112, 3)
    assert tuple(patch[56, 56]) == (10, 20, 30)
    assert np.count_nonzero(patch.any(axis=-1)) == 1


def test_patches_equal_plain_slices_of_the_tile():
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 255, (160, 180, 3), dtype=np.uint8)
    centers = rng.uniform(20, 140, (50, 2))
    for patch, (x, y) in zip(
        cut_patches(tile, centers, 32), np.rint(centers).astype(int), strict=True
    ):
        np.testing.assert_array_equal(patch, tile[y - 16 : y + 16, x - 16 : x + 16])


def test_beyond_the_tile_a_patch_is_white():
    patches = cut_patches(np.zeros((64, 64, 3), np.uint8), np.array([[0, 0], [63, 63]]), 32)
    assert (patches[0, :16] == 255).all() and (patches[0, 16:, 16:] == 0).all()
    assert (patches[1, 17:] == 255).all() and (patches[1, :17, :17] == 0).all()


def test_no_nuclei_give_no_patches():
    assert cut_patches(np.zeros((9, 9, 3), np.uint8), np.empty((0, 2)), 16).shape == (0, 16, 16, 3)


def test_resampled_pixels_are_means_of_the_area_that_they_cover():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (26, 39, 3), dtype=np.uint8)
    found = resampled(pixels, 1 / 13)
    assert found.shape == (2, 3, 3)
    wanted = pixels.reshape(2, 13, 3, 13, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, wanted, atol=0.51)


def test_a_picture_that_ends_within_a_pixel_is_not_stretched():
    ramp = np.repeat(np.arange(0, 100, dtype=np.uint8)[None, :, None], 3, axis=2)
    ramp = np.repeat(ramp, 10, axis=0)
    found = resampled(ramp, 0.5 / 1.3)
    # A new pixel's centre lies at (i + 0.5) * 2.6 old ones.
    np.testing.assert_allclose(found[1, :-1, 0], (np.arange(38) + 0.5) * 2.6 - 0.5, atol=1.0)
