"""The file for OpenVINO, run by it, against JAX."""

import pytest

import benchmark_exports
import tiny
from migan_jax.export import exporting
from migan_jax.export import models

pytest.importorskip('openvino', reason="openvino is not installed; "
                    "pip install -e '.[runtimes]' brings it")


@pytest.mark.parametrize('half', [False, True])
def test_equals_jax(tmp_path, half):
    config = tiny.tiny_config(1)
    model = models.from_deployed(
        config, benchmark_exports.random_variables(config), '7')
    path = tmp_path / 'migan_openvino.onnx'
    report = exporting.export_one(
        'openvino', model, path, models.Options(half=half), [])
    assert path.exists()
    assert report['random']['max'] < (2e-2 if half else 1e-4)
    # Nothing but what it takes along with a convolution, or resizes.
    assert set(report['operators']) <= {
        'Add', 'Cast', 'Conv', 'LeakyRelu', 'Resize'}
