"""The ONNX core graph against the JAX generator."""

import jax
import numpy as np
import onnxruntime
import pytest

from configs import default
from migan_jax.export import clamps
from migan_jax.export import comparison
from migan_jax.export import onnx_core
from migan_jax.model import build
from migan_jax.model.generator import Decoder
from migan_jax.model.generator import Encoder


def small_config(resolution=32, **model):
    config = default.get_config()
    config.model.update({'resolution': resolution, 'ch_base': resolution * 8,
                         'ch_max': 24, **model})
    return config


def random_variables(config, *, seed=0, strength=0.3, bias=0.1):
    """Deployed variables: kernels as normalisation leaves them."""
    rng = np.random.default_rng(seed)
    r = config.model.resolution
    generator = build.build_generator(config, fused=True)
    shapes = jax.eval_shape(
        lambda: generator.init(jax.random.key(0), np.zeros((1, r, r, 4), np.float32),
                               'none'))

    def draw(path, leaf):
        if path[-1].key == 'strength':
            return np.float32(strength * rng.uniform(0.5, 1))
        array = rng.standard_normal(leaf.shape)
        if path[-1].key == 'kernel':
            array /= np.sqrt(np.square(array).sum((0, 1, 2), keepdims=True))
        if path[-1].key == 'bias':
            array *= bias
        return array.astype(np.float32)

    return generator, jax.tree_util.tree_map_with_path(draw, shapes)


def random_input(resolution, batch=2, seed=1):
    """f32[N, R, R, 4], [mask - 0.5, image * mask]; half of it hole."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (batch, resolution, resolution, 1)).astype(np.float32)
    image = rng.uniform(-1, 1, (batch, resolution, resolution, 3)).astype(np.float32)
    return np.concatenate([mask - np.float32(0.5), image * mask], -1)


def session(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider'])


def run(model, x):
    """NHWC in, NHWC out."""
    y, = session(model).run(None, {'input': x.transpose(0, 3, 1, 2)})
    return y.transpose(0, 2, 3, 1)


def expected(generator, variables, x):
    return np.asarray(jax.jit(
        lambda x: generator.apply(variables, x, 'const')[0])(x))


def relative_error(actual, wanted):
    assert actual.shape == wanted.shape
    return np.abs(actual - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize('model', [
    {'noise_at_4x4': True}, {'noise_at_4x4': False}, {'ch_base': 4096, 'ch_max': 64},
    {'resolution': 16}, {'resolution': 64},
    {'depthwise': False}, {'depthwise': False, 'noise_at_4x4': False}])
@pytest.mark.parametrize('strength', [0.3, 0.0])
def test_equals_jax(model, strength):
    config = small_config(**{'resolution': 32, **model})
    generator, variables = random_variables(config, strength=strength)
    x = random_input(config.model.resolution)
    wanted = expected(generator, variables, x)
    core = onnx_core.build_core(config, variables)
    assert relative_error(run(core, x), wanted) < 1e-4
    assert ('Expand' in operators(core)) == (strength > 0)


def operators(model):
    return {node.op_type for node in model.graph.node}


def clips(model):
    return sum(node.op_type == 'Clip' for node in model.graph.node)


def test_noise_broadcast_for_openvino():
    generator, variables = random_variables(small_config())
    x = random_input(32)
    largest = clamps.measure(small_config(), variables)
    models = [onnx_core.build_core(small_config(), variables, largest=largest,
                                   broadcast_noise=broadcast)
              for broadcast in (False, True)]
    assert relative_error(run(models[1], x), expected(generator, variables, x)) < 3e-6
    kinds = [{node.op_type for node in model.graph.node} for model in models]
    assert kinds[0] - kinds[1] == {'Shape', 'Concat', 'Expand'}
    with pytest.raises(ValueError, match='leave out dynamic_size'):
        onnx_core.build_core(
            small_config(), variables, dynamic_size=True, broadcast_noise=True)


def test_clamps_bind():
    """Activations far beyond the clamp, in encoder and decoder."""
    config = small_config()
    generator, variables = random_variables(config, bias=200.0, strength=200.0)
    x = random_input(32)
    wanted = expected(generator, variables, x)
    measured = clamps.measure(config, variables)
    for largest in (None, measured):
        core = onnx_core.build_core(config, variables, largest=largest)
        assert relative_error(run(core, x), wanted) < 1e-4
    without = onnx_core.build_core(config, variables, largest=dict.fromkeys(measured, 0.0))
    assert clips(without) == 0
    assert relative_error(run(without, x), wanted) > 0.1


def test_clamps_far_from_every_activation_are_left_out():
    config = small_config()
    generator, variables = random_variables(config)
    x = random_input(32)
    measured = clamps.measure(config, variables)
    without = onnx_core.build_core(config, variables, largest=measured)
    assert clips(without) == 0
    assert relative_error(run(without, x), expected(generator, variables, x)) < 1e-4


@pytest.mark.parametrize('value, kept', [(63.9, 0), (64.1, 1), (np.inf, 1), (np.nan, 1)])
def test_a_clamp_is_kept_from_a_quarter_of_it_on(value, kept):
    config = small_config()
    _, variables = random_variables(config)
    largest = dict.fromkeys(clamps.measure(config, variables), 0.0)
    assert 'decoder.b32.conv2' in largest     # its bounds do not exclude the clamp
    largest['decoder.b32.conv2'] = value
    assert clips(onnx_core.build_core(config, variables, largest=largest)) == kept


def test_clamps_are_measured_in_the_network():
    """One depthwise activation of JAX is the measured one."""
    config = small_config()
    generator, variables = random_variables(config, bias=1.0)
    white = comparison.Picture(np.full((32, 32, 3), 255, np.uint8),
                               np.ones((32, 32), bool))
    x = comparison.model_inputs(
        [*comparison.random_pictures(32), *comparison.extreme_pictures(32)], 32)
    _, values = jax.jit(lambda x: generator.apply(
        variables, x, 'const', capture_intermediates=lambda module, _:
            module.name == 'fromrgb'))(x)
    value, = jax.tree.leaves(values['intermediates'])
    assert clamps.measure(config, variables)['encoder.b32.fromrgb'] == pytest.approx(
        np.abs(value).max(), rel=1e-5)
    # White is among the extreme pictures; it changes nothing to try it again.
    assert clamps.measure(config, variables, [white]) == clamps.measure(
        config, variables)


def test_pictures_count():
    """One can go beyond all that is tried without it."""
    config = small_config()
    _, variables = random_variables(config)
    rng = np.random.default_rng(0)
    picture = comparison.Picture(rng.choice(np.uint8([0, 255]), (32, 32, 3)),
                                 rng.choice([False, True], (32, 32)))
    without, measured = (clamps.measure(config, variables, pictures)
                         for pictures in ([], [picture]))
    assert all(measured[name] >= without[name] for name in without)
    assert measured != without


def test_clamps_are_left_out_only_where_inputs_cannot_reach_them():
    config = small_config()
    generator, variables = random_variables(config)
    core = onnx_core.build_core(config, variables)
    assert 0 < clips(core) < sum(node.op_type == 'LeakyRelu' for node in core.graph.node)
    # The corners of the input's range, in all signs.
    signs = np.random.default_rng(3).choice([-1, 1], (8, 32, 32, 4))
    x = (signs * np.array([0.5, 1, 1, 1])).astype(np.float32)
    assert relative_error(run(core, x), expected(generator, variables, x)) < 1e-4


def test_interface():
    config = small_config()
    core = onnx_core.build_core(
        config, random_variables(config)[1], metadata={'resolution': '32'})
    shape = lambda value: [d.dim_param or d.dim_value
                           for d in value.type.tensor_type.shape.dim]
    assert {v.name: shape(v) for v in core.graph.input} == {'input': ['N', 4, 32, 32]}
    assert {v.name: shape(v) for v in core.graph.output} == {
        'output': ['N', 3, 32, 32]}
    assert {p.key: p.value for p in core.metadata_props} == {'resolution': '32'}
    assert operators(core) == {'Add', 'Clip', 'Concat', 'Conv', 'Expand', 'LeakyRelu',
                               'Resize', 'Shape'}
    x = random_input(32, batch=3)
    np.testing.assert_allclose(run(core, x)[1:2], run(core, x[1:2]), atol=1e-5)


@pytest.mark.parametrize('height, width', [(32, 32), (40, 96), (8, 16)])
def test_dynamic_size(height, width):
    """Noise planes are repeated beyond and cut below their own size."""
    config = small_config()
    model = config.model
    _, variables = random_variables(config)
    shared = (model.resolution, model.ch_base, model.ch_max,
              build.conv_spec(model, fused=True))
    encoder, decoder = Encoder(*shared), Decoder(*shared, model.noise_at_4x4)
    sides = lambda plane: (len(plane) * height // 32, len(plane) * width // 32)
    noise = jax.tree.map(
        lambda plane: np.tile(plane, (5, 5))[:sides(plane)[0], :sides(plane)[1]],
        variables['noise']['decoder'])

    @jax.jit
    def generate(x):
        x, skips = encoder.apply({'params': variables['params']['encoder']}, x)
        return decoder.apply({'params': variables['params']['decoder'], 'noise': noise},
                             x, skips, 'const')[0]

    x = random_input(96)[:, :height, :width]
    core = onnx_core.build_core(config, variables, dynamic_size=True)
    assert relative_error(run(core, x), np.asarray(generate(x))) < 1e-4


def test_resolution_is_checked():
    config = small_config()
    config.model.resolution = 48
    with pytest.raises(ValueError, match='power of two'):
        onnx_core.build_core(config, {'params': {}, 'noise': {}})


def test_parameters_are_checked():
    config = small_config()
    _, variables = random_variables(config)
    variables['params']['decoder']['b8']['conv1']['bias'][3] = np.nan
    with pytest.raises(ValueError, match='params/decoder/b8/conv1/bias'):
        onnx_core.build_core(config, variables)
