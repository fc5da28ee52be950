"""tools/prepare_metrics.py, its file, and evaluation during training with it."""

import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

from absl import logging
import jax
import numpy as np
import pytest
import torch

from inception_test import random_tensors as inception_tensors
from lpips_test import random_tensors as lpips_tensors
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation.metrics import lpips
from migan_jax.evaluation.metrics import weights
from migan_jax.evaluation import networks as networks_lib
from migan_jax.training import inputs
from migan_jax.training import loop
from migan_jax.weights import table
from tiny import tiny_config
import prepare_metrics as tool



def random_networks():
    """`Loaded` with arrays of the right shapes in both networks."""
    rng = np.random.default_rng(0)
    networks = jax.tree.map(lambda x: rng.random(x.shape, np.float32),
                            networks_lib.abstract_networks())
    return networks_lib.Loaded(networks, {'a.pth': 'ab', 'b.pth': 'cd'}, {})


def only_lpips():
    """`Loaded` with an LPIPS whose distances are those of a random network."""
    return networks_lib.Loaded(
        networks_lib.Networks(lpips=lpips.from_tensors(*lpips_tensors())),
        {'alex.pth': 'ab'}, {'fid': 'FID left out: put it there'})


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """A file with both networks, and what is in it."""
    path = str(tmp_path_factory.mktemp('networks') / 'networks.npz')
    loaded = random_networks()
    networks_lib.write_networks(path, inception.STYLEGAN, loaded)
    return path, loaded


def test_file_gives_back_networks_protocol_and_sources(complete):
    path, loaded = complete
    protocol, read = networks_lib.read_networks(path)
    assert protocol == inception.STYLEGAN
    assert (read.files, read.missing) == (loaded.files, loaded.missing)
    assert jax.tree.structure(read.networks) == jax.tree.structure(loaded.networks)
    jax.tree.map(np.testing.assert_array_equal, read.networks, loaded.networks)
    # Plain arrays under their flat names, readable without this project.
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file['about']))['files'] == loaded.files
        assert file['inception/Mixed_5b.branch1x1/kernel'].shape == (1, 1, 192, 64)
        assert file['lpips/lin0'].shape == (64,)


def test_networks_read_from_weight_files_have_the_abstract_shapes():
    read = networks_lib.Networks(inception.from_tensors(inception_tensors()),
                            lpips.from_tensors(*lpips_tensors()))
    shapes = lambda networks: jax.tree.map(np.shape, networks)
    assert shapes(read) == shapes(networks_lib.abstract_networks())


def test_missing_network_stays_missing(tmp_path):
    path = str(tmp_path / 'n.npz')
    loaded = only_lpips()
    networks_lib.write_networks(path, inception.PAPER, loaded)
    _, read = networks_lib.read_networks(path)
    assert read.networks.inception is None and read.missing == loaded.missing
    np.testing.assert_array_equal(
        read.networks.lpips['lin4'], loaded.networks.lpips['lin4'])


def test_other_files_are_refused(complete, tmp_path):
    def refused(path, *words):
        with pytest.raises(ValueError) as error:
            networks_lib.read_networks(str(path))
        for word in (str(path), *words):
            assert word in str(error.value)

    refused(tmp_path / 'absent.npz', 'no such file', 'prepare_metrics')
    refused(tmp_path, 'no such file')
    expects = 'expected a file written by tools/prepare_metrics.py'
    for name, content in (('empty', b''), ('text', b'no archive'),
                          ('cut', pathlib.Path(complete[0]).read_bytes()[:5000])):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, expects)
    np.save(tmp_path / 'array.npy', np.zeros(3))
    refused(tmp_path / 'array.npy', expects)
    with zipfile.ZipFile(tmp_path / 'zip.npz', 'w') as archive:
        archive.writestr('about', 'hello')
    refused(tmp_path / 'zip.npz', expects)

    about = {'format': 'migan_jax metric networks, version 1', 'protocol': 'paper',
             'files': {}, 'missing': {}}
    flat = {name: value for name, value in np.load(complete[0]).items()
            if name.startswith('lpips/')}
    for key, value, word in (('format', 'other 2', 'other 2'),
                             ('protocol', 'mine', 'mine')):
        np.savez(tmp_path / 'n.npz', about=json.dumps(about | {key: value}), **flat)
        refused(tmp_path / 'n.npz', expects, word)
    np.savez(tmp_path / 'n.npz', **flat)
    refused(tmp_path / 'n.npz', expects, 'about')
    np.savez(tmp_path / 'n.npz', about=json.dumps(about), pickled=np.array([{}]))
    refused(tmp_path / 'n.npz', expects)

    def written(arrays):
        np.savez(tmp_path / 'n.npz', about=json.dumps(about), **arrays)
        return tmp_path / 'n.npz'

    refused(written({}), 'no network')
    refused(written(flat | {'lpips/lin0': flat['lpips/lin0'].astype(np.float64)}),
            'lpips/lin0 float64')
    refused(written(flat | {'lpips/lin0': np.zeros(3, np.float32)}),
            'lpips/lin0', '(64,)', '(3,)')
    refused(written({k: v for k, v in flat.items() if k != 'lpips/lin0'}
                    | {'vgg/x': np.zeros(1, np.float32)}), 'lpips/lin0', 'vgg/x')
    refused(written({'lpips': np.zeros(1, np.float32)}), 'lpips/lin0')


def test_tool_reads_published_files_once(tmp_path, monkeypatch):
    trunk, linear = lpips_tensors()
    files = []
    for tensors, file in ((trunk, table.ALEXNETS[0]), (linear, table.LPIPS_LINEAR)):
        path = tmp_path / file.name
        torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(file._replace(digest=f'sha256:{digest}', size=None))
    monkeypatch.setattr(table, 'ALEXNETS', files[:1])
    monkeypatch.setattr(table, 'LPIPS_LINEAR', files[1])
    out = tmp_path / 'new' / 'networks.npz'
    loaded = tool.run(str(out), str(tmp_path), 'stylegan')
    assert set(loaded.missing) == {'fid'}
    assert 'put inception-2015-12-05.pt' in loaded.missing['fid']
    protocol, read = networks_lib.read_networks(str(out))
    assert protocol == inception.STYLEGAN and read.missing == loaded.missing
    assert read.files == {file.name: file.sha256 for file in files}
    np.testing.assert_array_equal(
        read.networks.lpips['lin3'], linear['lin3.model.1.weight'].ravel())
    assert [p.name for p in out.parent.iterdir()] == ['networks.npz']

    # A damaged file is an error, and leaves what was written before.
    before = out.read_bytes()
    (tmp_path / files[1].name).write_bytes(b'damaged')
    with pytest.raises(weights.WrongWeights, match='alex.pth'):
        tool.run(str(out), str(tmp_path))
    assert out.read_bytes() == before


def test_nothing_found_is_an_error_and_writes_nothing(tmp_path):
    out = tmp_path / 'new' / 'networks.npz'
    done = subprocess.run(
        [sys.executable, tool.__file__, f'--weights={tmp_path}', f'--out={out}'],
        capture_output=True, text=True)
    assert done.returncode == 1 and not out.parent.exists()
    lines = done.stderr.splitlines()
    assert all(line.startswith('error: ') for line in lines)
    assert 'FID left out: put pt_inception' in lines[1]
    assert 'LPIPS left out: put alexnet' in lines[2] and len(lines) == 3


def messages(monkeypatch):
    """What is logged from now on."""
    lines = []
    monkeypatch.setattr(logging, 'info', lambda text, *values: lines.append(
        text % values if values else str(text)))
    return lines


def test_training_measures_lpips_and_keeps_the_best_by_it(tmp_path, monkeypatch):
    # Instead of AlexNet, for which the model would have to be larger.
    monkeypatch.setattr(lpips, 'MIN_SIDE', 16)
    monkeypatch.setattr(lpips, 'lpips', lambda params, a, b: (
        jax.numpy.mean(abs(a - b), (1, 2, 3)) * params['lin0'][7]))
    weight = only_lpips().networks.lpips['lin0'][7]
    path = str(tmp_path / 'networks.npz')
    networks_lib.write_networks(path, inception.PAPER, only_lpips())
    workdir = str(tmp_path / 'run')

    def config(steps):
        config = tiny_config(steps)
        config.eval.networks, config.eval.every_kimg = path, 8 / 1000
        config.eval.best_metric, config.eval.best_mode = 'lpips', 'min'
        config.checkpoint.keep_last = 1
        return config

    lines = messages(monkeypatch)
    first = loop.train(config(2), workdir)
    (line,) = [line for line in lines if 'FID left out' in line]
    assert 'FID left out: 10 images are too few' in line
    assert not [line for line in lines if 'LPIPS left out' in line]
    assert 'fid' not in first
    # The distance is the L1 of the whole picture, so about that of its holes.
    share = first['hole_l1'] * first['hole_share'] * weight
    assert 0.5 * share < first['lpips'] < 2 * share
    last = loop.train(config(4), workdir)

    _, manager, best = checkpoint_lib.open_checkpoint(workdir)
    measured = {step: manager.metrics(step)['lpips'] for step in manager.all_steps()}
    manager.close()
    assert measured[4] == pytest.approx(last['lpips'])
    assert measured[best] == min(measured.values()) <= first['lpips']
    # The evaluation of a finished run reads the file as well.
    assert loop.train(config(4), workdir)['lpips'] == pytest.approx(last['lpips'])


def test_left_out_networks_are_not_carried_along(complete):
    config = tiny_config(1)
    config.eval.networks = complete[0]
    networks, protocol, left_out = inputs.open_networks(config, 2048)
    assert networks == (None, None) and protocol == inception.STYLEGAN
    assert left_out['fid'].startswith('FID left out: 2048 images are too few')
    assert left_out['lpips'].startswith('LPIPS left out: 16 x 16 pixels')
    config.model.resolution = 32
    networks, _, left_out = inputs.open_networks(config, 2049)
    assert None not in networks and left_out == {}
    config.eval.best_metric, config.eval.best_mode = 'fid', 'min'
    inputs.check_best_metric(config, networks, left_out)


@pytest.mark.parametrize('metric, mode, words', [
    ('hole_pnsr', 'max', ["is 'hole_pnsr'", "one of '', hole_psnr, psnr", 'ssim,']),
    ('fid', 'min', ["is 'fid'", 'ssim. FID and LPIPS left out', 'prepare_metrics']),
    ('lpips', 'min', ["is 'lpips'", 'config.eval.networks is empty']),
    ('hole_l1', 'max', ["eval.best_mode is 'max'; expected 'min'"]),
    ('ssim', 'highest', ["eval.best_mode is 'highest'; expected one of max, min."]),
])
def test_best_metric_that_will_not_be_there_is_refused(tmp_path, metric, mode, words):
    config = tiny_config(1)
    config.eval.best_metric, config.eval.best_mode = metric, mode
    with pytest.raises(ValueError) as error:
        loop.train(config, str(tmp_path / 'run'))
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_networks_that_cannot_be_used_stop_before_anything_is_written(
        complete, tmp_path):
    config = tiny_config(1)
    config.eval.networks = str(tmp_path / 'absent.npz')
    with pytest.raises(ValueError, match='absent.npz: no such file'):
        loop.train(config, str(tmp_path / 'run'))
    # Ten images are too few for the FID that these networks could give.
    config.eval.networks = complete[0]
    config.eval.best_metric, config.eval.best_mode = 'fid', 'min'
    with pytest.raises(ValueError, match='10 images are too few for FID'):
        loop.train(config, str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()
