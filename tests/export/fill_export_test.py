"""Every format paints on the starting fill, as JAX does; the published class can't."""

import jax
import numpy as np
import onnxruntime
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.export import exporting
from migan_jax.weights import importing
from migan_jax.export import onnx_core
from migan_jax.model import build
from migan_jax.model import fuse
import tiny


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    config = tiny.tiny_config(1)
    config.model.fill, config.model.fill_passes = True, 3
    config.model.noise_at_4x4 = False
    variables = tiny.random_deployed(config)
    variables['params'] = jax.device_get(fuse.fuse(variables['params']))
    folder = tmp_path_factory.mktemp('fill') / 'model'
    checkpoint_lib.save_deployed(str(folder), config, variables)
    return folder


def _inputs(side, holes):
    """f32[N, side, side, 4] with one large hole each, 1 = known."""
    image = np.random.default_rng(0).uniform(-1, 1, (len(holes), side, side, 3))
    mask = np.ones((len(holes), side, side, 1))
    for sample, hole in zip(mask, holes):
        sample[hole] = 0
    return np.concatenate([mask - 0.5, image * mask], -1).astype(np.float32)


def test_all_formats_but_the_published_layout(checkpoint, tmp_path):
    reports = exporting.run(str(checkpoint), tmp_path)
    errors = {report['format']: report['error'] for report in reports
              if 'error' in report}
    assert not errors
    written = {report['format'] for report in reports if 'skipped' not in report}
    assert written == {'torchscript', 'onnx', 'onnx_pipeline', 'tflite'}
    with pytest.raises(ValueError, match='starting fill'):
        exporting.export_one(
            'pt', exporting.load(str(checkpoint)), tmp_path / 'migan.pt',
            exporting.Options(), [])
    # Random masks leave something known everywhere nearby; these holes do not.
    config, generator, variables = checkpoint_lib.load_deployed(str(checkpoint))
    x = _inputs(16, [np.s_[1:15, 2:16], np.s_[:, :], np.s_[:9]])
    expected = build.deployed_forward(generator, variables, x)
    for name in ('torchscript', 'onnx', 'tflite'):
        file = exporting.formats_of(config)[name]
        painted = file.run(tmp_path / file.file, config)(x)
        np.testing.assert_allclose(painted, expected, atol=1e-4, err_msg=name)


def test_onnx_of_any_size(checkpoint):
    config, _, variables = checkpoint_lib.load_deployed(str(checkpoint))
    model = onnx_core.build_core(config, variables, dynamic_size=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = _inputs(32, [np.s_[4:20, 8:30]])
    painted, = session.run(None, {'input': x.transpose(0, 3, 1, 2)})
    assert painted.shape == (1, 3, 32, 32) and np.isfinite(painted).all()


@pytest.mark.parametrize('name', ['coreml', 'executorch', 'ncnn'])
def test_formats_of_phones(checkpoint, tmp_path, name):
    model = exporting.load(str(checkpoint))
    file = exporting.MORE_FORMATS[name]
    lacks = file.lacks(model, exporting.Options())
    if lacks:
        pytest.skip(lacks)
    exporting.export_one(name, model, tmp_path / file.file, exporting.Options(), [])
    x = _inputs(16, [np.s_[1:15, 2:16], np.s_[:, :], np.s_[:9]])
    np.testing.assert_allclose(
        file.run(tmp_path / file.file, model.config)(x), model.generate(x), atol=1e-4)


def test_half_precision_torchscript(checkpoint, tmp_path):
    report = exporting.export_one(
        'torchscript', exporting.load(str(checkpoint)), tmp_path / 'half.pt',
        exporting.Options(half=True), [])
    assert report['random']['max'] < report['tolerance']


def test_its_own_torchscript_comes_back_with_the_fill(checkpoint, tmp_path):
    path = tmp_path / 'migan_traced.pt'
    exporting.export_one('torchscript', exporting.load(str(checkpoint)), path,
                         exporting.Options(), [])
    config, variables, _ = importing.convert(str(path))
    assert config.model.fill and config.model.fill_passes == 3
    x = _inputs(16, [np.s_[1:15, 2:16]])
    _, generator, expected = checkpoint_lib.load_deployed(str(checkpoint))
    np.testing.assert_allclose(
        build.deployed_forward(build.build_generator(config, fused=True), variables, x),
        build.deployed_forward(generator, expected, x), atol=1e-4)
