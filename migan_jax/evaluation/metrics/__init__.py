"""Image quality metrics, one module each, always computed on composites."""

import jax
import jax.numpy as jnp


def comparable(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Checks that two batches of images can be compared; both as f32[B, H, W, C].

    Raises:
        ValueError: shapes that differ or arrays that are not floating point.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            'images: expected two arrays of one shape [B, H, W, C], got '
            f'{list(a.shape)} and {list(b.shape)}'
        )
    for x in (a, b):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f'images: expected floats in [0, 1], got {x.dtype}; divide u8 by 255'
            )
    return jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
