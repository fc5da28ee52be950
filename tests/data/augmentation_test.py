"""Pictures turned and recoloured for training."""

import numpy as np

from migan_jax.data import augmentation


def augmented(seed, image):
    return augmentation.augmented(image, np.random.default_rng(seed))


def test_each_result_is_the_picture_turned_with_its_levels_mapped_by_one_curve():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    seen = set()
    for seed in range(200):
        out = augmented(seed, image)
        assert out.dtype == np.uint8 and out.shape == image.shape
        # One of the 24 arrangements explains it: there, equal levels stay equal and the
        # curve only rises or only falls.
        found = []
        for turns in range(4):
            turned = np.rot90(image, turns)
            for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
                levels, by = turned[..., order].ravel(), out.ravel().astype(int)
                steps = np.diff(by[np.argsort(levels, kind='stable')])
                if (steps >= 0).all():
                    found.append((turns, order, 'positive'))
                if (steps <= 0).all():
                    found.append((turns, order, 'negative'))
        assert len(found) == 1, (seed, found)
        seen.update(found)
    assert len(seen) == 4 * 6 * 2


def test_black_and_white_stay_the_ends_and_grey_stays_near():
    ramp = np.arange(256, dtype=np.uint8)
    image = np.broadcast_to(ramp.reshape(16, 16, 1), (16, 16, 3))
    middles = []
    for seed in range(100):
        out = augmented(seed, image)
        assert out.min() == 0 and out.max() == 255
        # .5^exp(.5) and .5^exp(-.5)
        middles.append(np.median(out) / 255)
    assert 0.31 < min(middles) < 0.36 and 0.61 < max(middles) < 0.67


def test_the_same_stream_gives_the_same_picture():
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    np.testing.assert_array_equal(augmented(3, image), augmented(3, image))
    assert (augmented(3, image) != augmented(4, image)).any()
