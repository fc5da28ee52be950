"""What goes into the networks and what comes out: model input, composite, 8 bits.

Mask polarity everywhere: 1 (255 in u8) = known, 0 = hole.  All functions take jax arrays
(also inside jit) or numpy arrays and answer in kind.
"""

import jax.numpy as jnp
import numpy as np

from migan_jax.devices import Array



def model_input(image: Array, mask: Array) -> Array:
    """The generator's input.

    Args:
        image: f[..., H, W, 3] in [-1, 1].
        mask: f[..., H, W, 1] of the same dtype, 1 = known, 0 = hole.

    Returns:
        f[..., H, W, 4], mask first: `[mask - 0.5, image * mask]`, dtype kept.
    """
    return _numpy_of(image).concatenate([_centred(mask), image * mask], axis=-1)


def critic_input(image: Array, mask: Array) -> Array:
    """The discriminator's input: `[mask - 0.5, image]`, f[..., H, W, 4].

    Shapes and polarity as in `model_input`; the image is not masked, because the
    discriminator judges what was painted into the hole.
    """
    return _numpy_of(image).concatenate([_centred(mask), image], axis=-1)


def composite(output: Array, image: Array, mask: Array) -> Array:
    """`output` in the hole, `image` where it is known; dtype kept.

    Args:
        output: [..., H, W, C] what the generator painted.
        image: [..., H, W, C] of the same dtype and range.
        mask: [..., H, W, 1] of the same dtype, 1 = known, 0 = hole; values in
            between blend. With u8 arrays the mask must be 0 or 1, and the result is
            exact.
    """
    return output * (mask.dtype.type(1) - mask) + image * mask


def from_uint8(x: Array) -> Array:
    """u8 levels 0..255 -> float32 in [-1, 1]; `to_uint8` returns the same levels."""
    return x.astype(np.float32) / 127.5 - 1


def to_uint8(x: Array) -> Array:
    """f[...] in [-1, 1] -> u8, rounded half up: floor(clip(127.5 x + 128, 0, 255)).

    This is also the truncation to u8 of the StyleGAN evaluation protocol.
    """
    numpy = _numpy_of(x)
    # In bfloat16 the levels above 128 would be a whole unit apart before rounding.
    levels = x.astype(np.float32) * 127.5 + 128
    return numpy.floor(numpy.clip(levels, 0, 255)).astype(np.uint8)


def _numpy_of(x):
    return np if isinstance(x, np.ndarray) else jnp


def _centred(mask):
    # numpy widens bfloat16 when the other operand is a python float.
    return mask - mask.dtype.type(0.5)
