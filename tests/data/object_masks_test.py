"""Object-shaped masks: their share, that they are few whole things, and their mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from migan_jax.data import mask_bank
from migan_jax.data import object_masks
from migan_jax.training import checks
from tiny import tiny_config

R, COUNT = 32, 200


def drawn(hole_range, seed=0):
    keys = jax.random.split(jax.random.key(seed), COUNT)
    draw = jax.jit(jax.vmap(lambda key: object_masks.draw(key, R, hole_range)))
    return np.asarray(draw(keys))[..., 0]


@pytest.mark.parametrize('hole_range, low, high', [
    ((0.05, 0.4), 0.05, 0.4),
    # A thing seldom fills more than half of a picture.
    ((0.0, 1.0), 0.0, 0.5),
    ((0.6, 0.9), 0.6, 0.9),
])
def test_share_of_holes_is_uniform_in_its_range(hole_range, low, high):
    masks = drawn(hole_range)
    assert set(np.unique(masks)) == {0, 1}
    shares = (masks == 0).mean((1, 2))
    assert low < shares.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < shares.max() < high
    assert abs(shares.mean() - (low + high) / 2) < 0.12 * (high - low)


def test_holes_are_few_whole_things():
    masks = drawn((0.1, 0.4))
    assert len({mask.tobytes() for mask in masks}) == COUNT
    pieces = [ndimage.label(mask == 0, np.ones((3, 3)))[1] for mask in masks]
    # Those at the border may be cut in two.
    assert np.mean(np.array(pieces) <= 3) > 0.95 and 1 in pieces and 2 in pieces
    # Strokes and boxes leave known islands within holes; these have none.
    filled = [ndimage.binary_fill_holes(np.pad(mask == 0, 1)).sum() - (mask == 0).sum()
              for mask in masks]
    assert np.mean(np.array(filled) == 0) > 0.8


def test_a_share_of_a_batch_has_them():
    keys = jax.random.split(jax.random.key(3), COUNT)
    draw = lambda key: object_masks.draw(key, R, (0.1, 0.4))
    mixed = jax.jit(lambda keys, masks: mask_bank.mix(keys, draw, 0.25, masks))(
        keys, jnp.ones((COUNT, R, R, 1)))
    assert 30 < int((np.asarray(mixed).min((1, 2, 3)) == 0).sum()) < 70


@pytest.mark.parametrize('share', [-0.1, 1.5, float('nan'), 'half'])
def test_another_share_is_refused(share):
    config = tiny_config(1)
    with config.ignore_type():
        config.mask.objects_share = share
    with pytest.raises(ValueError, match='mask.objects_share .* a number from 0 to 1'):
        checks.check(config)
