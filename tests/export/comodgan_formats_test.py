"""Co-Mod-GAN's exports against JAX and the published code; tools/to_torch.py of it."""

import functools
import json
import os

import jax
import ml_collections
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from configs import default
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.export import clamps
from migan_jax.export import comodgan_onnx
from migan_jax.export import comodgan_torch
from migan_jax.export import exporting
from migan_jax.export import onnx_half
from migan_jax.weights import torch_map
from migan_jax.model import comodgan
import golden

pytestmark = pytest.mark.filterwarnings('ignore:.*torch.jit.*:DeprecationWarning')

SIZES = dict(resolution=32, ch_base=256, ch_max=16, z_dim=8, w_dim=12, mapping_layers=2,
             global_dim=24)


def small_config():
    config = default.get_config()
    config.model.kind = 'comodgan'
    for key, value in SIZES.items():
        (config.model if key in config.model else config.model.comodgan)[key] = value
    return config


@functools.cache
def small():
    """Config, variables with biases and noise, jitted JAX function."""
    model = comodgan.Generator(**SIZES)
    x, z = sample()
    variables = jax.device_get(jax.jit(
        lambda: model.init(jax.random.key(0), x, 'none', z))())
    rng = np.random.default_rng(0)

    def filled(path, leaf):
        if path[-1].key == 'strength':
            return np.float32(0.3)
        if path[-1].key == 'bias':
            return (leaf + 0.5 * rng.standard_normal(leaf.shape)).astype(np.float32)
        return np.asarray(leaf)

    variables = jax.tree_util.tree_map_with_path(filled, variables)
    paint = jax.jit(lambda variables, x, z: model.apply(variables, x, 'const', z)[0])
    return small_config(), variables, paint


def sample(count=2):
    """f32[N, 32, 32, 4] with mask 1 = known, and z."""
    rng = np.random.default_rng(1)
    mask = (rng.random((count, 32, 32, 1)) < 0.6).astype(np.float32)
    image = rng.uniform(-1, 1, (count, 32, 32, 3)).astype(np.float32)
    z = rng.standard_normal((count, SIZES['z_dim'])).astype(np.float32)
    return np.concatenate([mask - 0.5, image * mask], -1), z


def run_onnx(model, x, z):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider'])
    y, = session.run(['output'], {
        'input': np.ascontiguousarray(x.transpose(0, 3, 1, 2)), 'z': z})
    return golden.nhwc(y)


def run_torch(module, x, z):
    with torch.inference_mode():
        y = module(
            torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(z))
    assert y.dtype == torch.float32 and y.is_contiguous()
    return golden.nhwc(y.numpy())


def scaled(variables, name, factor):
    """The variables with every leaf called `name` times `factor`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * np.float32(factor) if path[-1].key == name else leaf,
        variables)


def test_onnx_equals_jax():
    config, variables, paint = small()
    model = comodgan_onnx.build_comodgan(config, variables, metadata={'step': '7'})
    assert [(p.key, p.value) for p in model.metadata_props] == [('step', '7')]
    x, z = sample()
    assert golden.relative_error(run_onnx(model, x, z), paint(variables, x, z)) < 1e-5
    one = run_onnx(model, x[:1], z[:1])
    assert golden.relative_error(one, paint(variables, x[:1], z[:1])) < 1e-5


def test_torch_equals_jax(tmp_path):
    config, variables, paint = small()
    module = comodgan_torch.build_comodgan_module(config, variables)
    x, z = sample()
    expected = paint(variables, x, z)
    assert golden.relative_error(run_torch(module, x, z), expected) < 1e-5
    comodgan_torch.trace(module).save(tmp_path / 'traced.pt')
    # Traced at batch 1.
    loaded = torch.jit.load(tmp_path / 'traced.pt')
    assert golden.relative_error(run_torch(loaded, x, z), expected) < 1e-5
    assert not list(module.parameters())
    y = loaded.to('meta')(torch.zeros(2, 4, 32, 32, device='meta'),
                          torch.zeros(2, SIZES['z_dim'], device='meta'))
    assert y.shape == (2, 3, 32, 32) and y.device.type == 'meta'


def test_both_listen_to_z_mask_and_noise():
    """Else an input that is ignored would pass with the others' differences."""
    config, variables, _ = small()
    x, z = sample()
    still = scaled(variables, 'strength', 0)
    build = comodgan_onnx.build_comodgan
    module = comodgan_torch.build_comodgan_module
    for run, make in ((run_onnx, build), (run_torch, module)):
        model = make(config, variables)
        first = run(model, x, z)
        for changed in (run(model, x, z[::-1].copy()), run(model, 0.5 * x, z),
                        run(make(config, still), x, z)):
            assert golden.relative_error(changed, first) > 1e-3


@pytest.mark.parametrize('name, factor', [('bias', 300), ('bias', 1e-3)])
def test_saturated_and_tiny_values(name, factor):
    """The clamps bind; styles of other scales than 1 are demodulated."""
    config, variables, paint = small()
    changed = scaled(variables, name, factor)
    x, z = sample()
    expected = paint(changed, x, z)
    onnx_model = comodgan_onnx.build_comodgan(config, changed)
    assert golden.relative_error(run_onnx(onnx_model, x, z), expected) < 1e-4
    module = comodgan_torch.build_comodgan_module(config, changed)
    assert golden.relative_error(run_torch(module, x, z), expected) < 1e-4


def test_clamps_far_from_every_activation_are_left_out():
    config, variables, paint = small()
    measured = clamps.measure(config, variables)
    model = comodgan_onnx.build_comodgan(config, variables, largest=measured)
    assert not any(node.op_type == 'Clip' for node in model.graph.node)
    x, z = sample()
    assert golden.relative_error(run_onnx(model, x, z), paint(variables, x, z)) < 1e-5
    large = scaled(variables, 'bias', 300)
    for largest, equal in ((clamps.measure(config, large), True), (measured, False)):
        model = comodgan_onnx.build_comodgan(config, large, largest=largest)
        error = golden.relative_error(run_onnx(model, x, z), paint(large, x, z))
        assert error < 1e-4 if equal else error > 1e-2


@pytest.fixture(scope='module')
def published():
    """Golden arrays of the published code, 256 x 256 at 16 channels."""
    return golden.load('comodgan')


def test_onnx_equals_the_published_code(published):
    variables = torch_map.from_torch(
        golden.subset(published, 'state/'), torch_map.comodgan_table(256))
    model = comodgan_onnx.build_comodgan(
        ml_collections.ConfigDict({'model': {'resolution': 256}}), variables)
    actual = run_onnx(model, golden.nhwc(published['in/x']), published['in/z'])
    assert golden.relative_error(actual, golden.nhwc(published['out/image'])) < 1e-4


def test_torch_equals_the_published_code(published):
    module = comodgan_torch.Generator(golden.subset(published, 'state/'), 256)
    actual = run_torch(module, golden.nhwc(published['in/x']), published['in/z'])
    assert golden.relative_error(actual, golden.nhwc(published['out/image'])) < 1e-4


def test_filters_are_the_published_ones(published):
    expected = {name: array for name, array in golden.subset(
        published, 'state/').items() if name.endswith('.resample_filter')}
    actual = comodgan_torch.filters(256)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


def test_half_weights():
    config, variables, paint = small()
    x, z = sample()
    expected = paint(variables, x, z)
    model = comodgan_onnx.build_comodgan(config, variables)
    half = onnx_half.to_half(model)
    assert half.ByteSize() < 0.65 * model.ByteSize()
    assert 1e-6 < golden.relative_error(run_onnx(half, x, z), expected) < 5e-3
    module = comodgan_torch.build_comodgan_module(config, variables).half()
    assert 1e-6 < golden.relative_error(run_torch(module, x, z), expected) < 5e-3


def test_parameters_that_are_not_finite_are_refused():
    config, variables, _ = small()
    with pytest.raises(ValueError, match='decoder/b16/conv0/bias'):
        comodgan_onnx.build_comodgan(config, scaled(variables, 'bias', np.nan))


# tools/to_torch.py.


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('comodgan') / 'checkpoint'
    config, variables, _ = small()
    checkpoint_lib.save_deployed(str(folder), config, variables)
    return folder


@pytest.fixture(scope='module')
def exported(tmp_path_factory, checkpoint):
    out = tmp_path_factory.mktemp('exported')
    return out, exporting.run(checkpoint, out)


def test_every_format_is_written_and_compared(exported):
    out, reports = exported
    assert [report['format'] for report in reports] == ['pt', 'torchscript', 'onnx']
    for report in reports:
        assert 'error' not in report, report
        assert 0 < report['random']['max'] < 1e-4
    assert sorted(os.listdir(out)) == [
        'comodgan.onnx', 'comodgan.pt', 'comodgan_traced.pt', 'report.json']
    assert reports[2]['operators']['ConvTranspose'] == 3
    assert reports[1]['operators']['aten::_convolution'] > 20


def test_published_layout(exported):
    """The weights bit for bit, and the filters that go with them."""
    config, variables, _ = small()
    state = torch.load(exported[0] / 'comodgan.pt', weights_only=True)
    table = torch_map.comodgan_table(32, mapping_layers=SIZES['mapping_layers'])
    expected = torch_map.to_torch(variables, table) | comodgan_torch.filters(32)
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


def test_the_files_alone(exported):
    """As their users load them; metadata says what goes in."""
    out, _ = exported
    _, variables, paint = small()
    x, z = sample()
    expected = paint(variables, x, z)
    model = onnx.load(out / 'comodgan.onnx')
    assert golden.relative_error(run_onnx(model, x, z), expected) < 1e-4
    extra = {'metadata.json': ''}
    module = torch.jit.load(out / 'comodgan_traced.pt', _extra_files=extra)
    assert golden.relative_error(run_torch(module, x, z), expected) < 1e-4
    for metadata in (json.loads(extra['metadata.json']),
                     {prop.key: prop.value for prop in model.metadata_props}):
        assert metadata['model'] == 'Co-Mod-GAN'
        assert metadata['z'].startswith('8 normal')
        assert metadata['mask_polarity'] == '1 = known, 0 = hole'


def test_half_exports(tmp_path, checkpoint, exported):
    reports = exporting.run(checkpoint, tmp_path, options=exporting.Options(half=True))
    for half, full in zip(reports, exported[1]):
        assert 'error' not in half, half
        assert 1e-6 < half['random']['max'] < 2e-2
        assert half['bytes'] < full['bytes']


@pytest.mark.parametrize('options, message', [
    (dict(formats=['onnx', 'tflite', 'onnx_pipeline']),
     'Co-Mod-GAN, .* as tflite, onnx_pipeline: pass --formats=pt,torchscript,onnx'),
    (dict(options=exporting.Options(dynamic_size=True)), 'leave out --dynamic_size')])
def test_what_co_mod_gan_has_not_is_refused(tmp_path, checkpoint, options, message):
    with pytest.raises(exporting.ExportFailed, match=message):
        exporting.run(checkpoint, tmp_path, **options)
    assert not os.listdir(tmp_path)
