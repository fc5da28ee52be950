"""tools/from_torch.py: what comes in is exact, everything else is refused."""

import os
import pathlib
import subprocess
import sys

from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
from PIL import Image
import pytest
import torch

import migan_jax.data
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import torch_files
from migan_jax import extras
from migan_jax.weights import torch_map
from migan_jax.export import torch_module
from migan_jax.training import checks
from migan_jax.training import inputs
from migan_jax.training import state as state_lib
import golden
import from_torch as tool
from tiny import random_deployed
from tiny import tiny_config


@pytest.fixture(scope='module')
def published():
    return golden.published_state()


def convert_error(path, kind='migan', resolution=None):
    with pytest.raises(tool.ImportFailed) as caught:
        tool.convert(path, kind, resolution)
    assert str(caught.value).count('\n') == 0
    return str(caught.value)


def published_again(config, variables):
    table = torch_map.generator_table(
        config.model.resolution, branches=0, noise_at_4x4=config.model.noise_at_4x4,
        fused=True)
    return torch_map.to_torch(variables, table)


def test_published_generator_through_a_checkpoint_directory(tmp_path, published):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    out = tmp_path / 'runs' / 'imported'
    _, description = tool.run(path, 'migan', out)
    assert '32 x 32' in description and '16 channels at 32 x 32' in description

    config, generator, variables = checkpoint_lib.load_deployed(str(out))
    assert config.model.to_dict() | {
        'resolution': 32, 'ch_base': 512, 'ch_max': 32, 'noise_at_4x4': False,
    } == config.model.to_dict()
    back = published_again(config, variables)
    for name, array in back.items():
        np.testing.assert_array_equal(array, published[name])
    assert all(torch_map.is_constant(name) for name in published.keys() - back.keys())

    arrays = golden.load('generator_inference')
    paint = jax.jit(generator.apply, static_argnums=2)
    image, _ = paint(variables, jnp.asarray(golden.nhwc(arrays['in/x'])), 'const')
    assert golden.relative_error(image, golden.nhwc(arrays['out/image'])) < 1e-4


def test_older_layout_and_left_out_constants(tmp_path, published):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    _, expected, _ = tool.convert(path, 'migan')
    layouts = {
        'older': {k.replace('filter_const', 'insert_zeros'): v
                  for k, v in published.items()},
        'tile': {k: v[:, :, :2, :2] if k.endswith('filter_const') else v
                 for k, v in published.items()},
        'bare': {k: v for k, v in published.items() if not torch_map.is_constant(k)},
    }
    for name, state in layouts.items():
        path = golden.save_state(tmp_path / f'{name}.pt', state)
        _, variables, _ = tool.convert(path, 'migan', 32)
        jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_our_torchscript_comes_back_within_rounding(tmp_path, published):
    # Strengths other than 0 and 1: the file holds their products with the planes.
    state = {k: np.float32(0.3) if k.endswith('noise_strength') else v
             for k, v in published.items()}
    module = torch_module.Generator(state, 32)
    torch_module.trace(module).save(tmp_path / 'migan_traced.pt')
    config, variables, description = tool.convert(tmp_path / 'migan_traced.pt', 'migan')
    assert description.startswith('TorchScript archive')
    back = published_again(config, variables)
    for name, array in back.items():
        if 'noise' not in name:
            assert golden.relative_error(array, state[name]) < 2e-7, name
    for r in (8, 16, 32):
        prefix = f'synthesis.b{r}.conv2.noise'
        product = back[f'{prefix}_strength'] * back[f'{prefix}_const']
        assert golden.relative_error(product, 0.3 * state[f'{prefix}_const']) < 2e-7


def test_torchscript_with_published_names(tmp_path, published):
    module = torch.nn.Module()
    for name, array in published.items():
        node = module
        *path, last = name.split('.')
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, torch.nn.Module())
            node = getattr(node, part)
        node.register_buffer(last, torch.from_numpy(array))
    torch.jit.script(module).save(tmp_path / 'migan_traced.pt')
    config, variables, _ = tool.convert(tmp_path / 'migan_traced.pt', 'migan')
    for name, array in published_again(config, variables).items():
        np.testing.assert_array_equal(array, published[name])


def test_noise_at_4x4_is_read_from_the_file(tmp_path, published):
    state = dict(published)
    for conv in ('conv1', 'conv2'):
        state[f'synthesis.b4.{conv}.noise_const'] = np.ones((4, 4), np.float32)
        state[f'synthesis.b4.{conv}.noise_strength'] = np.float32(0.5)
    path = golden.save_state(tmp_path / 'migan.pt', state)
    config, variables, _ = tool.convert(path, 'migan')
    assert config.model.noise_at_4x4
    assert variables['params']['decoder']['b4']['conv1']['noise']['strength'] == 0.5


def test_comodgan(tmp_path):
    arrays = golden.load('comodgan')
    path = golden.save_state(tmp_path / 'teacher.pt', golden.subset(arrays, 'state/'))
    tool.run(path, 'comodgan', tmp_path / 'teacher')
    config, _, variables = checkpoint_lib.load_deployed(str(tmp_path / 'teacher'))
    fields = config.model.comodgan
    assert (fields.z_dim, fields.w_dim, fields.mapping_layers, fields.global_dim) == (
        32, 32, 8, 64)
    assert (config.model.ch_base, config.model.ch_max) == (4096, 16)
    back = torch_map.to_torch(variables, torch_map.comodgan_table(256))
    for name, array in back.items():
        np.testing.assert_array_equal(array, arrays[f'state/{name}'])


# Refused.


def test_wrong_resolution_names_both(tmp_path, published):
    message = convert_error(golden.save_state(tmp_path / 'migan.pt', published), resolution=256)
    assert '--resolution=256' in message and '32 x 32' in message
    assert 'pass --resolution=32' in message


def test_wrong_kind_is_named(tmp_path, published):
    state = golden.subset(golden.load('comodgan'), 'state/')
    teacher = golden.save_state(tmp_path / 'teacher.pt', state)
    assert 'pass --kind=comodgan' in convert_error(teacher)
    migan = golden.save_state(tmp_path / 'migan.pt', published)
    assert 'pass --kind=migan' in convert_error(migan, 'comodgan')


@pytest.mark.parametrize('name, expected', [
    ('generator_dw_reparam9', 'training layout'), ('generator_dw', 'training layout'),
    ('discriminator_r1', 'a discriminator'),
])
def test_other_networks_are_named(tmp_path, name, expected):
    state = golden.subset(golden.load(name), 'state/')
    assert expected in convert_error(golden.save_state(tmp_path / 'model.pt', state))


def test_another_architecture_is_shown(tmp_path):
    path = golden.save_state(tmp_path / 'model.pt', {'features.0.weight': np.zeros((2, 2))})
    assert 'features.0.weight' in convert_error(path)


def test_missing_unexpected_and_other_shapes_are_listed_together(tmp_path, published):
    state = dict(published)
    state['surplus.weight'] = state.pop('encoder.b16.conv1.conv1.bias')
    state['encoder.b8.conv1.conv1.weight'] = np.zeros((32, 1, 5, 5), np.float32)
    message = convert_error(golden.save_state(tmp_path / 'migan.pt', state))
    for part in ("1 missing ['encoder.b16.conv1.conv1.bias']",
                 "1 unexpected ['surplus.weight']",
                 'encoder.b8.conv1.conv1.weight has [32, 1, 5, 5], expected '
                 '[32, 1, 3, 3]'):
        assert part in message


def test_widths_that_follow_no_rule(tmp_path, published):
    """The 32 x 32 level is narrower than ch_base / r says, in every tensor it has."""
    def narrow(name, array):
        if '.b32.' in name and not torch_map.is_constant(name) and array.ndim == 4:
            array = array[:array.shape[0] * 3 // 4 if array.shape[0] == 16 else None]
        return array
    state = {k: narrow(k, v) for k, v in published.items()}
    message = convert_error(golden.save_state(tmp_path / 'migan.pt', state))
    assert 'of another shape' in message
    assert 'has [12, 16, 1, 1], expected [12, 12, 1, 1]' in message


@pytest.mark.parametrize('ending', [
    'downsample.filter.weight', 'upsample.filter.weight', 'filter_const'])
def test_other_constants_are_refused(tmp_path, published, ending):
    name = sorted(k for k in published if k.endswith(ending))[0]
    state = {**published, name: published[name][..., ::-1, :] * np.float32(1.5) + 0.125}
    message = convert_error(golden.save_state(tmp_path / 'migan.pt', state))
    assert name in message and '1 constants differ' in message


def test_unexpected_constants_are_refused(tmp_path, published):
    state = {**published, 'encoder.b4.conv2.downsample.filter.weight': np.zeros(4)}
    path = golden.save_state(tmp_path / 'migan.pt', state)
    assert 'encoder.b4.conv2.downsample' in convert_error(path)


def test_nonfinite_weights(tmp_path, published):
    name = 'synthesis.b8.conv1.conv1.weight'
    state = {**published, name: published[name] * np.float32('nan')}
    with pytest.raises(torch_files.TorchFileError, match=name):
        tool.convert(golden.save_state(tmp_path / 'migan.pt', state), 'migan')


def leftovers(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


def test_failures_leave_nothing(tmp_path, published):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(torch_files.TorchFileError):
        tool.run(path, 'migan', tmp_path / 'out')
    assert leftovers(tmp_path) == ['migan.pt']


def test_failing_in_the_middle_of_writing_keeps_what_was_there(
        tmp_path, published, monkeypatch):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    tool.run(path, 'migan', tmp_path / 'out')
    before = leftovers(tmp_path)

    def full(directory, config, variables):
        os.makedirs(os.path.join(directory, 'checkpoints', '0'))
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(checkpoint_lib, 'save_deployed', full)
    with pytest.raises(OSError, match='No space'):
        tool.run(path, 'migan', tmp_path / 'out', overwrite=True)
    assert leftovers(tmp_path) == before
    checkpoint_lib.load_deployed(str(tmp_path / 'out'))


def test_existing_directories(tmp_path, published):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    out = tmp_path / 'out'
    out.mkdir()
    tool.run(path, 'migan', out)
    with pytest.raises(tool.ImportFailed, match='--overwrite'):
        tool.run(path, 'migan', out)
    changed = {k: v + np.float32(1) if k.endswith('torgb.bias') else v
               for k, v in published.items()}
    tool.run(golden.save_state(tmp_path / 'other.pt', changed), 'migan', out, overwrite=True)
    _, _, variables = checkpoint_lib.load_deployed(str(out))
    np.testing.assert_array_equal(
        variables['params']['decoder']['b4']['torgb']['bias'],
        changed['synthesis.b4.torgb.bias'])
    assert sorted(os.listdir(tmp_path)) == ['migan.pt', 'other.pt', 'out']


@pytest.mark.parametrize('content', ['photo.jpg', 'config.json'])
def test_directories_of_others_are_never_replaced(tmp_path, published, content):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / content).write_text('{"deployed": true}')
    with pytest.raises(tool.ImportFailed, match='not written by from_torch'):
        tool.run(path, 'migan', tmp_path / 'out', overwrite=True)
    assert os.listdir(tmp_path / 'out') == [content]


def test_out_that_can_not_be_written_shows_before_the_work(tmp_path):
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below' / 'out'):
        with pytest.raises(tool.ImportFailed, match='out='):
            tool.run(tmp_path / 'missing.pt', 'migan', out)


def printed_config(lines, photos, monkeypatch):
    """The config of the training command among lines of advice, with its flags."""
    (command,) = [line for line in lines if 'migan_jax.main' in line]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    root = pathlib.Path(__file__).parents[2]
    command = command.replace('PHOTOS', str(photos)).replace('configs/', f'{root}/configs/')
    # Where the flag finds out which fields are overridden.
    monkeypatch.setattr(sys, 'argv', command.split()[2:])
    values(sys.argv)
    return values.config


def test_training_commands_that_it_prints_go_through(
        tmp_path, published, monkeypatch):
    for name in 'ab':
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / f'{name}.png')
    out = tmp_path / 'migan'
    config, _ = tool.run(golden.save_state(tmp_path / 'migan.pt', published), 'migan', out)
    # As wide a share of the picture as 12 to 48 pixels are of 256.
    assert tuple(config.mask.brush_width) == (2, 6)
    ours = printed_config(tool.advice(config, out), tmp_path, monkeypatch)
    assert tuple(ours.mask.brush_width) == (2, 6) and ours.train.d_only_kimg == 20
    checks.check(ours)
    assert len(inputs.divide(ours).evaluation) == 1
    assert inputs.open_teacher(ours) == (None, None)
    state = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        state_lib.abstract_state(state_lib.build_models(ours), 32))
    assert state_lib.warm_start(state, ours, str(out)) is not None

    config = tiny_config(1, 'comodgan')
    checkpoint_lib.save_deployed(str(tmp_path / 'teacher'), config, random_deployed(config))
    advice = tool.advice(config, tmp_path / 'teacher')
    ours = printed_config(advice, tmp_path, monkeypatch)
    assert len(inputs.divide(ours).evaluation) == 1
    assert inputs.open_teacher(ours)[0] is not None


def test_command_line(tmp_path, published):
    path = golden.save_state(tmp_path / 'migan.pt', published)
    command = [sys.executable, tool.__file__, '--kind=migan', f'--checkpoint={path}']
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    result = subprocess.run(
        [*command, f'--out={tmp_path / "out"}'], capture_output=True, text=True,
        env=environment, check=True)
    assert '--config.init_from=' in result.stdout and 'discriminator' in result.stdout
    assert 'finetune256' in result.stdout and 'resolution=32' in result.stdout
    result = subprocess.run(
        [*command, f'--out={tmp_path / "other"}', '--resolution=512'],
        capture_output=True, text=True, env=environment)
    assert result.returncode == 1 and result.stdout == ''
    line, = result.stderr.strip().splitlines()
    assert line.startswith('error: --resolution=512')
    assert not (tmp_path / 'other').exists()


def test_a_missing_pytorch_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, 'migan_jax.data.torch_files')
    # An attribute of the package would be found without importing.
    monkeypatch.delattr(migan_jax.data, 'torch_files')
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(extras.MissingExtra, match=r'a\.pt needs the package torch, '
                                                  r'which is not .*\[export\]'):
        tool.convert(tmp_path / 'a.pt', 'migan')
