"""Structural similarity of images in [0, 1], one figure per image.

Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment: From Error Visibility to
Structural Similarity, 2004, equation 13.
"""

import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.evaluation import metrics

_TAPS = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2


def ssim(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array:
    """SSIM with an 11 x 11 Gaussian window, sigma 1.5.

    Computed per channel; the window sees zeros beyond the border (padding 5), and
    the mean goes over the whole map, border included. Moments are not
    bias-corrected.

    Args:
        a: f[B, H, W, C] in [0, 1].
        b: f[B, H, W, C] in [0, 1].

    Returns:
        f32[B] in [-1, 1], 1 for identical images.

    Raises:
        ValueError: shapes that differ or arrays that are not floating point.
    """
    return jnp.mean(ssim_map(a, b), axis=(1, 2, 3))


def ssim_map(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array:
    """What `ssim` is the mean of; arguments and errors are its.

    Returns:
        f32[B, H, W, C] in [-1, 1], the similarity round each pixel.
    """
    a, b = metrics.comparable(a, b)
    mean_a, mean_b, aa, bb, ab = _window_means(jnp.stack([a, b, a * a, b * b, a * b]))
    var_a = aa - mean_a * mean_a
    var_b = bb - mean_b * mean_b
    covariance = ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return luminance * structure


def _window_means(x):
    """f32[N, B, H, W, C] -> the same shape, each plane under the Gaussian window.

    Shifted sums rather than a convolution: XLA's one of a single channel takes six
    times as long on CPU, and on accelerators it would need full precision asked for,
    because the variances are differences of nearly equal moments.
    """
    offset = np.arange(_TAPS) - _TAPS // 2
    taps = np.exp(-(offset**2) / (2 * _SIGMA**2))
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (2, 3):
        size = x.shape[axis]
        padding = [(0, 0)] * x.ndim
        padding[axis] = (_TAPS // 2, _TAPS // 2)
        padded = jnp.pad(x, padding)
        x = sum(
            tap * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, tap in enumerate(taps)
        )
    return x
