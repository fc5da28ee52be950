"""Which images are trained on and which are held out, by what a source has."""

import json
import zipfile

import numpy as np
from PIL import Image
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import images
from migan_jax.data import splits
from migan_jax.training import inputs
from configs import ffhq256
from configs import places256
from configs import places512
from configs import quickstart


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)


def config_of(path, module=quickstart, source='folder', seed=0):
    config = module.get_config()
    config.data.source, config.data.path, config.seed = source, str(path), seed
    return config


def cats_and_dogs(folder):
    write(folder, *(f'{kind}/{i:02d}.png' for kind in ('cats', 'dogs') for i in range(40)))


@pytest.mark.parametrize('module', [quickstart, places256, places512, ffhq256])
def test_any_config_takes_a_plain_folder(tmp_path, module, monkeypatch):
    cats_and_dogs(tmp_path)
    listed, walk = [], images.walk
    monkeypatch.setattr(images, 'walk', lambda path: listed.append(path) or walk(path))
    train, evaluation, how, held_out = inputs.divide(config_of(tmp_path, module))
    assert len(listed) == 1
    assert (len(train), len(evaluation)) == (76, 4)
    assert not set(train.names) & set(evaluation.names)
    assert held_out == evaluation.names == sorted(evaluation.names)
    assert held_out != [f'cats/{i:02d}.png' for i in range(4)]
    assert 'drawn by seed 0' in how


def test_the_seed_draws_what_is_held_out(tmp_path):
    cats_and_dogs(tmp_path)
    drawn = [inputs.divide(config_of(tmp_path, seed=seed)).held_out for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    config = config_of(tmp_path)
    config.data.held_out = 0.5
    half = inputs.divide(config).held_out
    # Of both kinds, whatever the order of their names.
    assert len(half) == 40 and {name[:4] for name in half} == {'cats', 'dogs'}


@pytest.mark.parametrize('names, expected', [
    (('train/a.png', 'val/b.png'), ('train', 'val')),
    (('Train/x/a.png', 'TEST/b.png'), ('Train', 'TEST')),
    (('mine/train/a.png', 'mine/test/b.png', 'mine/val/c.png'), ('mine/train', 'mine/val')),
    (('train/a.png', 'train/b.png'), None),
    (('train/a.png', 'other/b.png'), None),
    (('a.png', 'b.png'), None),
])
def test_sub_folders_that_are_understood(tmp_path, names, expected):
    assert splits.layout_of(sorted(names)) == expected
    write(tmp_path, *names)
    with zipfile.ZipFile(tmp_path / 'all.zip', 'w') as archive:
        for name in names:
            archive.write(tmp_path / name, name)
    for source, path in ('folder', tmp_path), ('zip', tmp_path / 'all.zip'):
        division = inputs.divide(config_of(path, places512, source))
        if expected is None:
            assert len(division.held_out) == 1
        else:
            assert division.held_out is None
            assert all(n.startswith(expected[0]) for n in division.train.names)
            assert all(n.startswith(expected[1]) for n in division.evaluation.names)


def test_one_named_split_leaves_the_rest(tmp_path, caplog):
    cats_and_dogs(tmp_path)
    config = config_of(tmp_path)
    config.data.eval_split = 'dogs'
    train, evaluation, *_ = inputs.divide(config)
    assert {name[:4] for name in train.names} == {'cats'} and len(evaluation) == 40
    config.data.eval_split, config.data.train_split = '', 'dogs'
    train, evaluation, *_ = inputs.divide(config)
    assert {n[:4] for n in train.names + evaluation.names} == {'dogs'}
    assert (len(train), len(evaluation)) == (38, 2)
    assert not caplog.text
    config.data.eval_split = 'dogs[:3]'
    inputs.divide(config)
    assert '3 of 3 evaluation images are trained on too' in caplog.text
    config.data.train_split, config.data.eval_split = '', '[:]'
    with pytest.raises(ValueError, match='none is left to train on'):
        inputs.divide(config)


class Tfds:
    """A data set of TFDS, as far as dividing it goes."""

    def __init__(self, sizes, split):
        self.sizes, self.split = sizes, split

    def __len__(self):
        return self.sizes[self.split]


@pytest.mark.parametrize('sizes, named, expected', [
    (dict(train=40, test=9, validation=8), ('', ''), ('train', 'validation')),
    (dict(train=40, test=9), ('', ''), ('train', 'test')),
    (dict(train=40, test=9), ('train[:9]', ''), ('train[:9]', 'test')),
    (dict(train=40, test=9), ('', 'train'), ('train', 'train')),
    (dict(train=40), ('', ''), ('train[2:]', 'train[:2]')),
    (dict(other=40), ('other', ''), ('other[2:]', 'other[:2]')),
])
def test_splits_of_tfds(sizes, named, expected):
    division = splits.divide(lambda split: Tfds(sizes, split), 'tfds',
                             train_split=named[0], eval_split=named[1])
    assert (division.train.split, division.evaluation.split) == expected


@pytest.mark.parametrize('sizes, train, message', [
    (dict(other=40), '', "no split train, but {'other': 40}"),
    (dict(train=1), '', 'at least two'),
    (dict(train=40), 'train[:9]', 'none of them for evaluation'),
])
def test_tfds_without_splits_to_take(sizes, train, message):
    with pytest.raises(ValueError, match=message):
        splits.divide(lambda split: Tfds(sizes, split), 'tfds', train_split=train)


def test_first_by_name_where_enough_are_left(tmp_path):
    cats_and_dogs(tmp_path)
    config = config_of(tmp_path)
    config.data.held_out_first = 10
    assert inputs.divide(config).held_out == [f'cats/{i:02d}.png' for i in range(10)]
    config.data.held_out_first = 40
    assert len(inputs.divide(config).held_out) == 4


def test_what_a_run_holds_out_stays_held_out(tmp_path, caplog):
    photos, run = tmp_path / 'photos', str(tmp_path / 'run')
    cats_and_dogs(photos)
    first = inputs.divide(config_of(photos), run)
    checkpoint_lib.storage.path_of(run).mkdir()
    inputs.save_division(first, run)
    written = json.loads((tmp_path / 'run/splits.json').read_text())
    assert written['held_out'] == first.held_out and written['train'] == 76
    # Another seed, new pictures, one gone: none that was held out is trained on.
    write(photos, 'birds/1.png')
    (photos / first.held_out[0]).unlink()
    again = inputs.divide(config_of(photos, seed=1), run)
    assert again.held_out == first.held_out[1:]
    assert 'birds/1.png' in again.train.names
    assert '1 of the 4 images held out before' in caplog.text
    # On a system that decomposes accents in names, too.
    write(photos, 'e\u0301.png')
    held_out = [*again.held_out, '\u00e9.png']
    (tmp_path / 'run/splits.json').write_text(json.dumps({'held_out': held_out}))
    assert 'e\u0301.png' in inputs.divide(config_of(photos), run).held_out
    # Of other photographs, some are drawn anew.
    write(tmp_path / 'others', 'x.png', 'y.png', 'z.png')
    assert len(inputs.divide(config_of(tmp_path / 'others'), run).held_out) == 1
    (tmp_path / 'run/splits.json').write_text('[]')
    with pytest.raises(checkpoint_lib.CheckpointError, match='splits.json'):
        inputs.divide(config_of(photos), run)


def test_run_of_version_0_1_goes_on_with_its_first_images_held_out(tmp_path, monkeypatch):
    cats_and_dogs(tmp_path / 'photos')
    monkeypatch.setattr(checkpoint_lib, 'has_checkpoint', lambda workdir: True)
    division = inputs.divide(config_of(tmp_path / 'photos'), str(tmp_path / 'run'))
    assert division.held_out == [f'cats/{i:02d}.png' for i in range(4)]
