"""A starting fill for holes: the smooth continuation of the known colours.

Not in the paper.  A model that is trained for hours, not weeks, gets as its input what
it would first have to learn to compute, and paints what is missing to it.

The continuation is the harmonic one, each pixel of a hole the mean of its four
neighbours (Laplace's equation with the known pixels as its boundary), solved coarsely:
from a pyramid of means downwards, with some of Jacobi's passes at each level.
"""

import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.devices import Array
from migan_jax.model.ops import up2

# The pyramid ends where the generator's does.
LOWEST = 4
# Smaller than any share of known pixels at the lowest level, other than 0.
SMALLEST_SHARE = 2.0**-10

# The name of a tensor that goes with the weights of a model that has this fill, without
# which they paint something else.  Its value is `flag_value`.
FLAG = 'starting_fill'


def flag_value(passes: int) -> np.ndarray:
    """f32[]: 1 + passes; 1 is what models had before there were passes."""
    return np.array(1 + passes, np.float32)


def starting_fill(x: Array, passes: int) -> jax.Array:
    """Fills the holes of a generator's input by what surrounds them.

    Each level halves the one before: a pixel is the mean of those of its four parents
    that are known, and unknown only if none is.  Then, from the mean of the lowest level
    upwards, what is unknown comes from the next lower level, resized bilinearly, and
    becomes `passes` times the mean of its four neighbours, edges repeated.

    Args:
      x: f32[B, R, R, 4], `io.model_input`: [mask - 0.5, image * mask], mask 1 = known,
        0 = hole, R a power of two from 4.
      passes: at each level; 0 leaves the pyramid of means.

    Returns:
      f32[B, R, R, 3] in the range of the image: the image where it is known.
    """
    known, colour = x[..., :1] + 0.5, x[..., 1:]
    levels = []
    while known.shape[1] > LOWEST:
        levels.append((known, colour))
        share = _halve(known)
        # A share is 0 or at least a quarter, and so is never divided by 0.
        known = jnp.minimum(4 * share, 1.0)
        colour = _halve(colour) / jnp.maximum(share, 0.25)
    mean = lambda y: jnp.mean(y, (1, 2), keepdims=True)
    # Where nothing is known, 0 is divided by this.
    coarse = mean(colour) / jnp.maximum(mean(known), SMALLEST_SHARE)
    coarse = _relax(colour + (1 - known) * coarse, known, colour, passes)
    for known, colour in reversed(levels):
        coarse = colour + (1 - known) * resize2(coarse)
        coarse = _relax(coarse, known, colour, passes)
    return coarse


def _relax(x, known, colour, passes):
    def relaxed(x):
        up = jnp.concatenate([x[:, :1], x[:, :-1]], 1)
        down = jnp.concatenate([x[:, 1:], x[:, -1:]], 1)
        left = jnp.concatenate([x[:, :, :1], x[:, :, :-1]], 2)
        right = jnp.concatenate([x[:, :, 1:], x[:, :, -1:]], 2)
        return colour + (1 - known) * (up + down + left + right) / 4

    # A loop, as unrolled passes are fused into one that computes neighbours of
    # neighbours again and again.
    return jax.lax.fori_loop(0, passes, lambda _, x: relaxed(x), x)


def _halve(x):
    b, h, w, c = x.shape
    return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), (2, 4))


def resize2(x: Array) -> jax.Array:
    """Bilinear to twice the size, pixel centres at half-integers, edges repeated.

    Args:
      x: f32[B, H, W, C].

    Returns:
      f32[B, 2 H, 2 W, C].
    """
    # up2 has the same weights, but zeros outside.
    edge = lambda n: np.where(np.isin(np.arange(2 * n), (0, 2 * n - 1)), 4 / 3, 1.0)
    h, w = x.shape[1:3]
    scale = edge(h)[:, None, None] * edge(w)[None, :, None]
    return up2(x) * jnp.asarray(scale, x.dtype)
