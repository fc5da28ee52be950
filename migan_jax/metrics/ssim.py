"""Structural similarity of images in [0, 1], one figure per image.

Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment: From Error Visibility to
Structural Similarity, 2004, equation 13.
"""

import jax
import jax.numpy as jnp
import numpy as np

from migan_jax import metrics

_TAPS = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2


def ssim(a, b):
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
    a, b = metrics.comparable(a, b)
    mean_a, mean_b, aa, bb, ab = _window_means(jnp.stack([a, b, a * a, b * b, a * b]))
    var_a = aa - mean_a * mean_a
    var_b = bb - mean_b * mean_b
    covariance = ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _window_means(x):
    """f32[N, B, H, W, C] -> the same shape, each plane under the Gaussian window."""
    offset = np.arange(_TAPS) - _TAPS // 2
    taps = np.exp(-(offset**2) / (2 * _SIGMA**2))
    taps = jnp.asarray(taps / taps.sum(), jnp.float32)
    planes = jnp.moveaxis(x, -1, 2)
    shape = planes.shape
    planes = planes.reshape(-1, *shape[3:], 1)
    for kernel in (taps.reshape(-1, 1, 1, 1), taps.reshape(1, -1, 1, 1)):
        # The variances are differences of nearly equal moments: the reduced
        # precision that accelerators default to would drown them.
        planes = jax.lax.conv_general_dilated(
            planes,
            kernel,
            window_strides=(1, 1),
            padding='SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            precision=jax.lax.Precision.HIGHEST,
        )
    return jnp.moveaxis(planes.reshape(shape), 2, -1)
