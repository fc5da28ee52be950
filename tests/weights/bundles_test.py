"""Folders of saved models: exact, complete or refused, no paths in them."""

import copy
import functools
import json
import os
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

from migan_jax.configs import default
from migan_jax.weights import bundles
from migan_jax.weights import importing
from tiny import random_deployed
from tiny import tiny_config

CARD = bundles.Card(
    name='Small | one', data='seven photographs', licence='CC0-1.0', step=1200,
    metrics={'hole_psnr': 20.31}, source='tests', remarks='Soft shapes only.')


@functools.cache
def model(kind='migan'):
    config = tiny_config(1, kind)
    with config.unlocked():
        config.data.path = '/home/somebody/private'
    return config, random_deployed(config)


def saved(folder, kind='migan', **options):
    config, variables = model(kind)
    bundles.save_bundle(folder, config, variables, CARD, **options)
    return config, variables


@pytest.mark.parametrize('kind', ['migan', 'comodgan'])
def test_comes_back_bit_for_bit(tmp_path, kind):
    config, variables = saved(tmp_path / 'made' / 'model', kind)
    bundle = bundles.load_bundle(tmp_path / 'made' / 'model')
    jax.tree.map(np.testing.assert_array_equal, bundle.variables, variables)
    assert bundle.config.model.to_dict() == config.model.to_dict()
    assert bundle.config.mask.brush_width == [1, 4]        # JSON has only lists
    assert bundle.config.deployed and bundle.card == CARD and not bundle.half
    assert os.listdir(tmp_path / 'made') == ['model']


@pytest.mark.parametrize('passes', [0, 8])
def test_a_starting_fill_comes_back_with_its_passes(tmp_path, passes):
    config, variables = model()
    config = copy.deepcopy(config)
    config.model.fill, config.model.fill_passes = True, passes
    bundles.save_bundle(tmp_path / 'model', config, variables, CARD, half=True)
    model_of = bundles.load_bundle(tmp_path / 'model').config.model
    assert model_of.fill and model_of.fill_passes == passes
    # The weights were trained on that many: a config with others would paint else.
    path = tmp_path / 'model' / bundles.CONFIG
    path.write_text(path.read_text().replace(
        f'"fill_passes": {passes}', '"fill_passes": 3'))
    with pytest.raises(bundles.BundleError, match='do not agree on a starting fill'):
        bundles.load_bundle(tmp_path / 'model')


def test_half_is_half_the_size_and_says_so(tmp_path):
    _, variables = saved(tmp_path / 'whole')
    saved(tmp_path / 'half', half=True)
    size = lambda name: (tmp_path / name / bundles.WEIGHTS).stat().st_size
    assert size('half') < 0.75 * size('whole')
    bundle = bundles.load_bundle(tmp_path / 'half')
    assert bundle.half
    for got, expected in zip(jax.tree.leaves(bundle.variables),
                             jax.tree.leaves(variables)):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.float32(np.float16(expected)))
    assert 'float16' in (tmp_path / 'half' / bundles.CARD).read_text()


def test_card_says_what_people_ask(tmp_path):
    saved(tmp_path / 'model')
    text = (tmp_path / 'model' / bundles.CARD).read_text()
    for part in ('license: "cc0-1.0"', '# Small | one', 'seven photographs', '1,200',
                 '| hole_psnr | 20.31 |', '1 (255, white) = known',
                 'Soft shapes only.'):
        assert part in text
    assert text.startswith('---\n') and text.count('\n---\n') == 1


def test_card_names_the_data_that_a_training_has_read():
    config = default.get_config()
    card = lambda **fields: bundles.card_of(changed(config, **fields)).data
    assert card(source='folder', path='/home/somebody/seven photographs') == 'not said'
    assert card(source='zip', path='a.zip') == 'not said'
    assert card(source='embedded').startswith('the photographs that scikit-image')
    named = 'places365_small, a set of TensorFlow Datasets'
    assert card(source='tfds', name='places365_small', path='gs://mine') == named
    # What a generator was trained on before, this config does not know.
    config.init_from = '/home/somebody/places2'
    assert card(source='tfds', name='places365_small') == (
        f'{named}, from weights that were trained before')
    config.unlock()
    config.deployed = True
    assert card(source='embedded') == 'not said'


def changed(config, **fields):
    config = copy.deepcopy(config)
    config.data.update(fields)
    return config


def test_no_path_of_the_training_leaves_the_machine(tmp_path):
    saved(tmp_path / 'model')
    assert not any(b'somebody' in path.read_bytes()
                   for path in (tmp_path / 'model').iterdir())


def test_tensors_have_published_names(tmp_path):
    """The file alone is what from_torch reads, and what PyTorch programs expect."""
    config, variables = saved(tmp_path / 'model')
    path = tmp_path / 'model' / bundles.WEIGHTS
    read, back, _ = importing.convert(path)
    assert read.model.resolution == config.model.resolution
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    from safetensors.torch import load_file
    weight = load_file(path)['encoder.b16.conv1.conv1.weight']
    assert weight.shape == (4, 1, 3, 3) and weight.dtype == torch.float32


@pytest.mark.parametrize('change, expected', [
    (lambda d: (d / 'model.safetensors').unlink(), 'model.safetensors can not be read'),
    (lambda d: (d / 'config.json').unlink(), 'config.json is missing'),
    (lambda d: (d / 'config.json').write_text('[]'), 'does not describe a model'),
    (lambda d: (d / 'config.json').write_text('[' * 100_000), 'does not describe'),
    (lambda d: truncate(d / 'model.safetensors'), 'truncated'),
    (lambda d: edit(d, 'resolution', 32), "resolution: '16', expected '32'"),
    (lambda d: edit(d, 'ch_max', 4), 'expected'),
    (lambda d: edit(d, 'kind', 'comodgan'), "model: 'MI-GAN', expected 'Co-Mod-GAN'"),
    (lambda d: edit(d, 'kind', 'other'), 'does not describe a model'),
    (lambda d: edit(d, 'step', 'many', 'card'), 'another type'),
    (lambda d: edit(d, 'step', 7, 'card'), "step: '1200', expected '7'"),
    (lambda d: reweigh(d, np.nan), 'NaN or infinite'),
    (lambda d: reweigh(d, 1, np.float64), 'float64'),
])
def test_what_does_not_fit_is_refused(tmp_path, whole, change, expected):
    shutil.copytree(whole, tmp_path / 'model')
    change(tmp_path / 'model')
    with pytest.raises(bundles.BundleError) as caught:
        bundles.load_bundle(tmp_path / 'model')
    assert expected in str(caught.value) and '\n' not in str(caught.value)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole') / 'model'
    saved(folder)
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def edit(folder, field, value, section='model'):
    path = folder / bundles.CONFIG
    stored = json.loads(path.read_text())
    stored[section][field] = value
    path.write_text(json.dumps(stored))


def reweigh(folder, factor, dtype=np.float32):
    path = folder / bundles.WEIGHTS
    with bundles.safetensors.safe_open(path, framework='numpy') as file:
        metadata = file.metadata()
    tensors = {name: np.asarray(array * factor, dtype) for name, array in
               safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(tensors, path, metadata)


def test_places_that_are_taken(tmp_path):
    saved(tmp_path / 'model')
    with pytest.raises(bundles.BundleError, match='holds a saved model'):
        saved(tmp_path / 'model')
    saved(tmp_path / 'model', overwrite=True)
    (tmp_path / 'model' / 'photo.jpg').write_text('mine')
    with pytest.raises(bundles.BundleError, match='photo.jpg'):
        saved(tmp_path / 'model', overwrite=True)
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(bundles.BundleError, match='is a file'):
        saved(tmp_path / 'file')


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    _, variables = saved(tmp_path / 'model')
    write = bundles.pathlib.Path.write_bytes

    def full(path, data):
        if path.name == bundles.CONFIG:
            raise OSError(28, 'No space left on device')
        return write(path, data)
    monkeypatch.setattr(bundles.pathlib.Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space'):
        saved(tmp_path / 'model', overwrite=True)
    assert os.listdir(tmp_path) == ['model']
    back = bundles.load_bundle(tmp_path / 'model').variables
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_values_that_float16_can_not_hold(tmp_path):
    config, variables = model()
    variables = copy.deepcopy(variables)
    variables['params']['decoder']['b4']['torgb']['bias'] += np.float32(1e6)
    with pytest.raises(bundles.BundleError, match='torgb.bias.*without half'):
        bundles.save_bundle(tmp_path / 'model', config, variables, half=True)
    assert not os.listdir(tmp_path)


def test_weights_of_another_config(tmp_path):
    config, _ = model()
    other = random_deployed(tiny_config(1, 'comodgan'))
    with pytest.raises(ValueError, match='the parameters have no'):
        bundles.save_bundle(tmp_path / 'model', config, other)
