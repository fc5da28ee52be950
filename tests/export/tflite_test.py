"""The LiteRT file against JAX, run by its interpreter."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from migan_jax.export import clamps
from migan_jax.export import tflite
from migan_jax.weights import torch_map
from migan_jax.model.generator import Generator
from migan_jax.model.layers import ConvSpec
from migan_jax.model.ops import up2
import golden

R = 32
# What the GPU delegates of phones take.
DELEGATED = {'ADD', 'CONV_2D', 'DEPTHWISE_CONV_2D', 'LEAKY_RELU', 'MAXIMUM', 'MINIMUM',
             'RESIZE_NEAREST_NEIGHBOR'}


@pytest.fixture(scope='module')
def model():
    """Config, variables and input of the published golden with noise at 4 x 4 added."""
    arrays = golden.load('generator_inference')
    state = golden.subset(arrays, 'state/')
    rng = np.random.default_rng(0)
    for conv in ('conv1', 'conv2'):
        plane = rng.standard_normal((4, 4)).astype(np.float32)
        state[f'synthesis.b4.{conv}.noise_const'] = plane
        state[f'synthesis.b4.{conv}.noise_strength'] = np.float32(0.5)
    table = torch_map.generator_table(R, branches=0, noise_at_4x4=True, fused=True)
    config = ml_collections.ConfigDict({'model': {
        'resolution': R, 'ch_base': 512, 'ch_max': 32, 'depthwise': True,
        'kind': 'migan', 'noise_at_4x4': True}})
    return config, torch_map.from_torch(state, table), golden.nhwc(arrays['in/x'])


@pytest.fixture(scope='module')
def paint():
    generator = Generator(R, 512, 32, ConvSpec(branches=0, fused=True), True)
    return jax.jit(lambda variables, x: generator.apply(variables, x, 'const')[0])


def save(path, model, **options):
    path.write_bytes(tflite.build_tflite(*model[:2], **options))
    return path


def test_equals_jax(tmp_path, model, paint):
    path = save(tmp_path / 'migan.tflite', model, description='{"resolution": "32"}')
    _, variables, x = model
    actual = tflite.load_generator(path)(x)
    assert actual.dtype == np.float32
    assert golden.relative_error(actual, paint(variables, x)) < 1e-5
    description = flatbuffer_utils.read_model(str(path)).description
    assert description.decode() == '{"resolution": "32"}'
    assert set(tflite.operators(path)) == DELEGATED
    interpreter = tf.lite.Interpreter(model_path=str(path))
    source, = interpreter.get_input_details()
    target, = interpreter.get_output_details()
    assert source['shape'].tolist() == [1, R, R, 4] and source['dtype'] == np.float32
    assert target['shape'].tolist() == [1, R, R, 3] and target['dtype'] == np.float32
    assert interpreter.get_signature_list() == {
        'serving_default': {'inputs': ['input'], 'outputs': ['output']}}


@pytest.mark.parametrize('half', [False, True])
def test_gpu_delegates_take_every_tensor(tmp_path, model, half):
    """No more than four axes, of floats and what resizes need."""
    path = save(tmp_path / 'migan.tflite', model, half=half)
    interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    tensors = interpreter.get_tensor_details()
    assert len(tensors) > 40
    for tensor in tensors:
        assert len(tensor['shape']) <= 4, tensor
        assert tensor['dtype'] in (np.float32, np.float16, np.int32), tensor


def test_activations_are_clamped(tmp_path, model, paint):
    config, variables, x = model
    large = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + np.float32(300) if path[-1].key == 'bias' else leaf,
        variables)
    path = save(tmp_path / 'migan.tflite', (config, large))
    expected = paint(large, x)
    assert golden.relative_error(tflite.load_generator(path)(x), expected) < 1e-5
    free = jax.tree.map(lambda w: w, large)
    # The clamp binds: without it the first bias would double what follows.
    bias = large['params']['encoder']['b32']['fromrgb']['bias']
    free['params']['encoder']['b32']['fromrgb']['bias'] = 2 * bias
    assert golden.relative_error(paint(free, x), expected) < 1e-3


def test_clamps_are_left_out_where_activations_stayed_below(tmp_path, model, paint):
    config, variables, x = model
    largest = clamps.measure(config, variables)
    path = save(tmp_path / 'migan.tflite', model, largest=largest)
    assert set(tflite.operators(path)) == DELEGATED - {'MAXIMUM', 'MINIMUM'}
    expected = paint(variables, x)
    assert golden.relative_error(tflite.load_generator(path)(x), expected) < 1e-5
    one = 'decoder.b32.conv1.depthwise'
    path = save(tmp_path / 'one.tflite', model, largest=largest | {one: 100.0})
    counts = tflite.operators(path)
    assert counts['MAXIMUM'] == counts['MINIMUM'] == 1
    path = save(tmp_path / 'nan.tflite', model, largest=largest | {one: np.nan})
    assert tflite.operators(path)['MINIMUM'] == 1


def test_half_weights(tmp_path, model, paint):
    _, variables, x = model
    full = save(tmp_path / 'full.tflite', model)
    half = save(tmp_path / 'half.tflite', model, half=True)
    error = golden.relative_error(tflite.load_generator(half)(x), paint(variables, x))
    assert 1e-6 < error < 2e-3
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert full.stat().st_size - half.stat().st_size > 1.5 * weights
    assert set(tflite.operators(half)) == DELEGATED | {'DEQUANTIZE'}


def test_up2_equals_zero_insertion_and_fir():
    x = np.random.default_rng(0).standard_normal((1, 5, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(
        tflite.up2(tf.constant(x)), up2(jnp.asarray(x)), atol=1e-6)


def test_the_ablation_without_depthwise_is_refused(model):
    config, variables, _ = model
    config = config.copy_and_resolve_references()
    config.model.depthwise = False
    with pytest.raises(ValueError, match='depthwise'):
        tflite.build_tflite(config, variables)
