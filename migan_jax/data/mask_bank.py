"""Masks of one's own for training: read once, drawn at random on the device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax import storage
from migan_jax.devices import Array


def read_bank(folder: str, resolution: int, hole_range: Sequence[float]
              ) -> tuple[np.ndarray, int]:
    """The masks of a folder whose share of holes is in a range.

    Args:
      folder: mask files, white = known, black = hole, of any size and name.
      resolution: R; masks are squashed to R x R, nearest.
      hole_range: (lo, hi), bounds of the share of hole pixels, exclusive.

    Returns:
      u8[M, R, R // 8], bits along the last axis, 1 = known; how many were left out.

    Raises:
      ValueError: no masks there, one is no mask, or none has such a share.
    """
    files = image_files.by_stem(folder)
    low, high = hole_range
    kept = []
    for path in (files[stem] for stem in sorted(files)):
        mask = np.ascontiguousarray(mask_files.read(path)[0])
        size = (resolution, resolution)
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        if low < np.mean(mask == 0) < high:
            kept.append(np.packbits(mask != 0, axis=-1))
    if not kept:
        raise ValueError(
            f'data.masks={storage.shown(folder)}: none of its {len(files)} masks has a '
            f'share of holes between {low} and {high} (mask.hole_range); white is known, '
            'black is hole.')
    return np.stack(kept), len(files) - len(kept)


def draw(key: jax.Array, bank: Array) -> jax.Array:
    """One mask of a bank, mirrored and turned at random.

    Args:
      key: a JAX key.
      bank: u8[M, R, R // 8] of `read_bank`.

    Returns:
      f32[R, R, 1], 1 = known, 0 = hole.
    """
    which, sides = jax.random.split(key)
    chosen = jnp.asarray(bank)[jax.random.randint(which, (), 0, len(bank))]
    mask = jnp.unpackbits(chosen, axis=-1)
    # Two mirrors and a transposition make all eight ways to lay down a square.
    for flip, change in zip(jax.random.bernoulli(sides, shape=(3,)),
                            (jnp.flipud, jnp.fliplr, jnp.transpose)):
        mask = jnp.where(flip, change(mask), mask)
    return mask.astype(jnp.float32)[..., None]


def mix(keys: jax.Array, draw_one: Callable[[jax.Array], jax.Array],
        share: jax.typing.ArrayLike, masks: jax.Array) -> jax.Array:
    """Replaces a share of a batch's masks by others.

    Args:
      keys: [B] JAX keys.
      draw_one: key -> f32[R, R, 1], such as `draw` from a bank.
      share: probability of each, 0 to 1.
      masks: f32[B, R, R, 1].
    """
    def one(key, mask):
        choice, key = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(choice, share), draw_one(key), mask)

    return jax.vmap(one)(keys, masks)
