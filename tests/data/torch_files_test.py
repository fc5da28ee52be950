"""Reading tensors of PyTorch files; pickled code never runs."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from faults import Touches
from migan_jax.data import torch_files

TENSORS = {
    'a.weight': torch.arange(6.).reshape(2, 3), 'a.bias': torch.tensor([1.5, -2.0]),
    'steps': torch.tensor(7),
}


class Model(torch.nn.Module):
    """Two layers, one attribute of every kind that archives hold."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(3, 2, 1)
        self.register_buffer('small', torch.full((2, 2), 0.5, dtype=torch.float16))
        self.register_buffer('view', torch.arange(12.).reshape(3, 4).t()[1:])
        self.register_buffer('unsaved', torch.ones(3), persistent=False)
        self.sizes = [1, 2]
        self.scale = 2.0

    def forward(self, x):
        y = self.inner(x) * self.small.float().sum() + self.unsaved.sum()
        return y + self.view.sum() * self.scale


def read_error(path):
    with pytest.raises(torch_files.TorchFileError) as caught:
        torch_files.read_tensors(path)
    message = str(caught.value)
    assert str(path) in message and '\n' not in message
    return message


def assert_equal_tensors(actual, expected):
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(actual[name], tensor.detach().numpy())
        assert actual[name].shape == tuple(tensor.shape)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('wrap', [
    lambda state: state,
    lambda state: {'state_dict': state, 'epoch': 3, 'lr': [0.1, 0.2]},
    lambda state: {'G': {'other': torch.zeros(1)}, 'G_ema': state},
])
def test_state_dicts(tmp_path, zipped, wrap):
    path = tmp_path / 'model.pt'
    torch.save(wrap(TENSORS), path, _use_new_zipfile_serialization=zipped)
    assert_equal_tensors(torch_files.read_tensors(path), TENSORS)


def test_parameters_and_views_of_a_model(tmp_path):
    model = Model()
    torch.save(model.state_dict(), tmp_path / 'model.pt')
    torch.save(dict(model.named_parameters()), tmp_path / 'parameters.pt')
    state = {k: v.float() for k, v in model.state_dict().items()}
    assert_equal_tensors(torch_files.read_tensors(tmp_path / 'model.pt'), state)
    assert_equal_tensors(torch_files.read_tensors(tmp_path / 'parameters.pt'),
                         dict(model.named_parameters()))


def test_safetensors_with_and_without_the_suffix(tmp_path):
    state = {**TENSORS, 'brain': torch.tensor([1.0, 0.5], dtype=torch.bfloat16)}
    for name in ('model.safetensors', 'model.bin'):
        safetensors.torch.save_file(state, tmp_path / name)
        arrays = torch_files.read_tensors(tmp_path / name)
        assert_equal_tensors(arrays, {**TENSORS, 'brain': torch.tensor([1.0, 0.5])})
        assert arrays['brain'].dtype == np.float32


@pytest.mark.parametrize('compile_model', [
    lambda model: torch.jit.trace(model, torch.ones(1, 3, 2, 2)), torch.jit.script])
def test_torchscript(tmp_path, compile_model):
    model = Model()
    path = tmp_path / 'traced.pt'
    compile_model(model).save(path, _extra_files={'about.json': '{}'})
    expected = {k: v.float() for k, v in model.state_dict().items()}
    # An archive holds buffers that a state dict leaves out, too.
    expected['unsaved'] = torch.ones(3)
    read = torch_files.read_file(path)
    assert_equal_tensors(read.tensors, expected)
    assert read.kind == 'TorchScript archive'
    assert read.tensors['small'].dtype == np.float32


def test_frozen_torchscript_has_no_names(tmp_path):
    traced = torch.jit.trace(Model().eval(), torch.ones(1, 3, 2, 2))
    torch.jit.freeze(traced).save(tmp_path / 'frozen.pt')
    assert 'before freezing' in read_error(tmp_path / 'frozen.pt')


# Hostile files.


def torchscript_with(path, data):
    """A TorchScript archive whose data.pkl is replaced."""
    source = io.BytesIO()
    torch.jit.save(torch.jit.trace(Model(), torch.ones(1, 3, 2, 2)), source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith('/data.pkl') else old.read(name))


def save_state_dict(target, payload):
    torch.save({**TENSORS, 'x': payload}, target)


def save_legacy(target, payload):
    torch.save({**TENSORS, 'x': payload}, target, _use_new_zipfile_serialization=False)


def save_pickle(target, payload):
    target.write_bytes(pickle.dumps({'x': payload}))


def save_old_pickle(target, payload):
    target.write_bytes(pickle.dumps({'x': payload}, protocol=0))


def save_torchscript(target, payload):
    torchscript_with(target, pickle.dumps(payload, protocol=2))


@pytest.mark.parametrize('save', [
    save_state_dict, save_legacy, save_pickle, save_old_pickle, save_torchscript])
def test_pickled_code_is_refused_and_does_not_run(tmp_path, save):
    path, created = tmp_path / 'model.pt', tmp_path / 'created'
    save(path, Touches(created))
    message = read_error(path)
    assert not created.exists()
    assert 'refused' in message or save is save_old_pickle
    # The payload is live: an unguarded unpickler runs it.
    pickle.loads(pickle.dumps(Touches(created)))
    assert created.exists()


@pytest.mark.parametrize('name', [
    b'cbuiltins\neval\n', b'cos\nsystem\n', b'ctorch.hub\nload\n', b'cpickle\nloads\n'])
def test_torchscript_reaches_no_function(tmp_path, name):
    torchscript_with(tmp_path / 'model.pt', b'\x80\x02' + name + b'.')
    assert 'refused' in read_error(tmp_path / 'model.pt')


def test_torchscript_that_unfolds_to_many_attributes(tmp_path):
    # Thirty levels that hold the level below twice.
    level = b'c__torch__.M\nM\n)\x81q\x00'
    data = b'\x80\x02' + level
    for _ in range(30):
        data += b'q\x010c__torch__.M\nM\n)\x81}('
        data += b'X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01ub'
    torchscript_with(tmp_path / 'model.pt', data + b'.')
    assert 'attributes' in read_error(tmp_path / 'model.pt')


def test_view_larger_than_its_storage(tmp_path):
    torch.save({'w': torch.zeros(1).expand(1000, 1000)}, tmp_path / 'model.pt')
    assert 'more numbers than are stored' in read_error(tmp_path / 'model.pt')


# Files that are something else, or damaged.


@pytest.mark.parametrize('content, expected', [
    (b'', 'is empty'),
    (b'\x89PNG\r\n\x1a\n' + bytes(64), 'no PyTorch'),
    (b'<!DOCTYPE html><html><body>Sign in</body></html>', 'download'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'LFS'),
    (b'\x80\x02}q\x00.', 'truncated or no PyTorch file'),
    (b'\x40\x00\x00\x00\x00\x00\x00\x00{"a": ', 'safetensors'),
])
def test_other_files(tmp_path, content, expected):
    path = tmp_path / 'model.pt'
    path.write_bytes(content)
    assert expected in read_error(path)


def test_missing_file_directory_and_other_zip(tmp_path):
    assert 'does not exist' in read_error(tmp_path / 'missing.pt')
    assert 'is a directory' in read_error(tmp_path)
    np.savez(tmp_path / 'arrays.npz', a=np.zeros(3))
    assert 'no data.pkl: a.npy' in read_error(tmp_path / 'arrays.npz')


def save_zip(path):
    torch.save(TENSORS, path)


def save_unzipped(path):
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


def save_traced(path):
    torch.jit.trace(Model(), torch.ones(1, 3, 2, 2)).save(path)


def save_safetensors(path):
    safetensors.torch.save_file(TENSORS, path)


@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
@pytest.mark.parametrize('save', [
    save_zip, save_unzipped, save_traced, save_safetensors])
def test_truncated_files(tmp_path, save, share):
    path = tmp_path / 'model.safetensors' if save is save_safetensors else (
        tmp_path / 'model.pt')
    save(path)
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    message = read_error(path)
    assert 'truncated' in message or 'damaged' in message


@pytest.mark.parametrize('content, expected', [
    ({'w': torch.zeros(2), 'epoch': 3}, "'epoch': a int"),
    (torch.zeros(3), 'a torch.strided torch.float32 tensor'),
    ([torch.zeros(3)], 'a list'),
    ({}, 'nothing in it'),
    ({'x': {'w': torch.zeros(1)}, 'y': {'w': torch.zeros(1)}},
     'several state dicts: x, y'),
    ({'w': torch.zeros(3).to_sparse()}, 'w is no plain tensor'),
    ({'w': torch.zeros(3, dtype=torch.complex64)}, 'w is no plain tensor'),
    ({'w': torch.zeros(3, device='meta')}, 'w is no plain tensor'),
])
def test_content_that_is_no_state_dict(tmp_path, content, expected):
    torch.save(content, tmp_path / 'model.pt')
    assert expected in read_error(tmp_path / 'model.pt')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_nonfinite_weights_are_listed(tmp_path, dtype):
    state = {'good': torch.zeros(3, dtype=dtype)}
    state['nan.weight'] = torch.tensor([0.0, float('nan')], dtype=dtype)
    state['inf.weight'] = torch.tensor([0.0, -float('inf')], dtype=dtype)
    torch.save(state, tmp_path / 'model.pt')
    message = read_error(tmp_path / 'model.pt')
    assert '2 tensors' in message and 'inf.weight, nan.weight.' in message
    assert 'good' not in message
