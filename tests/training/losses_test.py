"""Losses under jit against numbers worked out by hand or by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from migan_jax.training import losses


def test_logistic_losses():
    # softplus(x) = log(1 + e^x): log 2 at 0, log(1 + e) at 1, log(1 + 1/e) at -1.
    logits = jnp.array([[0.0], [1.0]])
    up, down = np.log(1 + np.e), np.log(1 + 1 / np.e)
    np.testing.assert_allclose(
        jax.jit(losses.generator_loss)(logits), (np.log(2) + down) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(losses.discriminator_loss)(logits, -logits),
        (np.log(2) + down) / 2 * 2, rtol=1e-6)
    np.testing.assert_allclose(
        losses.discriminator_loss(-logits, logits), (np.log(2) + up) / 2 * 2, rtol=1e-6)


def test_r1_of_a_quadratic():
    # d/dx sum (a x^2) = 2 a x: the penalty is 4 a^2 sum x^2 per sample.
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
    critic = lambda x: 0.5 * jnp.sum(jnp.square(x), (1, 2, 3))[:, None]
    np.testing.assert_allclose(
        jax.jit(lambda x: losses.r1_penalty(critic, x))(x),
        np.square(np.asarray(x)).sum((1, 2, 3)), rtol=1e-5)


def test_mask_is_reduced_by_its_top_left_pixels():
    mask = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        losses.resize_mask(mask, 2)[0, :, :, 0], [[0, 2], [8, 10]])


def test_distillation_counts_holes_from_the_lowest_resolution_on():
    mask = jnp.ones((1, 8, 8, 1)).at[:, :4].set(0)    # half is hole
    student = {r: jnp.zeros((1, r, r, 3)) for r in (2, 4, 8)}
    teacher = {r: jnp.full((1, r, r, 3), float(r)) for r in (2, 4, 8)}
    loss = jax.jit(losses.distillation_loss, static_argnums=3)
    np.testing.assert_allclose(loss(student, teacher, mask, 4), (4 + 8) / 2)
    np.testing.assert_allclose(loss(student, teacher, mask, 2), (2 + 4 + 8) / 2)


def test_distillation_gives_the_teacher_no_gradient():
    mask = jnp.zeros((1, 4, 4, 1))
    loss = lambda student, teacher: losses.distillation_loss(
        {4: student}, {4: teacher}, mask, 4)
    student, teacher = jnp.ones((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 3))
    to_student, to_teacher = jax.grad(loss, (0, 1))(student, teacher)
    np.testing.assert_allclose(to_student, 1 / 48, rtol=1e-6)
    assert not to_teacher.any()


@pytest.mark.parametrize('resolutions, lowest', [((16,), 32), ((32, 64), 32)])
def test_distillation_without_common_resolutions_is_refused(resolutions, lowest):
    student = {r: jnp.zeros((1, r, r, 3)) for r in resolutions}
    teacher = {32: jnp.zeros((1, 32, 32, 3))}
    with pytest.raises(ValueError, match=r'the teacher has \[32\]'):
        losses.distillation_loss(student, teacher, jnp.ones((1, 64, 64, 1)), lowest)


def test_reconstruction_is_the_mean_absolute_difference():
    fake, image = jax.random.normal(jax.random.key(0), (2, 1, 4, 4, 3))
    np.testing.assert_allclose(
        jax.jit(losses.reconstruction_loss)(fake, image),
        np.abs(np.asarray(fake) - np.asarray(image)).mean(), rtol=1e-5)


def test_path_lengths_of_a_linear_generator():
    # image = sum_i A_i w_i: the gradient of sum(image y) is A_i^T y for each input.
    a = jax.random.normal(jax.random.key(0), (3, 5, 4, 4, 3))          # [n, w_dim, ...]
    paint = lambda ws: jnp.einsum('bnw,nwhxc->bhxc', ws, a)
    ws = jax.random.normal(jax.random.key(1), (2, 3, 5))
    y = jax.random.normal(jax.random.key(2), (2, 4, 4, 3))
    gradient = np.einsum('nwhxc,bhxc->bnw', a, y)
    expected = np.sqrt((gradient**2).sum(2).mean(1))
    lengths = jax.jit(lambda ws, y: losses.path_lengths(paint, ws, y))(ws, y)
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)
