"""Inception-v3 in its FID variant, 2048 features, and the two front ends.

Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, as in
the TensorFlow graph of 2015-12-05 that FID was defined with: batch norm without scale
at test time, average pools that do not count the padding, a max pool in the last block.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

FEATURES = 2048
SIDE = 299
_BN_EPSILON = 1e-3


class Protocol(NamedTuple):
    """How an evaluation feeds images to Inception and takes covariances.

    Attributes:
        name: 'paper' or 'stylegan'.
        quantized: fakes are rounded to 8 bits first, by truncation.
        ddof: covariances divide by N - ddof.
    """

    name: str
    quantized: bool
    ddof: int


# The paper's figures: the PyTorch port of FID on unrounded floats.
PAPER = Protocol('paper', quantized=False, ddof=1)
# What StyleGAN and Co-Mod-GAN report: the TensorFlow graph on 8-bit levels.
STYLEGAN = Protocol('stylegan', quantized=True, ddof=0)
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, STYLEGAN)}


class Layer(NamedTuple):
    """A convolution with batch norm and ReLU, and what the weight files call it.

    Attributes:
        name: in `pt_inception-2015-12-05-6726825d.pth`, and of the Flax module.
        other_name: in the TensorFlow graph and `inception-2015-12-05.pt`.
        features: output channels.
        kernel: (height, width).
        stride: 1 with zero padding to the same size; 2 without padding.
        padded: False for the two unpadded ones of stride 1.
    """

    name: str
    other_name: str
    features: int
    kernel: tuple
    stride: int = 1
    padded: bool = True


class Branch(NamedTuple):
    """Layers in turn, after an optional pool; the `fork` layers share their input."""

    layers: tuple
    pool: str = ''
    fork: tuple = ()


def _layers(block, other_block, branch, other_branch, *shapes):
    """Layers BLOCK.BRANCH_1, _2, ... with (features, (height, width)[, stride])."""
    names = [f'{branch}_{i + 1}' for i in range(len(shapes))]
    others = ['conv'] + [f'conv_{i}' for i in range(1, len(shapes))]
    if len(shapes) == 1:
        names = [branch]
    prefix = f'{other_branch}.' if other_branch else ''
    return tuple(
        Layer(f'{block}.{name}', f'{other_block}.{prefix}{other}', *shape)
        for name, other, shape in zip(names, others, shapes)
    )


def _block_a(block, other, pooled):
    return (
        Branch(_layers(block, other, 'branch1x1', '', (64, (1, 1)))),
        Branch(_layers(block, other, 'branch5x5', 'tower', (48, (1, 1)), (64, (5, 5)))),
        Branch(_layers(block, other, 'branch3x3dbl', 'tower_1',
                       (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))),
        Branch(_layers(block, other, 'branch_pool', 'tower_2', (pooled, (1, 1))),
               'avg'),
    )


def _block_b(block, other):
    return (
        Branch(_layers(block, other, 'branch3x3', '', (384, (3, 3), 2))),
        Branch(_layers(block, other, 'branch3x3dbl', 'tower',
                       (64, (1, 1)), (96, (3, 3)), (96, (3, 3), 2))),
        Branch((), 'halve'),
    )


def _block_c(block, other, c7):
    return (
        Branch(_layers(block, other, 'branch1x1', '', (192, (1, 1)))),
        Branch(_layers(block, other, 'branch7x7', 'tower',
                       (c7, (1, 1)), (c7, (1, 7)), (192, (7, 1)))),
        Branch(_layers(block, other, 'branch7x7dbl', 'tower_1', (c7, (1, 1)),
                       (c7, (7, 1)), (c7, (1, 7)), (c7, (7, 1)), (192, (1, 7)))),
        Branch(_layers(block, other, 'branch_pool', 'tower_2', (192, (1, 1))), 'avg'),
    )


def _block_d(block, other):
    return (
        Branch(_layers(block, other, 'branch3x3', 'tower',
                       (192, (1, 1)), (320, (3, 3), 2))),
        Branch(_layers(block, other, 'branch7x7x3', 'tower_1', (192, (1, 1)),
                       (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2))),
        Branch((), 'halve'),
    )


def _block_e(block, other, pool):
    def fork(branch, number, tower):
        return tuple(
            Layer(f'{block}.{branch}_{number}{letter}', f'{other}.{tower}.mixed.{conv}',
                  384, kernel)
            for letter, conv, kernel in (
                ('a', 'conv', (1, 3)), ('b', 'conv_1', (3, 1))))

    double = _layers(
        block, other, 'branch3x3dbl', 'tower_1', (448, (1, 1)), (384, (3, 3)))
    return (
        Branch(_layers(block, other, 'branch1x1', '', (320, (1, 1)))),
        Branch((Layer(f'{block}.branch3x3_1', f'{other}.tower.conv', 384, (1, 1)),),
               fork=fork('branch3x3', 2, 'tower')),
        Branch(double, fork=fork('branch3x3dbl', 3, 'tower_1')),
        Branch(_layers(block, other, 'branch_pool', 'tower_2', (192, (1, 1))), pool),
    )


# The network in order: each block is branches whose outputs are concatenated.
BLOCKS = (
    (Branch((Layer('Conv2d_1a_3x3', 'conv', 32, (3, 3), 2),
             Layer('Conv2d_2a_3x3', 'conv_1', 32, (3, 3), padded=False),
             Layer('Conv2d_2b_3x3', 'conv_2', 64, (3, 3)))),),
    (Branch((Layer('Conv2d_3b_1x1', 'conv_3', 80, (1, 1)),
             Layer('Conv2d_4a_3x3', 'conv_4', 192, (3, 3), padded=False)), 'halve'),),
    (Branch((), 'halve'),),
    _block_a('Mixed_5b', 'mixed', 32),
    _block_a('Mixed_5c', 'mixed_1', 64),
    _block_a('Mixed_5d', 'mixed_2', 64),
    _block_b('Mixed_6a', 'mixed_3'),
    _block_c('Mixed_6b', 'mixed_4', 128),
    _block_c('Mixed_6c', 'mixed_5', 160),
    _block_c('Mixed_6d', 'mixed_6', 160),
    _block_c('Mixed_6e', 'mixed_7', 192),
    _block_d('Mixed_7a', 'mixed_8'),
    _block_e('Mixed_7b', 'mixed_9', 'avg'),
    _block_e('Mixed_7c', 'mixed_10', 'max'),
)
LAYERS = tuple(
    layer for block in BLOCKS for branch in block
    for layer in branch.layers + branch.fork
)


def _pool(x, kind):
    if kind == 'halve':
        return nn.max_pool(x, (3, 3), (2, 2))
    if kind == 'max':
        return nn.max_pool(x, (3, 3), (1, 1), 'SAME')
    return nn.avg_pool(x, (3, 3), (1, 1), 'SAME', count_include_pad=False)


class Inception(nn.Module):
    """f32[B, 299, 299, 3], about [-1, 1] -> f32[B, 2048]; batch norm is folded in."""

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        def convolve(x, layer):
            padded = layer.padded and layer.stride == 1
            x = nn.Conv(
                layer.features, layer.kernel, layer.stride,
                'SAME' if padded else 'VALID', precision=jax.lax.Precision.HIGHEST,
                name=layer.name,
            )(x)
            return nn.relu(x)

        for block in BLOCKS:
            outputs = []
            for branch in block:
                y = _pool(x, branch.pool) if branch.pool else x
                for layer in branch.layers:
                    y = convolve(y, layer)
                outputs += [convolve(y, layer) for layer in branch.fork] or [y]
            x = jnp.concatenate(outputs, -1) if len(outputs) > 1 else outputs[0]
        return jnp.mean(x, (1, 2))


def front_end(images: jax.typing.ArrayLike, protocol: Protocol) -> jax.Array:
    """Images -> what the network sees.

    'paper': half-pixel bilinear without antialiasing to 299, then 2 x - 1.
    'stylegan': sampled at src = dst * side / 299, bilinear, clamped at the border,
    then (x - 128) / 128.

    Args:
        images: f32[B, H, W, 3] in [0, 1] ('paper') or u8[B, H, W, 3] ('stylegan').
        protocol: `PAPER` or `STYLEGAN`.

    Returns:
        f32[B, 299, 299, 3].

    Raises:
        ValueError: images of another type or shape.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f'images: expected [B, H, W, 3], got {list(images.shape)}')
    dtype = jnp.uint8 if protocol.quantized else jnp.float32
    if images.dtype != dtype:
        raise ValueError(
            f'images: protocol {protocol.name!r} takes '
            + ('u8 levels' if protocol.quantized else 'float32 in [0, 1]')
            + f', got {images.dtype}'
        )
    batch, height, width, _ = images.shape
    if not protocol.quantized:
        resized = jax.image.resize(
            images, (batch, SIDE, SIDE, 3), 'bilinear', antialias=False,
            precision=jax.lax.Precision.HIGHEST)
        return 2 * resized - 1
    resized = jnp.einsum(
        'yh,bhwc,xw->byxc', _corner_samples(height), images.astype(jnp.float32),
        _corner_samples(width), precision=jax.lax.Precision.HIGHEST)
    return (resized - 128) / 128


def _corner_samples(side):
    """f32[299, side]: the weights of a bilinear sample at i * side / 299."""
    position = np.minimum(np.arange(SIDE) * (side / SIDE), side - 1)
    low = np.floor(position).astype(np.int64)
    weights = np.zeros((SIDE, side))
    rows = np.arange(SIDE)
    weights[rows, low] = 1 - (position - low)
    weights[rows, np.minimum(low + 1, side - 1)] += position - low
    return weights.astype(np.float32)


def features(params: Mapping[str, Any], images: jax.typing.ArrayLike,
             protocol: Protocol) -> jax.Array:
    """Inception features of images, float32 throughout.

    Args:
        params: from `from_tensors`.
        images, protocol: as in `front_end`.

    Returns:
        f32[B, 2048].

    Raises:
        ValueError: as in `front_end`.
    """
    return Inception().apply({'params': params}, front_end(images, protocol))


# --- weight files -------------------------------------------------------------

# What the files call the vectors of a batch norm, after the layer's own name.
_ROLES = {
    'weight': 'weight', 'conv.weight': 'weight',
    'bn.weight': 'scale', 'gamma': 'scale', 'bn.gamma': 'scale',
    'bn.bias': 'shift', 'bias': 'shift', 'beta': 'shift', 'bn.beta': 'shift',
    'bn.running_mean': 'mean', 'running_mean': 'mean', 'mean': 'mean',
    'bn.mean': 'mean',
    'bn.running_var': 'variance', 'running_var': 'variance', 'var': 'variance',
    'bn.var': 'variance',
}
# The classifier, and counters: not part of the features.
_UNUSED = ('fc.', 'output.')


def from_tensors(tensors: Mapping[str, np.ndarray],
                 where: str = 'the weights') -> dict[str, dict[str, np.ndarray]]:
    """Parameters of `Inception` from the tensors of either weight file.

    The names of `inception-2015-12-05.pt` are those of the TensorFlow graph below
    `layers.`. Which of its layers is which: the graph lists the branches of a block as
    `conv`, `tower`, `tower_1`, `tower_2` in the order in which they are concatenated,
    and the layers of a branch as `conv`, `conv_1`, ... in the order in which they are
    applied, so both sides are walked in order; every shape is checked besides, and
    kernels such as 1x7 and 7x1 tell the orders apart. A nested module and one whose
    name has underscores instead of dots are taken for the same.

    Batch norm is folded into kernel and bias in float64.

    Args:
        tensors: {name: array}; kernels are OIHW.
        where: what error messages call the source.

    Returns:
        {layer: {'kernel': f32 HWIO, 'bias': f32}}.

    Raises:
        ValueError: names or shapes that do not fit, listed.
    """
    grouped, unexpected = _group(tensors)
    problems = [f'unexpected {name}' for name in sorted(unexpected)]
    params = {}
    channels = _input_channels()
    for layer in LAYERS:
        parts = grouped.get(layer.name, {})
        vector = (layer.features,)
        shapes = {'weight': (layer.features, channels[layer.name], *layer.kernel),
                  'shift': vector, 'mean': vector, 'variance': vector}
        if 'scale' in parts:
            shapes['scale'] = vector
        wrong = []
        for role, shape in shapes.items():
            got = parts[role].shape if role in parts else None
            if got is None:
                wrong.append(f'missing {role} of {layer.name} ({layer.other_name})')
            elif got != shape:
                wrong.append(f'{role} of {layer.name} ({layer.other_name}) has shape '
                             f'{list(got)}, expected {list(shape)}')
        problems += wrong
        if wrong:
            continue
        parts = {role: np.asarray(x, np.float64) for role, x in parts.items()}
        scale = parts.get('scale', 1.0) / np.sqrt(parts['variance'] + _BN_EPSILON)
        kernel = parts['weight'].transpose(2, 3, 1, 0) * scale
        params[layer.name] = {
            'kernel': kernel.astype(np.float32),
            'bias': (parts['shift'] - parts['mean'] * scale).astype(np.float32),
        }
    if problems:
        more = f'\n  and {len(problems) - 20} more' if len(problems) > 20 else ''
        raise ValueError(
            f'{where}: not the weights of the FID Inception ({len(tensors)} tensors):'
            '\n  ' + '\n  '.join(problems[:20]) + more)
    return params


def _group(tensors):
    """({layer name: {role: array}}, names that belong to no layer)."""
    flat = lambda name: name.replace('.', '_')
    layers = {}
    for layer in LAYERS:
        for name in (layer.name, f'layers.{layer.other_name}'):
            layers[flat(name)] = layer.name
    roles = {flat(suffix): role for suffix, role in _ROLES.items()}
    grouped, unexpected = {}, []
    for name, array in tensors.items():
        if name.startswith(_UNUSED) or name.endswith('num_batches_tracked'):
            continue
        words = flat(name).split('_')
        # The longest layer name first: `conv_1` before `conv`.
        for cut in range(len(words) - 1, 0, -1):
            layer = layers.get('_'.join(words[:cut]))
            role = roles.get('_'.join(words[cut:]))
            if layer and role:
                if role == 'weight' and np.ndim(array) == 1:
                    role = 'scale'
                if role in grouped.setdefault(layer, {}):
                    unexpected.append(name)
                grouped[layer][role] = np.asarray(array)
                break
        else:
            unexpected.append(name)
    return grouped, unexpected


def _input_channels():
    """{layer name: input channels}, walking the network once."""
    channels, result = 3, {}
    for block in BLOCKS:
        total = 0
        for branch in block:
            current = channels
            for layer in branch.layers:
                result[layer.name] = current
                current = layer.features
            for layer in branch.fork:
                result[layer.name] = current
            total += sum(layer.features for layer in branch.fork) or current
        channels = total
    return result
