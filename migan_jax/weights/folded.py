"""The names that our own TorchScript files have, and the published ones in their place.

`export.torch_module` folds the activations' gains into the weights before them.
"""

from collections.abc import Mapping
import re

import numpy as np

from migan_jax.model.ops import SQRT2

# Buffers of a block and the endings of their published names.
BLOCK_TENSORS = {
    'depthwise': 'conv1.weight', 'bias': 'conv1.bias', 'pointwise': 'conv2.weight'}


def is_folded(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether {name: array} comes from our module rather than a published one."""
    return any(name.endswith('.depthwise') for name in tensors)


def unfold(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our module's tensors under the published names, without the folded factors.

    Weights come back within rounding (1e-7); strength and plane of the noise only as
    their product, as strength 1.

    Args:
      tensors: {name: array} of the file; names it has not got are kept.

    Returns:
      {published name: array}.
    """
    state = {}
    for name, array in tensors.items():
        prefix, _, last = name.rpartition('.')
        if last == 'fir':
            channels = len(tensors[f'{prefix}.depthwise'])
            state[f'{prefix}.downsample.filter.weight'] = np.tile(
                array, (channels, 1, 1, 1))
        elif last == 'noise':
            state[f'{prefix}.noise_const'] = _divide(array)[0, 0]
            state[f'{prefix}.noise_strength'] = np.ones((), np.float32)
        elif re.search(r'\.conv[12]$', prefix) and last in BLOCK_TENSORS:
            state[f'{prefix}.{BLOCK_TENSORS[last]}'] = _divide(array)
        elif last in ('kernel', 'bias'):
            ending = 'weight' if last == 'kernel' else last
            activated = prefix.endswith('.fromrgb')
            state[f'{prefix}.{ending}'] = _divide(array) if activated else array
        else:
            state[name] = array
    return state


def _divide(array):
    return (np.asarray(array, np.float64) / SQRT2).astype(np.float32)
