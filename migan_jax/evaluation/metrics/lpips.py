"""LPIPS with AlexNet, version 0.1: perceptual distance of two images.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
2018, equation 1.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Below, a pool would leave nothing of the picture.
MIN_SIDE = 31

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10

# (name in the trunk's file, features, kernel, stride, padding, pool before it).
_TRUNK = (
    ('features.0', 64, 11, 4, 2, False),
    ('features.3', 192, 5, 1, 2, True),
    ('features.6', 384, 3, 1, 1, True),
    ('features.8', 256, 3, 1, 1, False),
    ('features.10', 256, 3, 1, 1, False),
)


class Lpips(nn.Module):
    """Two batches of images -> one distance per pair."""

    @nn.compact
    def __call__(self, a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array:
        count = a.shape[0]
        shift, scale = (jnp.asarray(x, jnp.float32) for x in (_SHIFT, _SCALE))
        x = (jnp.concatenate([a, b]) - shift) / scale
        distance = jnp.zeros(count, jnp.float32)
        for i, (name, features, kernel, stride, padding, pool) in enumerate(_TRUNK):
            if pool:
                x = nn.max_pool(x, (3, 3), (2, 2))
            x = nn.relu(nn.Conv(
                features, (kernel, kernel), stride, padding,
                precision=jax.lax.Precision.HIGHEST, name=name,
            )(x))
            weight = self.param(f'lin{i}', nn.initializers.ones, (features,))
            norm = jnp.sqrt(jnp.sum(jnp.square(x), -1, keepdims=True))
            unit = x / (norm + _EPSILON)
            difference = jnp.square(unit[:count] - unit[count:])
            distance += jnp.mean(jnp.sum(weight * difference, -1), (1, 2))
        return distance


def lpips(params: Mapping[str, Any], a: jax.typing.ArrayLike,
          b: jax.typing.ArrayLike) -> jax.Array:
    """LPIPS of pairs of images, float32 throughout.

    Args:
        params: from `from_tensors`.
        a, b: f32[B, H, W, 3] in [-1, 1], H and W at least 31.

    Returns:
        f32[B], 0 for identical images.

    Raises:
        ValueError: shapes or types that do not fit, images too small.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
        raise ValueError('images: expected two arrays of one shape [B, H, W, 3], got '
                         f'{list(a.shape)} and {list(b.shape)}')
    if a.dtype != jnp.float32 or b.dtype != jnp.float32:
        raise ValueError(
            f'images: expected float32 in [-1, 1], got {a.dtype} and {b.dtype}')
    if min(a.shape[1:3]) < MIN_SIDE:
        raise ValueError(f'images: LPIPS needs sides of at least {MIN_SIDE} pixels, '
                         f'got {a.shape[1]} x {a.shape[2]}')
    return Lpips().apply({'params': params}, a, b)


def from_tensors(trunk: Mapping[str, np.ndarray], linear: Mapping[str, np.ndarray],
                 where: str = 'the weights') -> dict[str, Any]:
    """Parameters of `Lpips` from the tensors of its two files.

    Args:
        trunk: {name: array} of torchvision's AlexNet; its classifier is not used.
        linear: {name: array}, `lin0.model.1.weight` [1, C, 1, 1] to `lin4...`.
        where: what error messages call the source.

    Returns:
        parameters of `Lpips`, float32.

    Raises:
        ValueError: names or shapes that do not fit, listed.
    """
    problems = []

    def take(tensors, name, shape):
        if name not in tensors:
            problems.append(f'missing {name}')
        elif np.shape(tensors[name]) != shape:
            problems.append(f'{name} has shape {list(np.shape(tensors[name]))}, '
                            f'expected {list(shape)}')
        else:
            return np.asarray(tensors[name], np.float32)
        return np.zeros(shape, np.float32)

    params, channels = {}, 3
    for i, (name, features, kernel, *_) in enumerate(_TRUNK):
        weight = take(trunk, f'{name}.weight', (features, channels, kernel, kernel))
        params[name] = {'kernel': weight.transpose(2, 3, 1, 0),
                        'bias': take(trunk, f'{name}.bias', (features,))}
        line = take(linear, f'lin{i}.model.1.weight', (1, features, 1, 1))
        params[f'lin{i}'] = line.reshape(-1)
        channels = features
    expected = {f'{name}.{part}' for name, *_ in _TRUNK for part in ('weight', 'bias')}
    expected |= {f'lin{i}.model.1.weight' for i in range(len(_TRUNK))}
    for tensors in (trunk, linear):
        problems += [f'unexpected {name}' for name in sorted(tensors)
                     if name not in expected and not name.startswith('classifier.')]
    if problems:
        raise ValueError(f'{where}: not the weights of LPIPS with AlexNet:\n  '
                         + '\n  '.join(problems))
    return params
