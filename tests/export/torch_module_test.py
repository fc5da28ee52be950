"""The torch module against JAX: eager, TorchScript, half weights, unfolding."""

import copy
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import torch

from migan_jax.data import torch_files
from migan_jax.weights import folded
from migan_jax.weights import torch_map
from migan_jax.export import torch_module
from migan_jax.model import fuse
from migan_jax.model.generator import Generator
from migan_jax.model.layers import ConvSpec
from migan_jax.model.ops import up2
import golden
from tiny import with_noise

pytestmark = pytest.mark.filterwarnings('ignore:.*torch.jit.*:DeprecationWarning')


@functools.cache
def deployed(resolution, ch_base, ch_max, noise_at_4x4=True, strength=0.4):
    """Config, JAX function and variables of a random deployed generator."""
    config = ml_collections.ConfigDict({'model': {
        'kind': 'migan', 'resolution': resolution, 'ch_base': ch_base, 'ch_max': ch_max,
        'depthwise': True, 'branches': 0, 'noise_at_4x4': noise_at_4x4}})
    model = Generator(resolution, ch_base, ch_max, ConvSpec(branches=0, fused=True),
                      noise_at_4x4)
    x = jnp.zeros((1, resolution, resolution, 4))
    variables = jax.device_get(jax.jit(model.init, static_argnums=2)(
        {'params': jax.random.key(0)}, x, 'none'))
    # With kernels as after normalisation.
    variables['params'] = jax.device_get(fuse.fuse(variables['params']))
    variables = with_noise(variables, strength)
    apply = jax.jit(lambda variables, x: model.apply(variables, x, 'const')[0])
    return config, functools.partial(apply, variables), variables


def sample(resolution, count=1):
    rng = np.random.default_rng(1)
    mask = (rng.random((count, resolution, resolution, 1)) < 0.6).astype(np.float32)
    image = rng.uniform(-1, 1, (count, resolution, resolution, 3)).astype(np.float32)
    return np.concatenate([mask - 0.5, image * mask], -1)


def run(module, x):
    with torch.inference_mode():
        y = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    assert y.dtype == torch.float32 and y.is_contiguous()
    return y.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize('sizes', [(32, 128, 8), (64, 512, 16)])
def test_equals_jax(tmp_path, sizes):
    config, generate, variables = deployed(*sizes)
    module = torch_module.build_module(config, variables)
    x = sample(sizes[0], 3)
    expected = np.concatenate([generate(one[None]) for one in x])
    assert golden.relative_error(run(module, x), expected) < 1e-5
    torch_module.trace(module).save(tmp_path / 'migan_traced.pt')
    # Traced at batch 1, run at 1 and 3.
    loaded = torch.jit.load(tmp_path / 'migan_traced.pt')
    assert golden.relative_error(run(loaded, x), expected) < 1e-5
    assert golden.relative_error(run(loaded, x[:1]), expected[:1]) < 1e-5


def test_equals_jax_at_published_widths():
    config, generate, variables = deployed(256, 32768, 512, noise_at_4x4=False)
    x = sample(256)
    module = torch_module.build_module(config, variables)
    assert golden.relative_error(run(module, x), generate(x)) < 1e-5


def test_equals_the_published_code():
    arrays = golden.load('generator_inference')
    module = torch_module.Generator(golden.subset(arrays, 'state/'), 32)
    actual = run(module, golden.nhwc(arrays['in/x']))
    assert golden.relative_error(actual, golden.nhwc(arrays['out/image'])) < 1e-5


def test_activations_are_clamped(monkeypatch):
    """Biases so large that the layers saturate."""
    config, generate, variables = deployed(32, 128, 8)
    large = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * np.float32(300) if path[-1].key == 'bias' else leaf,
        variables)
    expected = generate.func(large, sample(32))
    module = torch_module.build_module(config, large)
    assert golden.relative_error(run(module, sample(32)), expected) < 1e-5
    monkeypatch.setattr(torch_module, 'CLAMP', 1e9)
    assert golden.relative_error(run(module, sample(32)), expected) > 1e-2


def test_up2_equals_zero_insertion_and_fir():
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3)).astype(np.float32)
    with torch.inference_mode():
        actual = torch_module.up2(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    actual = actual.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(actual, up2(jnp.asarray(x)), atol=1e-6)


def test_every_number_moves_with_the_module(tmp_path):
    """Nothing is a constant of the graph: the file can be loaded onto any device."""
    config, _, variables = deployed(32, 128, 8)
    module = torch_module.build_module(config, variables)
    assert not list(module.parameters())
    torch_module.trace(module).save(tmp_path / 'migan_traced.pt')
    loaded = torch.jit.load(tmp_path / 'migan_traced.pt')
    constants = [node.output().toIValue() for node in loaded.inlined_graph.nodes()
                 if node.kind() == 'prim::Constant'
                 and node.output().type().kind() == 'TensorType']
    # Numbers alone, such as a factor, go with tensors of every device.
    assert all(constant.dim() == 0 for constant in constants)
    assert sorted(name for name, _ in loaded.named_buffers()) == sorted(
        name for name, _ in module.named_buffers())
    # The meta device computes shapes only, and refuses tensors of other devices.
    y = loaded.to('meta')(torch.zeros(2, 4, 32, 32, device='meta'))
    assert y.shape == (2, 3, 32, 32) and y.device.type == 'meta'


def test_half_weights_compute_in_the_dtype_of_the_input(tmp_path):
    config, generate, variables = deployed(32, 128, 8)
    x, module = sample(32), torch_module.build_module(config, variables)
    halved = copy.deepcopy(module).half()
    torch_module.trace(halved).save(tmp_path / 'migan_traced.pt')
    expected = generate(x)
    for model in (torch.jit.load(tmp_path / 'migan_traced.pt'),
                  torch_module.trace(module).half()):
        assert all(b.dtype == torch.float16 for b in model.buffers())
        error = golden.relative_error(run(model, x), expected)
        assert 1e-6 < error < 3e-3
        with torch.inference_mode():
            y = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).half())
        assert y.dtype == torch.float16
        y = y.float().numpy().transpose(0, 2, 3, 1)
        assert golden.relative_error(y, expected) < 1e-2


def test_unfold_gives_published_names_back(tmp_path):
    config, generate, variables = deployed(32, 128, 8)
    module = torch_module.build_module(config, variables)
    torch_module.trace(module).save(tmp_path / 'migan_traced.pt')
    tensors = torch_files.read_tensors(tmp_path / 'migan_traced.pt')
    assert folded.is_folded(tensors)
    table = torch_map.generator_table(32, branches=0, noise_at_4x4=True, fused=True)
    published = torch_map.to_torch(variables, table)
    assert not folded.is_folded(published)
    state = folded.unfold(tensors)
    back = torch_map.from_torch(state, table, torch_map.torch_shapes(variables, table))
    image = generate.func(back, sample(32))
    assert golden.relative_error(image, generate(sample(32))) < 1e-5
    for name, array in published.items():
        if 'noise' not in name:
            np.testing.assert_allclose(state[name], array, rtol=3e-7)


def test_the_ablation_without_depthwise_is_refused():
    config, _, variables = deployed(32, 128, 8)
    config = config.copy_and_resolve_references()
    config.model.depthwise = False
    with pytest.raises(ValueError, match='depthwise'):
        torch_module.build_module(config, variables)
