"""Core ML packages, read back and evaluated operator by operator, against JAX."""

import numpy as np
import pytest

import benchmark_exports
import golden
import tiny
from migan_jax.export import clamps
from migan_jax.export import comparison
from migan_jax.export import exporting
from migan_jax.export import models

pytest.importorskip('coremltools', reason="coremltools is not installed; "
                    "pip install -e '.[coreml]' brings it")
from migan_jax.export import coreml

# What the Neural Engine and the GPU take, as far as Apple documents it.
ALLOWED = {'add', 'conv', 'leaky_relu', 'upsample_nearest_neighbor'}


@pytest.fixture(scope='module')
def model():
    config = tiny.tiny_config(1)
    return models.from_deployed(config, benchmark_exports.random_variables(config), '7')


@pytest.mark.parametrize('half', [False, True])
def test_both_packages_pass_and_are_reported(tmp_path, model, half):
    options = models.Options(half=half)
    for name in ('coreml', 'coreml_image'):
        path = tmp_path / exporting.MORE_FORMATS[name].file
        # An earlier package is replaced.
        for _ in range(1 if half else 2):
            report = exporting.export_one(name, model, path, options, [])
        spec, program = coreml.read(path)
        assert report['bytes'] > 4 * path.stat().st_size
        assert report['random']['max'] < (2e-2 if half else 1e-4)
        assert (report['random']['max'] > 1e-5) == half
        assert spec.specificationVersion == 7         # iOS 16
        metadata = spec.description.metadata
        assert metadata.userDefined['mask_polarity'].startswith(
            '255' if name == 'coreml_image' else '1 = known')
        assert metadata.versionString == '7'
        taken = {f.name: f.type.WhichOneof('Type') for f in spec.description.input}
        given = {f.name: f.type.WhichOneof('Type') for f in spec.description.output}
        if name == 'coreml':
            assert taken == {'input': 'multiArrayType'}
            assert given == {'output': 'multiArrayType'}
            named = {'cast'} if half else {'identity'}
            assert set(report['operators']) == ALLOWED | named
        else:
            assert taken == {'image': 'imageType', 'mask': 'imageType'}
            assert given == {'painted': 'imageType'}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'migan.mlpackage', 'migan_image.mlpackage']


def test_known_pixels_are_kept_and_any_grey_is_hole(tmp_path, model):
    path = tmp_path / 'migan_image.mlpackage'
    coreml.write_image(model.config, model.variables, path, half=False,
                       largest=None, metadata=model.metadata)
    paint = coreml.load_painter(path)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    mask = np.full((16, 16), 255, np.uint8)
    np.testing.assert_allclose(paint(image, mask), image, atol=1e-4)
    black, grey = mask.copy(), mask.copy()
    black[3:9, 4:12], grey[3:9, 4:12] = 0, 254
    painted = paint(image, black)
    np.testing.assert_array_equal(paint(image, grey), painted)
    changed = np.abs(painted - image).max(-1) > 1e-3
    assert changed[3:9, 4:12].any() and not changed[black == 255].any()


def test_clamps_are_kept_where_they_bind(tmp_path, model):
    config, variables = model.config, model.variables
    large = {**variables, 'params': scaled_biases(variables['params'], 3000)}
    largest = clamps.measure(config, large)
    x = comparison.model_inputs(comparison.random_pictures(16), 16)
    expected = models.jax_generator(config, large)(x)
    for measured in (largest, None):
        path = tmp_path / 'migan.mlpackage'
        coreml.write_core(config, large, path, half=False, largest=measured,
                          metadata=model.metadata)
        assert golden.relative_error(coreml.load_generator(path)(x), expected) < 1e-5
    assert coreml.operators(path)['clip'] == len(largest)
    coreml.write_core(config, large, path, half=False, metadata=model.metadata,
                      largest=dict.fromkeys(largest, 0.0))
    assert golden.relative_error(coreml.load_generator(path)(x), expected) > 1e-2


def scaled_biases(tree, factor):
    return {name: scaled_biases(value, factor) if isinstance(value, dict)
            else value * np.float32(factor if name == 'bias' else 1)
            for name, value in tree.items()}


def test_what_is_no_package_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no Core ML package'):
        coreml.read(tmp_path / 'missing.mlpackage')
