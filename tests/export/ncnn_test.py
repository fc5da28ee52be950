"""ncnn's files, run by ncnn, against JAX."""

import pytest

import benchmark_exports
import golden
import tiny
from migan_jax.export import comparison
from migan_jax.export import exporting
from migan_jax.export import models

pytest.importorskip('ncnn', reason="ncnn is not installed; "
                    "pip install -e '.[ncnn]' brings it")
pytest.importorskip('pnnx', reason="pnnx is not installed; "
                    "pip install -e '.[ncnn]' brings it")
from migan_jax.export import ncnn_files  # noqa: E402, needs the packages


@pytest.mark.parametrize('half', [False, True])
def test_equals_jax(tmp_path, half):
    config = tiny.tiny_config(1)
    variables = benchmark_exports.random_variables(config)
    model = models.from_deployed(config, variables, '7')
    path = tmp_path / 'migan_ncnn'
    report = exporting.export_one('ncnn', model, path, models.Options(half=half), [])
    assert sorted(file.name for file in path.iterdir()) == [
        ncnn_files.BIN, ncnn_files.PARAM]
    assert report['operators']['ConvolutionDepthWise'] >= 14
    # Kernels that ncnn knows, none of PyTorch's names.
    assert all('.' not in name for name in report['operators'])
    x = comparison.model_inputs(comparison.random_pictures(16, 3), 16)
    error = golden.relative_error(ncnn_files.load_generator(path)(x), model.generate(x))
    assert error < 1e-5 or half and error < 5e-3
    assert (error > 1e-5) == half


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match='migan.ncnn.param is missing'):
        ncnn_files.load_generator(tmp_path)
