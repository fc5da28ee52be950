"""Masks of one's own: which are kept, and how they are drawn."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from migan_jax.data import mask_bank

R = 16


@pytest.fixture
def folder(tmp_path):
    """An L in a corner, at twice the size; a square; one all hole, one all known."""
    corner = np.full((2 * R, 2 * R), 255, np.uint8)
    corner[:12, :4] = corner[8:12, :8] = 0
    square = np.full((R, R), 255, np.uint8)
    square[4:12, 4:12] = 0
    for name, mask in (('corner', corner), ('sub/square', square),
                       ('hole', 0 * square), ('known', 0 * square + 255)):
        path = tmp_path / f'{name}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    return str(tmp_path)


def test_masks_with_holes_in_range_are_kept(folder):
    bank, left_out = mask_bank.read_bank(folder, R, (0.0, 0.9))
    assert bank.shape == (2, R, R // 8) and left_out == 2
    masks = np.unpackbits(bank, axis=-1)
    corner, square = masks
    assert corner[0, 0] == 0 and corner[5, 3] == 0 and corner[0, 2] == 1
    assert np.mean(square == 0) == 0.25
    with pytest.raises(ValueError, match='none of its 4 masks .*0.3 and 0.4'):
        mask_bank.read_bank(folder, R, (0.3, 0.4))


def test_all_eight_ways_are_drawn_and_the_share_is_kept(folder):
    bank, _ = mask_bank.read_bank(folder, R, (0.0, 0.9))
    keys = jax.random.split(jax.random.key(0), 400)
    masks = np.asarray(jax.jit(jax.vmap(mask_bank.draw, (0, None)))(keys, bank))
    assert masks.shape == (400, R, R, 1)
    corner = np.unpackbits(bank[0], axis=-1)
    ways = {np.rot90(m, k).tobytes() for m in (corner, corner.T) for k in range(4)}
    assert len(ways) == 8
    seen = collections.Counter(m[..., 0].astype(np.uint8).tobytes() for m in masks)
    square = np.unpackbits(bank[1], axis=-1).tobytes()
    assert set(seen) == ways | {square}
    assert 150 < seen[square] < 250

    known = jnp.ones((400, R, R, 1))
    draw = lambda key: mask_bank.draw(key, bank)
    mixed = jax.jit(lambda *of: mask_bank.mix(of[0], draw, *of[1:]))(keys, 0.25, known)
    replaced = np.asarray(mixed).reshape(400, -1).min(1) == 0
    assert 60 < replaced.sum() < 140
    assert np.asarray(mask_bank.mix(keys[:9], draw, 0.0, known[:9])).min() == 1
