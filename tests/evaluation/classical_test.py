"""OpenCV's methods as painters: polarity, known pixels, and what is refused."""

import sys

import numpy as np
import pytest

from migan_jax.evaluation import classical
from migan_jax import extras


def _gradient_with_hole():
    image = np.zeros((24, 32, 3), np.uint8)
    image[...] = np.arange(32, dtype=np.uint8)[None, :, None] * 6
    mask = np.full((24, 32), 255, np.uint8)
    mask[8:16, 10:20] = 0
    return image, mask


@pytest.mark.parametrize('name', sorted(classical.METHODS))
@pytest.mark.parametrize('axis', [False, True])
def test_continues_a_gradient_and_keeps_known_pixels(name, axis):
    pytest.importorskip('cv2')
    image, mask = _gradient_with_hole()
    damaged = np.where(mask[..., None] == 255, image, 255).astype(np.uint8)
    before = damaged.copy()
    painted = classical.METHODS[name](damaged, mask[..., None] if axis else mask)
    assert painted.dtype == np.uint8 and painted.shape == image.shape
    np.testing.assert_array_equal(damaged, before)
    np.testing.assert_array_equal(painted[mask == 255], image[mask == 255])
    error = np.abs(painted.astype(int) - image)[mask != 255]
    assert error.mean() < 12 and error.max() < 40


def test_anything_but_255_is_a_hole():
    pytest.importorskip('cv2')
    image, mask = _gradient_with_hole()
    almost = np.where(mask == 0, 254, mask).astype(np.uint8)
    np.testing.assert_array_equal(classical.telea(image, almost),
                                  classical.telea(image, mask))


@pytest.mark.parametrize('image, mask, message', [
    (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), r'float32\[8, 8, 3\]'),
    (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.uint8), r'uint8\[H, W, 3\]'),
    (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.uint8), r'uint8\[8, 9\]'),
    (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool), '255 = known'),
])
def test_refuses_other_shapes_and_dtypes(image, mask, message):
    pytest.importorskip('cv2')
    with pytest.raises(ValueError, match=message):
        classical.navier_stokes(image, mask)


def test_names_the_extra_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    image, mask = _gradient_with_hole()
    with pytest.raises(extras.MissingExtra, match=r'migan_jax\[classical\]'):
        classical.telea(image, mask)
