"""Weight files: where they are looked for, hashes, and loading into both networks."""

import hashlib
import importlib.util
import os

import numpy as np
import pytest
import torch

from migan_jax.data.torch_files import read_tensors
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation.metrics import weights
from migan_jax.evaluation import networks as networks_lib
from migan_jax.weights import fetching
from migan_jax.weights import table
from inception_test import random_tensors as inception_tensors
from lpips_test import random_tensors as lpips_tensors
import loopback


def write(folder, name, content):
    """Writes a file; returns the `File` that describes it."""
    path = os.path.join(folder, name)
    with open(path, 'wb') as f:
        f.write(content)
    return table.File(
        name, f'sha256:{hashlib.sha256(content).hexdigest()}', len(content))


def test_first_file_that_is_there(tmp_path):
    a = write(tmp_path, 'a.pth', b'one')
    b = table.File('b.pth', 'sha256:' + '0' * 64, 9)
    found = weights.find((b, a), str(tmp_path))
    assert found == (str(tmp_path / 'a.pth'), a.sha256)
    # Of some files only the start of the hash is published.
    short = a._replace(digest=f'sha256:{a.sha256[:8]}')
    assert weights.find((short,), str(tmp_path)) == found


def test_cache_folder_of_the_environment(tmp_path, monkeypatch):
    a = write(tmp_path, 'a.pth', b'one')
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path))
    assert weights.find((a,)).path == str(tmp_path / 'a.pth')
    monkeypatch.delenv(fetching.CACHE_VARIABLE)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert fetching.cache_folder() == str(tmp_path / '.cache' / 'migan_jax')


def test_file_inside_an_installed_package_that_is_not_imported(tmp_path, monkeypatch):
    package = tmp_path / 'carrier_of_weights'
    (package / 'weights').mkdir(parents=True)
    (package / '__init__.py').write_text('raise RuntimeError("imported")')
    a = write(package / 'weights', 'a.pth', b'one')
    monkeypatch.syspath_prepend(str(tmp_path))
    a = a._replace(package='carrier_of_weights/weights')
    assert weights.find((a,), str(tmp_path)).path.endswith('weights/a.pth')
    with pytest.raises(weights.MissingWeights, match="install .*'no_such_package'"):
        weights.find((a._replace(package='no_such_package/weights'),), str(tmp_path))


def test_missing_file_says_which_and_where(tmp_path):
    with pytest.raises(weights.MissingWeights) as error:
        weights.find(weights.INCEPTIONS['paper'], str(tmp_path))
    for text in ('pt_inception-2015-12-05-6726825d.pth (95,628,359 bytes, sha256 '
                 '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2)',
                 'or inception-2015-12-05.pt (95,607,719 bytes', str(tmp_path),
                 'MIGAN_JAX_CACHE'):
        assert text in str(error.value)


def test_wrong_hash_is_an_error_not_an_absence(tmp_path):
    (tmp_path / table.LPIPS_LINEAR.name).write_bytes(b'not it')
    with pytest.raises(weights.WrongWeights, match='alex.pth: sha256 is .*6 bytes'):
        weights.find((table.LPIPS_LINEAR,), str(tmp_path))
    # Also where a second, absent candidate follows, and through the loader.
    (tmp_path / table.PT_INCEPTION.name).write_bytes(b'truncated')
    with pytest.raises(weights.WrongWeights, match='damaged or another one'):
        networks_lib.load_networks(inception.PAPER, str(tmp_path))


def test_protocols_prefer_the_file_they_were_published_with():
    assert weights.INCEPTIONS['paper'][0].name.startswith('pt_inception')
    assert weights.INCEPTIONS['stylegan'][0].name == 'inception-2015-12-05.pt'
    assert set(weights.INCEPTIONS) == set(inception.PROTOCOLS)
    for file in table.ALEXNETS:   # the published name carries the hash's start
        assert file.sha256 in file.name


def publish(folder, tensors, file):
    """Stores tensors under a published name, whose hash is made to fit."""
    path = os.path.join(folder, file.name)
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}, path)
    with open(path, 'rb') as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    return file._replace(digest=f'sha256:{digest}', size=None)


def test_nothing_there_leaves_everything_out(tmp_path):
    loaded = networks_lib.load_networks(inception.PAPER, str(tmp_path))
    assert loaded.networks == (None, None) and loaded.files == {}
    assert set(loaded.missing) == {'fid', 'p_ids', 'u_ids', 'lpips'}
    assert loaded.missing['fid'].startswith('FID, P-IDS, U-IDS left out: put pt_incept')
    sentence = loaded.missing['lpips']
    assert 'alexnet-owt-7be5be79.pth' in sentence
    # The linear layers are missing where the package that carries them is.
    carried = importlib.util.find_spec('lpips') is not None
    assert ('alex.pth (6,009' in sentence) != carried
    # What isn't wanted is not missed.
    loaded = networks_lib.load_networks(
        inception.PAPER, str(tmp_path), ('psnr', 'lpips'))
    assert set(loaded.missing) == {'lpips'}


def test_files_become_networks(tmp_path, monkeypatch):
    folder = str(tmp_path)
    file = publish(folder, inception_tensors(), table.PT_INCEPTION)
    monkeypatch.setattr(weights, 'INCEPTIONS', {'paper': (file,)})
    trunk, linear = lpips_tensors()
    alexnet = publish(folder, trunk, table.ALEXNETS[0])
    lines = publish(folder, linear, table.LPIPS_LINEAR)
    monkeypatch.setattr(table, 'ALEXNETS', (alexnet,))
    monkeypatch.setattr(table, 'LPIPS_LINEAR', lines)
    loaded = networks_lib.load_networks(inception.PAPER, folder)
    assert loaded.missing == {}
    assert loaded.files == {f.name: f.sha256 for f in (file, alexnet, lines)}
    want = inception.from_tensors(inception_tensors())
    np.testing.assert_array_equal(
        loaded.networks.inception['Mixed_7c.branch_pool']['kernel'],
        want['Mixed_7c.branch_pool']['kernel'])
    np.testing.assert_array_equal(
        loaded.networks.lpips['lin3'], linear['lin3.model.1.weight'].ravel())
    # A file of the right hash with other content names itself.
    bad = publish(folder, {'x': np.zeros(2)}, table.PT_INCEPTION)
    monkeypatch.setattr(weights, 'INCEPTIONS', {'paper': (bad,)})
    with pytest.raises(ValueError, match='pt_inception.*not the weights of the FID'):
        networks_lib.load_networks(inception.PAPER, folder, ('fid',))


class Holder(torch.nn.Module):
    """A module with nothing but what is put into it."""

    def forward(self):
        return 0


def test_torchscript_file_with_the_graphs_names(tmp_path):
    tensors = inception_tensors()
    root = Holder()
    for layer in inception.LAYERS:
        module = root
        for name in ('layers', *layer.other_name.split('.')):
            if not hasattr(module, name):
                module.add_module(name, Holder())
            module = getattr(module, name)
        for name, part in (('weight', 'conv.weight'), ('beta', 'bn.bias'),
                           ('mean', 'bn.running_mean'), ('var', 'bn.running_var')):
            value = torch.from_numpy(tensors[f'{layer.name}.{part}'])
            module.register_buffer(name, value)
    path = str(tmp_path / 'inception.pt')
    torch.jit.script(root).save(path)
    read = read_tensors(path)
    assert len(read) == 4 * 94
    got = inception.from_tensors(read, path)
    ones = {k: np.ones_like(v) if k.endswith('bn.weight') else v
            for k, v in tensors.items()}
    want = inception.from_tensors(ones)
    for name in ('Conv2d_4a_3x3', 'Mixed_6d.branch7x7dbl_4',
                 'Mixed_7b.branch3x3dbl_3a'):
        np.testing.assert_array_equal(got[name]['kernel'], want[name]['kernel'])
        np.testing.assert_array_equal(got[name]['bias'], want[name]['bias'])


def test_absent_files_are_downloaded_only_when_asked(tmp_path):
    content = b'tensors'
    with loopback.serving() as site:
        file = site.file('a.pth', content, size=len(content),
                         digest=f'sha256:{hashlib.sha256(content).hexdigest()}')
        other = file._replace(name='b.pth', url=f'{site.address}/b.pth')
        with pytest.raises(weights.MissingWeights):
            weights.find((file, other), str(tmp_path))
        assert site.asked == []
        found = weights.find((file, other), str(tmp_path), fetch=True)
        assert found == (str(tmp_path / 'a.pth'), file.sha256)
        with pytest.raises(fetching.FetchError, match='answers 404'):
            weights.find((other,), str(tmp_path), fetch=True)
        assert site.asked == ['/a.pth', '/b.pth']
