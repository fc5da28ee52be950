"""tools/to_torch.py: every format against JAX, exact round trips, refusals."""

import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import jax
import numpy as np
import onnx
import onnxruntime
from PIL import Image
import pytest
from tensorflow.lite.tools import flatbuffer_utils
import torch

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.export import exporting
from migan_jax.export import onnx_core
from migan_jax.export import onnx_formats
from migan_jax.export import onnx_half
from migan_jax.export import tflite
from migan_jax.export import torch_module
import benchmark_exports
import from_torch
import golden
import tiny

TOOLS = pathlib.Path(__file__).parents[2] / 'tools'
R = 32


@pytest.fixture(scope='module')
def published():
    return golden.published_state()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, published):
    """A checkpoint directory of the published generator, 32 x 32."""
    folder = tmp_path_factory.mktemp('checkpoint')
    path = golden.save_state(folder / 'migan.pt', published)
    from_torch.run(path, 'migan', folder / 'imported')
    return folder / 'imported'


@pytest.fixture(scope='module')
def noisy(tmp_path_factory, published):
    """The same with noise in the 4 x 4 blocks, which the published layout lacks."""
    folder = tmp_path_factory.mktemp('noisy')
    state = dict(published)
    for conv in ('conv1', 'conv2'):
        plane = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
        state[f'synthesis.b4.{conv}.noise_const'] = plane
        state[f'synthesis.b4.{conv}.noise_strength'] = np.float32(0.5)
    from_torch.run(golden.save_state(folder / 'migan.pt', state), 'migan', folder / 'imported')
    return folder / 'imported'


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """(images, masks): folders with two pictures of other sizes than R x R."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(2)
    for name, size in (('a', (40, 50)), ('b', (33, 32))):
        mask = np.full(size, 255, np.uint8)
        mask[5:20, 8:22] = 0
        for kind, pixels in (('images', rng.integers(0, 256, (*size, 3), np.uint8)),
                             ('masks', mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f'{name}.png')
    return folder / 'images', folder / 'masks'


@pytest.fixture(scope='module')
def exported(tmp_path_factory, checkpoint, photos):
    """Everything, in float32, and the report by format."""
    out = tmp_path_factory.mktemp('exported') / 'deep' / 'out'
    reports = exporting.run(checkpoint, out, images=photos[0], masks=photos[1])
    return out, {report['format']: report for report in reports}


def test_all_formats_pass_and_are_reported(exported):
    out, reports = exported
    assert list(reports) == list(exporting.FORMATS)
    for name, report in reports.items():
        assert 'error' not in report, report
        assert report['bytes'] == (out / report['file']).stat().st_size
        for key in ('random', 'pictures'):
            limit = 1 / 127 if name == 'onnx_pipeline' else 1e-5
            assert report[key]['max'] <= limit
            assert report[key]['mean'] <= report[key]['max']
    assert json.loads((out / 'report.json').read_text()) == list(reports.values())
    assert sorted(os.listdir(out)) == sorted(
        [*(f.file for f in exporting.FORMATS.values()), 'report.json'])
    assert reports['onnx']['operators']['Conv'] >= 33
    assert reports['tflite']['operators']['DEPTHWISE_CONV_2D'] >= 17
    assert reports['torchscript']['operators']['aten::_convolution'] >= 33
    assert reports['pt']['operators'] == {}


def test_published_layout_round_trip_is_bit_identical(exported, published):
    state = torch.load(exported[0] / 'migan.pt', weights_only=True)
    assert sorted(state) == sorted(published)
    for name, array in published.items():
        assert state[name].shape == array.shape and state[name].dtype == torch.float32
        np.testing.assert_array_equal(state[name].numpy(), array)


def test_constants_are_stored_once(exported, published):
    """Else the published 256 model would take 25.2 MB instead of 24.5."""
    size = (exported[0] / 'migan.pt').stat().st_size
    with zipfile.ZipFile(exported[0] / 'migan.pt') as archive:
        stored = sum(i.file_size for i in archive.infolist() if '/data/' in i.filename)
    masks = 4 * R**2
    filters = 2 * 4 * 16 * 32
    rest = sum(v.nbytes for k, v in published.items()
               if '.filter' not in k)
    assert stored == rest + masks + filters < size


def test_a_model_trained_in_bfloat16_is_exported_in_float32(tmp_path, checkpoint):
    config, _, variables = checkpoint_lib.load_deployed(str(checkpoint))
    config.model.dtype = 'bfloat16'
    checkpoint_lib.save_deployed(str(tmp_path / 'checkpoint'), config, variables)
    report, = exporting.run(tmp_path / 'checkpoint', tmp_path / 'out', ['torchscript'])
    assert report['random']['max'] < 1e-5


@pytest.mark.parametrize('name, exact', [
    ('migan.pt', True), ('migan_traced.pt', False)])
def test_what_is_exported_can_be_imported(tmp_path, exported, checkpoint, name, exact):
    from_torch.run(exported[0] / name, 'migan', tmp_path / 'again')
    _, generator, again = checkpoint_lib.load_deployed(str(tmp_path / 'again'))
    _, _, variables = checkpoint_lib.load_deployed(str(checkpoint))
    if exact:
        jax.tree.map(np.testing.assert_array_equal, again, variables)
    x = golden.nhwc(golden.load('generator_inference')['in/x'])
    paint = jax.jit(lambda v: generator.apply(v, x, 'const')[0])
    assert golden.relative_error(paint(again), paint(variables)) < 1e-5


def test_outputs_equal_the_published_code(exported):
    """The files themselves, loaded as their consumers do."""
    out, _ = exported
    arrays = golden.load('generator_inference')
    x, expected = arrays['in/x'], arrays['out/image']
    torchscript = torch.jit.load(out / 'migan_traced.pt', map_location='cpu')
    with torch.inference_mode():
        actual = {'torchscript': torchscript(torch.from_numpy(x)).numpy()}
    session = onnxruntime.InferenceSession(out / 'migan.onnx')
    actual['onnx'], = session.run(['output'], {'input': x})
    tflite_model = tflite.load_generator(out / 'migan.tflite')
    actual['tflite'] = tflite_model(golden.nhwc(x)).transpose(0, 3, 1, 2)
    for name, image in actual.items():
        assert golden.relative_error(image, expected) < 1e-4, name


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_metadata_in_every_file_that_can_hold_it(exported):
    out, _ = exported
    extra = {'metadata.json': ''}
    torch.jit.load(out / 'migan_traced.pt', _extra_files=extra)
    description = flatbuffer_utils.read_model(
        str(out / 'migan.tflite')).description.decode()
    found = {'torchscript': json.loads(extra['metadata.json']),
             'tflite': json.loads(description)}
    for name in ('migan.onnx', 'migan_pipeline.onnx'):
        found[name] = metadata_of(out / name)
    for name, metadata in found.items():
        assert metadata['resolution'] == '32' and metadata['source_step'] == '0', name
        assert {'known', 'hole'} <= set(re.findall('[a-z]+', metadata['mask_polarity']))
        assert 'red, green, blue' in metadata['channel_order']
        assert metadata['value_range'] and metadata['migan_jax_version']
    assert found['migan.onnx']['mask_polarity'].startswith('1 = known')
    assert found['migan_pipeline.onnx']['mask_polarity'].startswith('255 = known')


def test_half(tmp_path, checkpoint, exported):
    reports = exporting.run(checkpoint, tmp_path, options=exporting.Options(half=True))
    for report in reports:
        assert 'error' not in report, report
        assert 1e-6 < report['random']['max'] <= 0.03
    assert all(t.dtype == torch.float16
               for t in torch.load(tmp_path / 'migan.pt', weights_only=True).values())
    for name in ('migan.pt', 'migan.tflite', 'migan.onnx'):
        weights = sum(v.size for v in jax.tree.leaves(
            checkpoint_lib.load_deployed(str(checkpoint))[2]))
        saved = (exported[0] / name).stat().st_size - (tmp_path / name).stat().st_size
        assert saved > 1.2 * weights, name


def test_noise_at_4x4(tmp_path, noisy, exported):
    refused, kept = exporting.run(noisy, tmp_path, ['pt', 'torchscript'])
    assert '--drop_noise_at_4x4' in refused['error'] and '0.5' in refused['error']
    assert not (tmp_path / 'migan.pt').exists()
    # TorchScript has a place for it.
    assert kept['random']['max'] < 1e-4 and 'dropped_noise_at_4x4' not in kept
    report, = exporting.run(noisy, tmp_path, ['pt'], exporting.Options(drop_noise_at_4x4=True))
    assert report['random']['max'] < 1e-4
    assert report['dropped_noise_at_4x4']['max'] > 1e-2
    assert 'against the model with noise at 4 x 4' in exporting.describe(report)
    for name, tensor in torch.load(tmp_path / 'migan.pt', weights_only=True).items():
        np.testing.assert_array_equal(
            tensor, torch.load(exported[0] / 'migan.pt', weights_only=True)[name])


@pytest.mark.parametrize('depthwise, left_out', [
    (True, ['pt']), (False, ['pt', 'torchscript', 'tflite'])])
def test_what_a_trained_model_can_not_be_is_left_out(tmp_path, depthwise, left_out):
    """Unless asked for by name; a default export of it is no failure."""
    config = tiny.tiny_config(1)
    with config.unlocked():
        config.model.depthwise = depthwise
    variables = benchmark_exports.random_variables(config)
    checkpoint_lib.save_deployed(str(tmp_path / 'checkpoint'), config, variables)
    reports = exporting.run(tmp_path / 'checkpoint', tmp_path / 'out')
    assert not any('error' in report for report in reports)
    assert left_out == [r['format'] for r in reports if 'skipped' in r]
    for report in reports:
        assert (tmp_path / 'out' / report['file']).exists() != ('skipped' in report)
        assert report.get('skipped', '.').endswith('.')
    text = exporting.describe(reports[0])
    assert text.startswith('migan.pt: left out: the ')
    report, = exporting.run(tmp_path / 'checkpoint', tmp_path / 'named', ['pt'])
    assert report['error'] == reports[0]['skipped']


def test_onnxruntimes_own_format(tmp_path, checkpoint, exported):
    """The same numbers as of the ONNX files, from files that need no optimiser."""
    reports = exporting.run(checkpoint, tmp_path, ['ort', 'ort_pipeline'])
    for report in reports:
        assert 'error' not in report, report
        assert (tmp_path / report['file']).read_bytes()[4:8] == b'ORTM'
    x = golden.load('generator_inference')['in/x']
    results = [onnxruntime.InferenceSession(path).run(None, {'input': x})[0]
               for path in (tmp_path / 'migan.ort', exported[0] / 'migan.onnx')]
    assert golden.relative_error(*results) < 1e-5
    assert sorted(os.listdir(tmp_path)) == [
        'migan.ort', 'migan_pipeline.ort', 'report.json']
    report, = exporting.run(checkpoint, tmp_path, ['ort'], exporting.Options(half=True))
    assert 'leave out --half' in report['error']


def test_options_of_the_graphs(tmp_path, checkpoint):
    reports = exporting.run(checkpoint, tmp_path, ['onnx', 'onnx_pipeline'],
                            exporting.Options(dynamic_size=True, upstream_crop=True))
    assert not any('error' in report for report in reports)
    session = onnxruntime.InferenceSession(tmp_path / 'migan.onnx')
    y, = session.run(None, {'input': np.zeros((2, 4, 64, 96), np.float32)})
    assert y.shape == (2, 3, 64, 96)


def clips(path):
    return onnx_formats.count_onnx(path)['Clip']


@pytest.mark.parametrize('name', ['onnx', 'onnx_pipeline'])
def test_clamps_are_kept_on_request(tmp_path, checkpoint, exported, name):
    report, = exporting.run(
        checkpoint, tmp_path, [name], exporting.Options(keep_clamps=True))
    assert clips(tmp_path / report['file']) > clips(exported[0] / report['file'])
    assert 'largest_activation' not in report
    assert metadata_of(tmp_path / report['file'])['clamps'] == (
        'wherever an activation could reach 256')


def test_the_largest_activation_is_told(exported):
    out, reports = exported
    assert 0 < reports['onnx']['largest_activation'] < 64
    assert clips(out / 'migan.onnx') == 0
    assert 'clamps at 256 kept where one reached 64' in exporting.describe(
        reports['onnx'])
    text = metadata_of(out / 'migan.onnx')['clamps']
    assert f'{reports["onnx"]["largest_activation"]:.3g}' in text


# Failures.


def test_beyond_the_tolerance_nothing_is_written(tmp_path, checkpoint):
    (tmp_path / 'migan.pt').write_bytes(b'an earlier one')
    pt, traced = exporting.run(checkpoint, tmp_path, ['pt', 'torchscript'],
                               exporting.Options(half=True, tolerance=1e-9))
    for report in (pt, traced):
        assert 'more than 1e-09' in report['error']
    assert (tmp_path / 'migan.pt').read_bytes() == b'an earlier one'
    assert sorted(os.listdir(tmp_path)) == ['migan.pt', 'report.json']
    assert exporting.describe(pt).startswith('error: migan.pt: differs from JAX')


def test_a_wrong_graph_is_noticed(tmp_path, checkpoint, monkeypatch):
    build = onnx_core.build_core

    def slightly_off(config, variables, **options):
        variables = jax.tree.map(lambda x: x * np.float32(1.01), variables)
        return build(config, variables, **options)
    monkeypatch.setattr(onnx_core, 'build_core', slightly_off)
    report, = exporting.run(checkpoint, tmp_path, ['onnx'])
    assert 'differs from JAX' in report['error']


def test_failing_formats_leave_the_others_and_no_rest(
        tmp_path, checkpoint, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    def breaks(module):
        raise RuntimeError('no kernel')
    monkeypatch.setattr(onnx_half, 'to_half', full)
    monkeypatch.setattr(torch_module, 'trace', breaks)
    failed, written, broken = exporting.run(
        checkpoint, tmp_path, ['onnx', 'pt', 'torchscript'],
        exporting.Options(half=True))
    assert 'No space left' in failed['error'] and 'error' not in written
    assert broken['error'] == 'RuntimeError: no kernel'
    assert sorted(os.listdir(tmp_path)) == ['migan.pt', 'report.json']


@pytest.mark.parametrize('change, expected', [
    (dict(formats=['pt', 'caffe']), 'caffe; expected some of pt, torchscript'),
    (dict(formats=[]), 'none given'),
    (dict(images='photos'), 'go together'),
])
def test_unusable_arguments(tmp_path, checkpoint, change, expected):
    with pytest.raises(exporting.ExportFailed, match=expected):
        exporting.run(checkpoint, tmp_path / 'out', **change)
    assert not (tmp_path / 'out').exists()


def test_unusable_checkpoints(tmp_path):
    with pytest.raises(checkpoint_lib.CheckpointError, match='config.json'):
        exporting.run(tmp_path, tmp_path / 'out')
    state = golden.subset(golden.load('comodgan'), 'state/')
    teacher = golden.save_state(tmp_path / 'teacher.pt', state)
    from_torch.run(teacher, 'comodgan', tmp_path / 'teacher')
    with pytest.raises(exporting.ExportFailed, match='Co-Mod-GAN'):
        exporting.run(tmp_path / 'teacher', tmp_path / 'out', ['onnx', 'tflite'])


def test_masks_of_another_size(tmp_path, checkpoint, photos):
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'\[7, 9\].*\[40, 50\]'):
        exporting.run(checkpoint, tmp_path / 'out', images=photos[0] / 'a.png',
                 masks=tmp_path / 'a.png')


def test_out_that_can_not_be_written_shows_before_the_work(tmp_path):
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(exporting.ExportFailed, match='out='):
            exporting.run(tmp_path / 'missing', out)


def test_command_line(tmp_path, noisy):
    command = [sys.executable, TOOLS / 'to_torch.py', f'--checkpoint={noisy}',
               f'--out={tmp_path / "out"}', '--formats=torchscript,pt']
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    result = subprocess.run([*command, '--json'], capture_output=True, text=True,
                            env=environment)
    assert result.returncode == 1
    traced, pt = json.loads(result.stdout.splitlines()[-1])
    assert 'error' not in traced and 'error' in pt
    assert 'error: migan.pt: the published layout has no place' in result.stderr
    with zipfile.ZipFile(tmp_path / 'out' / 'migan_traced.pt') as archive:
        assert archive.namelist()[0].startswith('migan_traced/')
