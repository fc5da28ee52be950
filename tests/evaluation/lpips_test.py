"""LPIPS with AlexNet against plain PyTorch layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from migan_jax.evaluation.metrics import lpips

_CONVS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3),
          10: (256, 256, 3)}


def random_tensors():
    """Weights under the names of the two files; linear weights as trained, >= 0."""
    rng = np.random.default_rng(0)
    trunk, linear = {'classifier.6.bias': np.zeros(1000, np.float32)}, {}
    for i, (layer, (outputs, inputs, side)) in enumerate(_CONVS.items()):
        gain = np.sqrt(2 / (inputs * side * side))
        trunk[f'features.{layer}.weight'] = (gain * rng.standard_normal(
            (outputs, inputs, side, side))).astype(np.float32)
        bias = rng.uniform(-0.1, 0.2, outputs)
        trunk[f'features.{layer}.bias'] = bias.astype(np.float32)
        linear[f'lin{i}.model.1.weight'] = rng.uniform(
            0, 1, (1, outputs, 1, 1)).astype(np.float32)
    return trunk, linear


def torch_lpips(trunk, linear, a, b):
    """The definition, from NHWC arrays in [-1, 1]."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

    def taps(x):
        x = (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) - shift) / scale
        conv = lambda x, i, stride, padding: F.relu(F.conv2d(
            x, torch.from_numpy(trunk[f'features.{i}.weight']),
            torch.from_numpy(trunk[f'features.{i}.bias']), stride, padding))
        yield (x := conv(x, 0, 4, 2))
        yield (x := conv(F.max_pool2d(x, 3, 2), 3, 1, 2))
        yield (x := conv(F.max_pool2d(x, 3, 2), 6, 1, 1))
        yield (x := conv(x, 8, 1, 1))
        yield conv(x, 10, 1, 1)

    total = 0
    for i, (u, v) in enumerate(zip(taps(a), taps(b))):
        u, v = (t / (t.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for t in (u, v))
        line = torch.from_numpy(linear[f'lin{i}.model.1.weight'])
        weighted = F.conv2d((u - v) ** 2, line)
        total = total + weighted.mean((1, 2, 3))
    return total.numpy()


@pytest.fixture(scope='module')
def tensors():
    return random_tensors()


@pytest.mark.parametrize(
    'shape', [(2, 64, 64), (1, 256, 256), (1, 512, 512), (1, 31, 75)])
def test_against_torch(tensors, shape):
    rng = np.random.default_rng(shape[1])
    a = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    b = np.clip(a + 0.3 * rng.standard_normal(a.shape), -1, 1).astype(np.float32)
    got = jax.jit(lpips.lpips)(lpips.from_tensors(*tensors), a, b)
    want = torch_lpips(*tensors, a, b)
    assert got.shape == shape[:1] and got.dtype == jnp.float32 and (want > 0.01).all()
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_identical_images_are_at_distance_zero(tensors):
    a = np.random.default_rng(0).uniform(-1, 1, (2, 40, 40, 3)).astype(np.float32)
    params = lpips.from_tensors(*tensors)
    measure = jax.jit(lpips.lpips)
    np.testing.assert_allclose(measure(params, a, a), 0, atol=1e-12)
    # A flat black patch has features of norm 0 where biases cut them: no nan there.
    dead = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(measure(dead, a, -a), 0)


def test_files_that_do_not_fit(tensors):
    trunk, linear = (dict(t) for t in tensors)
    trunk['features.3.weight'] = np.zeros((192, 64, 3, 3), np.float32)
    del linear['lin2.model.1.weight']
    linear['lin9.model.1.weight'] = np.zeros(1)
    with pytest.raises(ValueError) as error:
        lpips.from_tensors(trunk, linear, 'a.pth and b.pth')
    for text in ('a.pth and b.pth', 'missing lin2.model.1.weight',
                 'unexpected lin9.model.1.weight',
                 'weight has shape [192, 64, 3, 3], expected [192, 64, 5, 5]'):
        assert text in str(error.value)


def test_bad_images(tensors):
    params = lpips.from_tensors(*tensors)
    a = jnp.zeros((1, 40, 40, 3))
    with pytest.raises(ValueError, match=r'\[1, 40, 40, 3\] and \[1, 40, 20, 3\]'):
        lpips.lpips(params, a, a[:, :, :20])
    with pytest.raises(ValueError, match='at least 31 pixels, got 40 x 20'):
        lpips.lpips(params, a[:, :, :20], a[:, :, :20])
    with pytest.raises(ValueError, match='got uint8 and float32'):
        lpips.lpips(params, a.astype(jnp.uint8), a)
