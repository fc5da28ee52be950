"""What was painted meets what is known."""

import numpy as np
import pytest

from migan_jax.photo import seam


def scene(height=40, width=48):
    """f32[H, W, 3] of a smooth picture and bool[H, W], True = known."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    known = np.ones((height, width), bool)
    known[10:30, 14:34] = False
    return np.stack([60 + x, 90 + y, 120 + .5 * x], -1), known


def test_a_fill_that_misses_meets_its_surroundings():
    picture, known = scene()
    painted = picture + np.array([6, -4, 2], np.float32)
    result = seam.met(painted, picture, known)
    edge = ~known
    edge[12:28, 16:32] = False
    assert np.abs(painted - picture)[edge].mean() == pytest.approx(4)
    assert np.abs(result - picture)[edge].mean() < 1.5
    # In the middle, ten pixels from the edge, some of what was painted stays.
    assert np.abs(result - picture)[19:21, 23:25, 0].min() > 1


def test_what_was_painted_over_known_pixels_does_not_matter():
    picture, known = scene()
    painted = picture + 3
    other = np.where(known[..., None], 255 - painted, painted)
    results = [seam.met(one, picture, known) for one in (painted, other)]
    np.testing.assert_array_equal(*results)


def test_a_fill_that_meets_stays():
    picture, known = scene()
    flat = np.full_like(picture, 77)
    np.testing.assert_allclose(seam.met(flat, flat, known), flat, atol=1e-3)


def test_under_a_soft_edge_the_picture_keeps_its_detail():
    picture, known = scene()
    noise = np.random.default_rng(0).normal(0, 5, picture.shape).astype(np.float32)
    result = seam.met(picture, picture + noise, known)
    near = known.copy()
    near[:8], near[32:], near[:, :12], near[:, 36:] = False, False, False, False
    assert np.abs(result - picture - noise)[near].mean() < np.abs(result - picture)[near].mean()


@pytest.mark.parametrize('where', [np.zeros((5, 7), bool), np.ones((5, 7), bool)])
def test_nothing_to_meet(where):
    painted = np.arange(105, dtype=np.float32).reshape(5, 7, 3)
    np.testing.assert_array_equal(seam.met(painted, painted * 0, where), painted)


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (6, 1), (33, 20)])
def test_values_are_continued_everywhere(shape):
    where = np.zeros(shape, bool)
    where[0, 0] = True
    values = np.where(where[..., None], np.float32(5), np.float32(np.nan))
    np.testing.assert_allclose(seam.continued(values, where), 5, rtol=1e-6)


def test_a_slope_is_continued_as_a_slope():
    x = np.broadcast_to(np.arange(32, dtype=np.float32), (32, 32))[..., None]
    where = np.ones((32, 32), bool)
    where[4:28, 4:28] = False
    np.testing.assert_allclose(seam.continued(x, where), x, atol=1)


def test_values_fade_with_the_length():
    where = np.zeros((8, 64), bool)
    where[:, 0] = True
    result = seam.continued(np.ones((8, 64, 1), np.float32), where, 8 ** -2.)[4, :, 0]
    assert (np.diff(result) < 0).all()
    assert result[8] == pytest.approx(np.exp(-1), abs=.15)
    assert result[40] < .05
