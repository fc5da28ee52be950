"""float16 weights of the ONNX graphs."""

import numpy as np
import onnx
import pytest

from migan_jax.export import onnx_core
from migan_jax.export import onnx_pipeline
from migan_jax.export import onnx_half
from onnx_core_test import expected
from onnx_core_test import random_input
from onnx_core_test import random_variables
from onnx_core_test import run
from onnx_core_test import session
from onnx_core_test import small_config


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
    half = onnx_half.to_half(model)
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
    result, = session(onnx_half.to_half(model)).run(None, feed)
    assert np.abs(result.astype(int) - wanted.astype(int)).max() <= 5


def test_half_refuses_what_float16_cannot_hold(core_file):
    model = onnx.load(core_file[0])
    kernel = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(kernel) * np.float32(1e9)
    kernel.CopyFrom(onnx.numpy_helper.from_array(array, kernel.name))
    with pytest.raises(ValueError, match='float16 ends at'):
        onnx_half.to_half(model)
