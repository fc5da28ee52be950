"""The starting fill: by hand, in the generator, and what refuses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from migan_jax.model import build
from migan_jax.model import fill
from migan_jax.model.generator import Generator


def _input(image, mask):
    """[mask - 0.5, image * mask] of f32[H, W, 3] and [H, W], 1 = known."""
    mask = np.asarray(mask, np.float32)[..., None]
    return jnp.asarray(np.concatenate([mask - 0.5, image * mask], -1)[None])


def _by_loops(image, mask, passes):
    """The same fill, pixel by pixel."""
    side = len(mask)
    if side == fill.LOWEST:
        rest = image[mask].mean(0) if mask.any() else np.zeros(3)
    else:
        small, known = np.zeros((side // 2, side // 2, 3)), np.zeros((side // 2,) * 2, bool)
        for y, x in np.ndindex(*known.shape):
            cell = np.s_[2 * y:2 * y + 2, 2 * x:2 * x + 2]
            known[y, x] = mask[cell].any()
            if known[y, x]:
                small[y, x] = image[cell][mask[cell]].mean(0)
        small = _by_loops(small, known, passes)
        rest = np.zeros((side, side, 3))
        for y, x in np.ndindex(side, side):
            for dy, dx, weight in (
                    (0, 0, 9), (0, 1, 3), (1, 0, 3), (1, 1, 1)):
                parent = [min(max(i // 2 + d * (2 * (i % 2) - 1), 0), side // 2 - 1)
                          for i, d in ((y, dy), (x, dx))]
                rest[y, x] += weight / 16 * small[tuple(parent)]
    filled = np.where(mask[..., None], image, rest)
    for _ in range(passes):
        before = filled.copy()
        for y, x in zip(*np.nonzero(~mask)):
            filled[y, x] = np.mean([
                before[min(max(y + dy, 0), side - 1), min(max(x + dx, 0), side - 1)]
                for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))], 0)
    return filled


@pytest.mark.parametrize('passes', [0, 3])
@pytest.mark.parametrize('hole', [
    np.s_[3:9, 2:15], np.s_[0:16, 0:7], np.s_[0:16, 0:16], np.s_[5:5, 0:0]])
def test_equals_loops_over_pixels(hole, passes):
    image = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    mask = np.ones((16, 16), bool)
    mask[hole] = False
    filled = fill.starting_fill(_input(image, mask), passes)[0]
    np.testing.assert_allclose(filled, _by_loops(image, mask, passes), atol=1e-6)


def test_many_passes_solve_laplaces_equation():
    ramp = np.linspace(-1, 1, 32)
    image = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], 32),
                      ramp[:, None] * ramp], -1)   # each of them is harmonic
    mask = np.ones((32, 32))
    mask[5:27, 3:25] = 0
    filled = fill.starting_fill(_input(image, mask), 500)[0]
    np.testing.assert_allclose(filled, image, atol=1e-4)


def test_one_colour_stays_one_colour_up_to_the_border():
    image = np.full((32, 32, 3), (0.7, -0.2, 0.1), np.float32)
    mask = np.ones((32, 32))
    mask[:20, 10:] = 0
    np.testing.assert_allclose(fill.starting_fill(_input(image, mask), 2)[0], image, atol=1e-6)


def test_resize2_is_bilinear_with_repeated_edges():
    x = jax.random.normal(jax.random.key(0), (2, 4, 8, 3))
    np.testing.assert_allclose(
        fill.resize2(x), jax.image.resize(x, (2, 8, 16, 3), 'linear'), atol=1e-6)


def test_the_generator_paints_on_the_fill():
    image = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    mask = np.ones((16, 16))
    mask[2:13, 4:14] = 0
    x = _input(image, mask)
    plain, filling = Generator(16, 64, 8), Generator(16, 64, 8, fill_passes=2)
    variables = jax.jit(lambda: plain.init(jax.random.key(0), x, 'none'))()
    start = fill.starting_fill(x, 2)
    expected, rgbs = plain.apply(
        variables, jnp.concatenate([x[..., :1], start], -1), 'const')
    painted, others = filling.apply(variables, x, 'const')
    np.testing.assert_allclose(painted, expected + start, atol=1e-5)
    # What is distilled is the torgb outputs, before the sum.
    for r in rgbs:
        np.testing.assert_allclose(rgbs[r], others[r], atol=1e-5)


def test_training_begins_at_the_fill():
    image = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    mask = np.ones((16, 16))
    mask[2:13, 4:14] = 0
    x = _input(image, mask)
    generator = Generator(16, 64, 8, fill_passes=2)
    variables = jax.jit(lambda key: build.init_generator(generator, key))(jax.random.key(0))
    painted = build.deployed_forward(generator, variables, x)
    np.testing.assert_allclose(painted, fill.starting_fill(x, 2), atol=1e-6)
    # A gradient reaches the layers all the same.
    moved = jax.jit(jax.grad(lambda params: jnp.abs(build.deployed_forward(
        generator, {**variables, 'params': params}, x) - image).sum()))(variables['params'])
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved))
