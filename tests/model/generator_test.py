"""Generator against the published code's outputs, its fused form, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from migan_jax.weights import torch_map
from migan_jax.model import fuse
from migan_jax.model.generator import Generator
from migan_jax.model.layers import ConvSpec
from migan_jax.model.ops import FIR_TAPS
from processes import OPTIMISED
import published_forms

VARIANTS = {
    'generator_dw_reparam9': dict(ch_base=512, ch_max=32, branches=9, depthwise=True),
    'generator_dw': dict(ch_base=512, ch_max=32, branches=0, depthwise=True),
    'generator_dense_reparam4': dict(ch_base=256, ch_max=16, branches=4, depthwise=False),
}


def _load(name):
    """Golden arrays, and the variables they hold, of a 32x32 generator."""
    arrays = golden.load(name)
    setting = VARIANTS[name]
    table = torch_map.generator_table(
        32, branches=setting['branches'], depthwise=setting['depthwise'])
    return arrays, torch_map.from_torch(golden.subset(arrays, 'state/'), table), setting


def _generator(setting, **spec):
    spec = ConvSpec(branches=setting['branches'], depthwise=setting['depthwise'], **spec)
    return Generator(32, setting['ch_base'], setting['ch_max'], spec, noise_at_4x4=False)


@pytest.mark.parametrize('name', VARIANTS)
def test_outputs_equal_the_published_code(name):
    arrays, variables, setting = _load(name)
    x = jnp.asarray(golden.nhwc(arrays['in/x']))
    forms = {
        'materialized': (_generator(setting, materialize_branches=True), variables['params']),
        'collapsed': (
            _generator(setting), published_forms.collapse_branches(variables['params'])),
        'fused': (_generator(setting, fused=True), fuse.fuse(variables['params'])),
    }
    for form, (model, params) in forms.items():
        for mode in ('none', 'const'):
            image, rgbs = jax.jit(model.apply, static_argnums=2)(
                {'params': params, 'noise': variables['noise']}, x, mode)
            expected = golden.subset(arrays, f'out/{mode}/')
            assert golden.relative_error(image, golden.nhwc(expected['image'])) < 1e-4, form
            assert sorted(rgbs) == [4, 8, 16, 32]
            for r, rgb in rgbs.items():
                error = golden.relative_error(rgb, golden.nhwc(expected[f'rgb{r}']))
                assert error < 1e-4, (form, mode, r, error)


def test_fused_layout_equals_the_published_deployed_one():
    arrays, variables, setting = _load('generator_dw_reparam9')
    deployed = golden.load('generator_inference')
    table = torch_map.generator_table(32, branches=0, fused=True)
    params = fuse.fuse(variables['params'])
    ours = torch_map.to_torch({'params': params, 'noise': variables['noise']}, table)
    ours |= torch_map.deployed_constants(
        32, lambda r: min(512 // r, 32), FIR_TAPS)
    theirs = golden.subset(deployed, 'state/')
    assert sorted(ours) == sorted(theirs)
    for name, array in theirs.items():
        assert golden.relative_error(ours[name], array) < 1e-5, name
    # And their file, read by our table, computes their output.
    image, _ = jax.jit(_generator(setting, fused=True).apply, static_argnums=2)(
        torch_map.from_torch(theirs, table), jnp.asarray(golden.nhwc(deployed['in/x'])),
        'const')
    assert golden.relative_error(image, golden.nhwc(deployed['out/image'])) < 1e-4


def test_round_trip_through_the_table_is_exact():
    for name in VARIANTS:
        arrays, variables, setting = _load(name)
        table = torch_map.generator_table(
            32, branches=setting['branches'], depthwise=setting['depthwise'])
        for key, array in torch_map.to_torch(variables, table).items():
            np.testing.assert_array_equal(array, arrays[f'state/{key}'])


def test_table_lists_missing_and_unexpected_names():
    arrays, _, _ = _load('generator_dw')
    state = golden.subset(arrays, 'state/')
    state['surplus.weight'] = state.pop('encoder.b32.fromrgb.weight')
    table = torch_map.generator_table(32, branches=0)
    with pytest.raises(ValueError, match=r'encoder\.b32\.fromrgb\.weight.*surplus'):
        torch_map.from_torch(state, table)


def test_random_noise_differs_per_layer_and_sample_and_needs_strength():
    model = Generator(16, 64, 8)
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    x = x.at[1].set(x[0])
    variables = jax.jit(model.init)(
        {'params': jax.random.key(1), 'noise': jax.random.key(2)}, x)
    # Optimised, so that both modes' programs round alike.
    apply = jax.jit(
        lambda v, mode: model.apply(v, x, mode, rngs={'noise': jax.random.key(3)})[0],
        static_argnums=1, compiler_options=OPTIMISED)
    # Strength is 0 at the start: all modes agree.
    np.testing.assert_array_equal(apply(variables, 'random'), apply(variables, 'none'))
    strong = jax.tree.map(lambda a: a if a.ndim else jnp.ones_like(a), variables)
    image = apply(strong, 'random')
    assert jnp.abs(image[0] - image[1]).max() > 1e-3
    assert 'noise' in variables['params']['decoder']['b4']['conv1']
    planes = jax.tree.leaves(variables['noise']['decoder']['b8'])
    assert jnp.abs(planes[0] - planes[1]).max() > 1e-3


def test_bfloat16_activations_keep_the_painting_branch_in_float32():
    model = Generator(16, 64, 8, ConvSpec(dtype=jnp.bfloat16))
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    variables = jax.jit(model.init)(
        {'params': jax.random.key(1), 'noise': jax.random.key(2)}, x)
    image, rgbs = jax.jit(model.apply, static_argnums=2)(variables, x, 'const')
    assert image.dtype == jnp.float32 and {a.dtype for a in rgbs.values()} == {image.dtype}
    reference, _ = jax.jit(Generator(16, 64, 8).apply, static_argnums=2)(
        variables, x, 'const')
    assert golden.relative_error(image, reference) < 0.05


@pytest.mark.parametrize('resolution', [0, 8, 24, 255, 257])
def test_resolution_must_be_a_power_of_two_from_16(resolution):
    with pytest.raises(ValueError, match='power of two'):
        jax.eval_shape(Generator(resolution).init, jax.random.key(0),
                       jnp.zeros((1, resolution, resolution, 4)))


def test_input_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r'expected \[B, 16, 16, 4\]'):
        jax.eval_shape(Generator(16).init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)))


def test_unknown_noise_mode_is_refused():
    with pytest.raises(ValueError, match='noise mode'):
        jax.eval_shape(lambda key, x: Generator(16, 64, 8).init(key, x, 'noisy'),
                       jax.random.key(0), jnp.zeros((1, 16, 16, 4)))
