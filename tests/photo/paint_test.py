"""Photographs painted by stand-ins for a network, whose fill is known beforehand."""

import numpy as np
import pytest

from migan_jax.photo import blend
from migan_jax.photo import paint

R = 32
PLAIN = paint.Settings(feather=0, grain=False)


class Painter:
    """Paints the mean of what is known in a window everywhere; keeps what it was given.

    `bias` is by how much it misses, in levels.
    """

    def __init__(self, bias=0.):
        self.batches, self.bias = [], bias

    def __call__(self, x):
        self.batches.append(x)
        known = x[..., :1] + .5
        mean = (x[..., 1:] * known).sum((1, 2), keepdims=True) / np.maximum(
            known.sum((1, 2), keepdims=True), 1)
        # What it knows it repeats, as networks nearly do.
        return np.where(known > 0, x[..., 1:], mean) + self.bias / 127.5


def picture(height=200, width=240, seed=0):
    y, x = np.mgrid[:height, :width]
    base = np.stack([60 + x * .5, 80 + y * .4, 120 + 0 * x], -1)
    noise = np.random.default_rng(seed).normal(0, 2, base.shape)
    return np.rint(np.clip(base + noise, 0, 255)).astype(np.uint8)


def mask_with(shape, *boxes):
    mask = np.full(shape[:2], 255, np.uint8)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = 0
    return mask


HOLES = ((20, 26, 20, 28), (150, 158, 200, 206), (60, 63, 30, 200), (90, 140, 60, 130))


def test_all_known_is_a_copy():
    image, painter = picture(), Painter()
    result = paint.inpaint_photo(painter, image, mask_with(image.shape), R)
    np.testing.assert_array_equal(result, image)
    assert result is not image and not painter.batches


def test_every_hole_is_painted_and_nothing_else():
    image = picture()
    mask = mask_with(image.shape, *HOLES)
    image[mask == 0] = (255, 0, 255)
    result = paint.inpaint_photo(Painter(), image, mask, R, PLAIN)
    np.testing.assert_array_equal(result[mask == 255], image[mask == 255])
    # The forbidden colour is gone, and did not get into any window's mean.
    assert result[mask == 0][:, 1].min() > 50


def test_holes_are_never_seen():
    image = picture()
    mask = mask_with(image.shape, *HOLES)
    other = np.where(mask[..., None] == 0, 255 - image, image)
    results = [paint.inpaint_photo(Painter(), one, mask, R) for one in (image, other)]
    np.testing.assert_array_equal(*results)


def test_native_fills_are_not_resampled():
    image = picture()
    mask = mask_with(image.shape, (100, 104, 100, 104))
    painter = Painter()
    paint.inpaint_photo(painter, image, mask, R, PLAIN)
    ((seen,),) = painter.batches
    levels = np.rint(seen[..., 1:] * 127.5 + 127.5)
    known = seen[..., 0] > 0
    np.testing.assert_array_equal(levels[known], image[86:118, 86:118][known])


def test_tiles_see_what_the_one_before_painted():
    image = picture()
    mask = mask_with(image.shape, (60, 63, 0, 240))
    painter = Painter()
    paint.inpaint_photo(painter, image, mask, R, PLAIN)
    assert len(painter.batches) >= 240 // (R // 2) - 1
    shares = [1 - (batch[0, ..., 0] + .5).mean() for batch in painter.batches]
    # A window whose hole was not painted in part has a whole strip: 3 rows of 32.
    assert all(share < 3 / 32 for share in shares[1:-1])


def test_windows_come_in_batches_of_known_sizes():
    image = picture()
    boxes = [(top, top + 3, left, left + 3) for top in range(10, 200, 45)
             for left in range(10, 240, 45)]
    painter = Painter()
    paint.inpaint_photo(painter, image, mask_with(image.shape, *boxes), R)
    assert {len(batch) for batch in painter.batches} <= {1, 2, 4, 8}
    assert len(painter.batches) <= 4


@pytest.mark.parametrize('feather', [0, 1, 3, 8])
def test_pixels_beyond_the_feather_keep_their_bytes(feather):
    image = picture()
    mask = mask_with(image.shape, (20, 26, 20, 28), (60, 63, 30, 200))
    result = paint.inpaint_photo(
        Painter(40), image, mask, R, paint.Settings(feather))
    near = blend.feathered(mask == 0, feather) > 0
    np.testing.assert_array_equal(result[~near], image[~near])
    changed = (result != image).any(-1) & (mask == 255)
    assert changed.any() == (feather > 0)


def test_the_fill_of_a_flat_picture_is_flat_on_every_route():
    image = np.full((200, 240, 3), (90, 140, 200), np.uint8)
    mask = mask_with(image.shape, *HOLES)
    result = paint.inpaint_photo(Painter(), image, mask, R)
    assert np.abs(result.astype(int) - image).max() <= 1


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (5, 3), (20, 31), (33, 20)])
def test_pictures_smaller_than_the_network(shape):
    image = picture(*shape)
    mask = np.full(shape, 255, np.uint8)
    mask[0, 0] = 0
    result = paint.inpaint_photo(Painter(), image, mask, R, PLAIN)
    np.testing.assert_array_equal(result[mask == 255], image[mask == 255])


def test_all_hole_is_painted():
    image = picture(90, 100)
    result = paint.inpaint_photo(
        Painter(), image, np.zeros((90, 100), np.uint8), R)
    # The stand-in has nothing to go by: the middle grey.
    assert np.abs(result.astype(int) - 127).max() <= 1


def test_grain_is_that_of_the_surroundings():
    rng = np.random.default_rng(0)
    image = np.clip(np.rint(rng.normal(128, 5, (200, 240, 3))), 0, 255).astype(np.uint8)
    mask = mask_with(image.shape, (90, 140, 60, 130))
    inside = (slice(96, 134), slice(66, 124))
    smooth = paint.inpaint_photo(Painter(), image, mask, R, paint.Settings(grain=False))
    grainy = paint.inpaint_photo(Painter(), image, mask, R)
    assert smooth[inside].std((0, 1)).max() < 2
    assert 3 < grainy[inside].std((0, 1)).min() < grainy[inside].std((0, 1)).max() < 7
    again = paint.inpaint_photo(Painter(), image, mask, R)
    np.testing.assert_array_equal(again, grainy)


def test_soft_masks_are_weights():
    image = np.full((100, 100, 3), 200, np.uint8)
    ramp = np.full((100, 100), 255, np.uint8)
    ramp[40:60, 40:60] = 0
    ramp[40:60, 60:64] = (51, 102, 153, 204)
    image[40:60, 40:64] = 50
    (fill,) = paint.fills(Painter(), image, ramp, R, PLAIN, soft=True)
    at = (50 - fill.box.top, slice(60 - fill.box.left, 64 - fill.box.left))
    np.testing.assert_allclose(fill.weight[at], [.8, .6, .4, .2], atol=1e-6)
    assert (np.diff(fill.levels[at][:, 0]) < 0).all()


def test_reducing_keeps_holes_out():
    image = np.full((100, 80, 3), 60, np.uint8)
    known = np.ones((100, 80), bool)
    known[30:71, 20:55] = False
    image[~known] = 255
    small, share = paint.reduced(image, known, 33, 27)
    np.testing.assert_allclose(small[share], 60, atol=.01)
    assert not share[12:20, 9:16].any() and share[:8].all()


def test_linear_light_and_back():
    levels = np.linspace(0, 255, 256, dtype=np.float32)
    np.testing.assert_allclose(blend.from_linear(blend.to_linear(levels)), levels,
                               atol=.01)
    half = blend.mix(np.zeros((1, 1, 3), np.float32), np.full((1, 1, 3), 255.),
                     np.full((1, 1), .5, np.float32))
    # Half the light of white is level 188, not 128.
    np.testing.assert_allclose(half, 188, atol=.6)


@pytest.mark.parametrize('image,mask', [
    (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))])
def test_other_shapes_are_refused(image, mask):
    with pytest.raises(ValueError, match='expected'):
        paint.inpaint_photo(Painter(), image, mask, R)
