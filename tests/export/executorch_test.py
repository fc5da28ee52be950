"""The ExecuTorch program, run by its own runtime, against JAX."""

import subprocess
import sys

import numpy as np
import pytest

import benchmark_exports
import golden
import tiny
from migan_jax.export import clamps
from migan_jax.export import comparison
from migan_jax.export import exporting
from migan_jax.export import models

pytest.importorskip('executorch', reason="executorch is not installed; "
                    "pip install -e '.[executorch]' brings it")
from migan_jax.export import executorch


@pytest.fixture(scope='module')
def model():
    config = tiny.tiny_config(1)
    return models.from_deployed(config, benchmark_exports.random_variables(config), '7')


def test_equals_jax_and_leaves_nothing_to_other_kernels(tmp_path, model):
    report = exporting.export_one(
        'executorch', model, tmp_path / 'migan.pte', models.Options(), [])
    assert report['random']['max'] < 1e-4
    # One part for XNNPACK: anything beside it would be copied around.
    assert report['operators'] == {'XnnpackBackend': 1}
    generate = executorch.load_generator(tmp_path / 'migan.pte')
    x = comparison.model_inputs(comparison.random_pictures(16, 3), 16)
    assert golden.relative_error(generate(x), model.generate(x)) < 1e-5


def test_nothing_is_said_but_the_report(tmp_path, model, capfd):
    """The imports have spoken already: in a process of its own."""
    exporting.export_one(
        'executorch', model, tmp_path / 'migan.pte', models.Options(), [])
    assert capfd.readouterr().err == ''
    code = (f'from migan_jax.export import executorch as e; import numpy as np; '
            f'e.load_generator({str(tmp_path / "migan.pte")!r})'
            f'(np.zeros((1, 16, 16, 4), np.float32))')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')


def test_core_ml_computes_in_float16_only_with_half(tmp_path, model):
    pytest.importorskip('coremltools', reason='coremltools is not installed')
    path = tmp_path / 'migan_coreml.pte'
    for half in (False, True):
        exporting.export_one(
            'executorch_coreml', model, path, models.Options(half=half), [])
        program = executorch.deserialize_pte_binary(path.read_bytes()).program
        part, = program.execution_plan[0].delegates
        asked = {spec.key: bytes(spec.value) for spec in part.compile_specs}
        assert asked['model_compute_precision'] == (b'float16' if half else b'float32')


def test_clamps_are_kept_where_they_bind(tmp_path, model):
    config, variables = model.config, dict(model.variables)
    fromrgb = variables['params']['encoder']['b16']['fromrgb']
    saved = fromrgb['bias']
    fromrgb['bias'] = saved * np.float32(5000)
    try:
        largest = clamps.measure(config, variables)
        assert largest['encoder.b16.fromrgb'] > 256
        x = comparison.model_inputs(comparison.random_pictures(16), 16)
        expected = models.jax_generator(config, variables)(x)
        path = tmp_path / 'migan.pte'
        path.write_bytes(executorch.build_executorch(config, variables, largest))
        assert golden.relative_error(
            executorch.load_generator(path)(x), expected) < 1e-5
    finally:
        fromrgb['bias'] = saved


@pytest.mark.parametrize('name, backend', [
    ('executorch_vulkan', 'VulkanBackend'), ('executorch_coreml', 'CoreMLBackend')])
def test_other_backends_take_the_whole_network(tmp_path, model, name, backend):
    if name == 'executorch_coreml':
        pytest.importorskip('coremltools', reason='coremltools is not installed')
    path = tmp_path / exporting.MORE_FORMATS[name].file
    report = exporting.export_one(name, model, path, models.Options(), [])
    assert report['operators'] == {backend: 1}
    assert report['handed_over']['max'] < 1e-4 and 'random' not in report
    assert path.stat().st_size == report['bytes'] > 10_000
    assert 'can not be run here' in exporting.describe(report)


def test_a_part_of_the_network_is_refused(model):
    vulkan = pytest.importorskip('executorch.backends.vulkan.partitioner.vulkan_partitioner')
    ops = pytest.importorskip('executorch.exir.dialects._ops').ops.edge
    reluctant = vulkan.VulkanPartitioner(
        operator_blocklist=[ops.aten.leaky_relu.default])
    with pytest.raises(ValueError, match='only a part of the network: .*leaky_relu'):
        executorch.build_delegated(model.config, model.variables, reluctant)


def test_half_is_refused(tmp_path, model):
    with pytest.raises(exporting.ExportFailed, match='leave out --half'):
        exporting.export_one('executorch', model, tmp_path / 'migan.pte',
                             models.Options(half=True), [])
