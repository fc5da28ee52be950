"""float16 weights and int8 quantisation of the ONNX graphs."""

import numpy as np
import onnx
import pytest

from migan_jax.export import onnx_core
from migan_jax.export import onnx_pipeline
from migan_jax.export import onnx_quantize
from onnx_core_test import expected
from onnx_core_test import random_input
from onnx_core_test import random_variables
from onnx_core_test import run
from onnx_core_test import session
from onnx_core_test import small_config


def nchw(x):
    return x.transpose(0, 3, 1, 2)


def calibration(count, resolution=32):
    return [np.ascontiguousarray(nchw(random_input(resolution, 1, seed)))
            for seed in range(count)]


@pytest.fixture(name='core_file')
def core_file_fixture(tmp_path):
    """(path, generator, variables) of a small core graph."""
    config = small_config(ch_base=2048, ch_max=64)
    generator, variables = random_variables(config)
    path = tmp_path / 'migan.onnx'
    onnx.save(onnx_core.build_core(config, variables, metadata={'mask': '1 = known'}),
              path)
    return path, generator, variables


def test_half(core_file):
    path, generator, variables = core_file
    model = onnx.load(path)
    half = onnx_quantize.to_half(model)
    # Biases aside, two bytes for four.
    assert len(half.SerializeToString()) < 0.6 * len(model.SerializeToString())
    x = random_input(32)
    wanted = expected(generator, variables, x)
    error = np.abs(run(half, x) - wanted).max() / np.abs(wanted).max()
    assert 0 < error < 2e-2
    assert {p.key: p.value for p in half.metadata_props} == {'mask': '1 = known'}
    assert model == onnx.load(path)


def test_half_pipeline():
    config = small_config(ch_max=8)
    model = onnx_pipeline.build_pipeline(config, random_variables(config)[1], padding=8)
    rng = np.random.default_rng(0)
    feed = {'image': rng.integers(0, 256, (1, 3, 70, 50), np.uint8),
            'mask': np.full((1, 1, 70, 50), 255, np.uint8)}
    feed['mask'][..., 30:40, 10:35] = 0
    wanted, = session(model).run(None, feed)
    result, = session(onnx_quantize.to_half(model)).run(None, feed)
    assert np.abs(result.astype(int) - wanted.astype(int)).max() <= 5


def test_half_refuses_what_float16_cannot_hold(core_file):
    model = onnx.load(core_file[0])
    kernel = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(kernel) * np.float32(1e9)
    kernel.CopyFrom(onnx.numpy_helper.from_array(array, kernel.name))
    with pytest.raises(ValueError, match='float16 ends at'):
        onnx_quantize.to_half(model)


def test_int8(core_file, tmp_path):
    path, generator, variables = core_file
    out = tmp_path / 'int8.onnx'
    onnx_quantize.to_int8(path, out, calibration(4))
    quantized = onnx.load(out)
    assert {p.key: p.value for p in quantized.metadata_props} == {'mask': '1 = known'}
    assert out.stat().st_size < 0.6 * path.stat().st_size
    int8 = [t for t in quantized.graph.initializer
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    # Two per encoder block, two per decoder block: 4, 8, 16, 32.
    assert len(int8) == 16
    x = random_input(32, seed=100)
    wanted = expected(generator, variables, x)
    error = np.sqrt(np.mean(np.square(run(quantized, x) - wanted)) / np.var(wanted))
    assert 0 < error < 0.2
    assert sorted(p.name for p in tmp_path.iterdir()) == ['int8.onnx', 'migan.onnx']


@pytest.mark.parametrize('inputs, message', [
    ([], 'no calibration inputs'),
    ([np.zeros((1, 4, 16, 16), np.float32)], r'expected float32\[1, 4, 32, 32\]'),
    ([np.zeros((1, 4, 32, 32))], 'got float64'),
    ([np.full((1, 4, 32, 32), np.nan, np.float32)], 'not finite')])
def test_int8_refuses_bad_calibration(core_file, tmp_path, inputs, message):
    out = tmp_path / 'int8.onnx'
    with pytest.raises(ValueError, match=message):
        onnx_quantize.to_int8(core_file[0], out, inputs)
    assert not out.exists()


def test_int8_refuses_other_models(tmp_path):
    config = small_config(ch_max=8)
    _, variables = random_variables(config)
    for model in (onnx_pipeline.build_pipeline(config, variables),
                  onnx_core.build_core(config, variables, dynamic_size=True)):
        onnx.save(model, tmp_path / 'other.onnx')
        with pytest.raises(ValueError, match='core model|fixed size'):
            onnx_quantize.to_int8(
                tmp_path / 'other.onnx', tmp_path / 'out.onnx', calibration(1))
