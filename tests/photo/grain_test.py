"""Fills get the grain and the fine texture of their surroundings."""

import numpy as np
from scipy import ndimage

from migan_jax.photo import grain


def scene(spread, seed=0):
    """f32[120, 140, 3] noise round 128, and bool, True = known."""
    noise = np.random.default_rng(seed).normal(0, 1, (120, 140))
    noise = ndimage.gaussian_filter(noise, spread)
    picture = 128 + (6 * noise / noise.std())[..., None] * np.array([1, .5, .25])
    known = np.ones((120, 140), bool)
    known[30:90, 40:100] = False
    return picture.astype(np.float32), known


def added(picture, known, painted, seed=1):
    return grain.texture(painted, ~known, picture, known, 1, np.random.default_rng(seed))


def neighbours(noise):
    """How alike a pixel and the next one are."""
    return np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]


def test_noise_is_as_coarse_as_that_of_the_surroundings():
    alike = []
    for spread in (0, 1):
        picture, known = scene(spread)
        noise = added(picture, known, np.full_like(picture, 128))[~known].reshape(60, 60, 3)
        detail = picture - ndimage.gaussian_filter(picture, (2, 2, 0))
        alike.append(neighbours(noise[..., 0]))
        assert abs(alike[-1] - neighbours(detail[..., 0])) < .15
        # Channels keep their strength, and are as alike as they were.
        np.testing.assert_allclose(noise.std((0, 1)), grain.STRENGTH * detail.std((0, 1)),
                                   rtol=.25)
        assert np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1] > .95
    assert alike[0] < .1 < .4 < alike[1]


def test_a_fill_that_has_it_gets_none():
    picture, known = scene(0)
    noise = added(picture, known, scene(0, seed=2)[0])
    assert noise[~known].std() < .4 * added(picture, known, np.full_like(picture, 128))[
        ~known].std()


def test_smooth_surroundings_stay_smooth():
    y, x = np.mgrid[:120, :140].astype(np.float32)
    _, known = scene(0)
    picture = np.stack([x, y, x + y], -1) / 2
    assert np.abs(added(picture, known, picture)).max() < .5


def test_the_seed_decides():
    picture, known = scene(0)
    painted = np.full_like(picture, 128)
    first, again, other = (added(picture, known, painted, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_without_surroundings_there_is_none():
    picture, known = scene(0)
    assert not added(picture, known & False, picture).any()


def test_noise_is_weak_beside_what_is_smooth():
    picture, known = scene(0)
    picture[:, :60] = 128
    noise = added(picture, known, np.full_like(picture, 128))
    assert noise[40:80, 42:50].std() < .7 * noise[40:80, 90:98].std()
