"""Losses: logistic GAN losses, R1, distillation and reconstruction.  All float32."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def generator_loss(fake_logits: jax.Array) -> jax.Array:
    """Non-saturating logistic loss of the generator.

    mean softplus(-D(fake)).

    Args:
      fake_logits: f32[B, 1].

    Returns:
      f32[].

    References:
      Goodfellow et al., Generative adversarial nets, 2014.
    """
    return jnp.mean(jax.nn.softplus(-fake_logits))


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Logistic loss of the discriminator.

    mean softplus(D(fake)) + mean softplus(-D(real)).

    Args:
      real_logits, fake_logits: f32[B, 1].

    Returns:
      f32[].
    """
    return jnp.mean(jax.nn.softplus(fake_logits)) + jnp.mean(jax.nn.softplus(-real_logits))


def r1_penalty(critic: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Squared norm of the discriminator's gradient at real samples.

    Sum over pixels and all four input channels of (dD/dx)^2, per sample.

    Args:
      critic: function f32[B, H, W, 4] -> f32[B, 1].
      x: f32[B, H, W, 4], `io.critic_input` of real images.

    Returns:
      f32[B].

    References:
      Mescheder et al., Which training methods for GANs do actually converge?, 2018.
    """
    gradient = jax.grad(lambda x: jnp.sum(critic(x)))(x)
    return jnp.sum(jnp.square(gradient), (1, 2, 3))


def path_lengths(paint: Callable[[jax.Array], jax.Array], ws: jax.Array,
                 y: jax.Array) -> jax.Array:
    """How far the image moves with the mapped latents, per sample.

    |J_w^T y| with y a random image: root of the mean over style inputs of the squared
    norm of d(sum paint(ws) y)/dw.

    Args:
      paint: function f32[B, n, w_dim] -> f32[B, H, W, 3].
      ws: f32[B, n, w_dim].
      y: f32[B, H, W, 3], N(0, 1) / sqrt(H W).

    Returns:
      f32[B].

    References:
      Karras et al., Analyzing and improving the image quality of StyleGAN, 2020.
    """
    gradient = jax.grad(lambda ws: jnp.sum(paint(ws) * y))(ws)
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(gradient), 2), 1))


def resize_mask(mask: jax.Array, resolution: int) -> jax.Array:
    """Nearest-neighbour reduction of a mask (1 = known) to a lower resolution.

    Takes the top left pixel of each cell, as PyTorch's 'nearest' does.

    Args:
      mask: f32[B, R, R, 1].
      resolution: r, a divisor of R.

    Returns:
      f32[B, r, r, 1].
    """
    step = mask.shape[1] // resolution
    return mask[:, ::step, ::step]


def distillation_loss(student_rgbs: Mapping[int, jax.Array],
                      teacher_rgbs: Mapping[int, jax.Array], mask: jax.Array,
                      min_resolution: int = 32) -> jax.Array:
    """Image-level distillation: L1 between torgb outputs inside the holes.

    Sum over r >= min_resolution of mean(|rgb_r - teacher rgb_r| * (1 - mask_r)).

    Args:
      student_rgbs, teacher_rgbs: {r: f32[B, r, r, 3]}, before accumulation.
      mask: f32[B, R, R, 1], 1 = known.
      min_resolution: lowest resolution compared.

    Returns:
      f32[].

    Raises:
      ValueError: the teacher lacks a resolution that the student has.
    """
    compared = [r for r in sorted(student_rgbs) if r >= min_resolution]
    missing = [r for r in compared if r not in teacher_rgbs]
    if missing or not compared:
        raise ValueError(
            f'distillation from resolution {min_resolution} compares {compared}; the '
            f'teacher has {sorted(teacher_rgbs)}, missing {missing}.')
    total = 0.0
    for r in compared:
        hole = 1 - resize_mask(mask, r)
        teacher = jax.lax.stop_gradient(teacher_rgbs[r]).astype(student_rgbs[r].dtype)
        total += jnp.mean(jnp.abs(student_rgbs[r] - teacher) * hole)
    return total


def reconstruction_loss(fake: jax.Array, image: jax.Array) -> jax.Array:
    """L1 between a composite and the original: mean |fake - image|.

    Known pixels agree by construction, so this counts holes, weighted by their
    share.  Not in the paper: for runs too short for the adversarial loss alone.

    Args:
      fake, image: f32[B, H, W, 3].

    Returns:
      f32[].
    """
    return jnp.mean(jnp.abs(fake - image))
