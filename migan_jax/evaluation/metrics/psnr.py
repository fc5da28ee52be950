"""Peak signal-to-noise ratio of images in [0, 1], in dB, one figure per image."""

import jax
import jax.numpy as jnp

from migan_jax.evaluation import metrics


def psnr(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array:
    """PSNR over all pixels and channels, no border cut.

    Args:
        a: f[B, H, W, C] in [0, 1].
        b: f[B, H, W, C] in [0, 1].

    Returns:
        f32[B] in dB; inf for identical images.

    Raises:
        ValueError: shapes that differ or arrays that are not floating point.
    """
    a, b = metrics.comparable(a, b)
    return _decibel(jnp.mean(jnp.square(a - b), axis=(1, 2, 3)))


def hole_psnr(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike,
              mask: jax.typing.ArrayLike) -> jax.Array:
    """PSNR over the pixels of the hole only.

    Args:
        a: f[B, H, W, C] in [0, 1].
        b: f[B, H, W, C] in [0, 1].
        mask: f[B, H, W, 1], 1 = known (not counted), 0 = hole (counted).

    Returns:
        f32[B] in dB; inf where the holes are identical; nan where an image has no
        hole and so nothing to count: average with `jnp.nanmean`.

    Raises:
        ValueError: shapes that do not fit or arrays that are not floating point.
    """
    a, b = metrics.comparable(a, b)
    if mask.shape != (*a.shape[:3], 1):
        raise ValueError(
            f'mask: expected shape {[*a.shape[:3], 1]} (1 = known, 0 = hole), got '
            f'{list(mask.shape)}'
        )
    hole = 1 - mask.astype(jnp.float32)
    count = jnp.sum(hole, axis=(1, 2, 3)) * a.shape[-1]
    total = jnp.sum(jnp.square(a - b) * hole, axis=(1, 2, 3))
    mean = total / jnp.where(count > 0, count, 1)
    return jnp.where(count > 0, _decibel(mean), jnp.nan)


def _decibel(mean_squared_error):
    return -10 * jnp.log10(mean_squared_error)
