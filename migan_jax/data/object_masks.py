"""Masks in the shape of things: what people paint over is seldom a stroke or a box.

Mask polarity everywhere: 1 = known, 0 = hole.

One to three closed, smooth outlines. An outline is a circle whose radius is multiplied by
exp(a sum of waves around it), so that it has lobes and waists and never crosses itself;
all outlines of a mask grow together until the hole has the share that was drawn.
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

# The most objects in one mask, and the waves around each: wave 2 stretches it, higher ones
# make lobes; amplitudes fall with the number.
_OBJECTS = 3
_WAVES = np.arange(2, 7, dtype=np.float32)
_AMPLITUDE = 0.7
# Share of a picture that is seldom more than one thing.
_MOST = 0.5


def draw(key: jax.Array, resolution: int, hole_range: Sequence[float] = (0.0, 1.0)
         ) -> jax.Array:
    """One mask with object-shaped holes.

    Args:
      key: a JAX key.
      resolution: R.
      hole_range: (lo, hi), bounds of the share of hole pixels, exclusive. The share is
        uniform between lo and the smaller of hi and 0.5; above that between lo and hi.

    Returns:
      f32[R, R, 1], 1 = known, 0 = hole.
    """
    low, high = hole_range
    least = math.floor(low * resolution**2) + 1
    most = max(math.ceil((min(high, _MOST) if low < _MOST else high)
                         * resolution**2) - 1, least)
    count, sizes, centres, amplitudes, phases, share = jax.random.split(key, 6)
    shape = (_OBJECTS, len(_WAVES))
    size = jax.random.uniform(sizes, (_OBJECTS,), minval=0.4, maxval=1.0)
    centre = jax.random.uniform(
        centres, (_OBJECTS, 2), minval=0.1, maxval=0.9) * resolution
    amplitude = jax.random.normal(amplitudes, shape) * (_AMPLITUDE / _WAVES)
    phase = jax.random.uniform(phases, shape, maxval=2 * math.pi)
    there = jnp.arange(_OBJECTS) <= jax.random.randint(count, (), 0, _OBJECTS)

    pixel = jnp.arange(resolution, dtype=jnp.float32)
    nearest = jnp.full((resolution, resolution), jnp.inf)
    for i in range(_OBJECTS):
        dy, dx = (pixel - centre[i, 0])[:, None], (pixel - centre[i, 1])[None, :]
        angle = jnp.arctan2(dy, dx)
        waves = sum(amplitude[i, k] * jnp.cos(wave * angle + phase[i, k])
                    for k, wave in enumerate(_WAVES))
        away = jnp.sqrt(dy * dy + dx * dx) / (size[i] * jnp.exp(waves))
        nearest = jnp.where(there[i], jnp.minimum(nearest, away), nearest)
    holes = jax.random.randint(share, (), least, most + 1)
    outline = jnp.sort(nearest.reshape(-1))[holes]
    return (nearest >= outline).astype(jnp.float32)[..., None]
