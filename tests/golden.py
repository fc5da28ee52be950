"""Reading of the golden arrays (computed by the published PyTorch code)."""

import os

import numpy as np


def load(name):
    """Arrays of tests/goldens/<name>.npz as a dict."""
    with np.load(os.path.join(os.path.dirname(__file__), 'goldens', f'{name}.npz')) as f:
        return {key: f[key] for key in f.files}


def subset(arrays, prefix):
    """{rest of the name: array} for the names that start with `prefix`."""
    return {k[len(prefix):]: v for k, v in arrays.items() if k.startswith(prefix)}


def published_state():
    """The state dict of a published deployed generator, 32 x 32: {name: array}."""
    return subset(load('generator_inference'), 'state/')


def save_state(path, state):
    """Writes {name: array} as PyTorch does; the path."""
    import torch   # most that read goldens do without

    torch.save({k: torch.from_numpy(np.array(v)) for k, v in state.items()}, path)
    return path


def nhwc(array):
    return np.transpose(array, (0, 2, 3, 1))


def relative_error(actual, expected):
    """Norm of the difference over the norm of what is expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    scale = np.linalg.norm(expected)
    return np.linalg.norm(actual - expected) / (scale if scale else 1.0)
