"""Every config: locked on use, trainable shapes, and the published numbers."""

import glob
import importlib
import os
import pathlib
import re

import jax
import pytest

from configs import default
from migan_jax.model import comodgan
from migan_jax.training import loop
from migan_jax.training import state as state_lib

FOLDER = os.path.join(os.path.dirname(__file__), '..', 'configs')
NAMES = sorted(os.path.basename(p)[:-3] for p in glob.glob(f'{FOLDER}/*.py')
               if not p.endswith(('__init__.py', 'default.py')))


def _load(name):
    return importlib.import_module(f'configs.{name}').get_config().lock()


@pytest.mark.parametrize('name', NAMES)
def test_config_builds_models_and_adds_no_field(name):
    config = _load(name)
    models = state_lib.build_models(config)
    state = state_lib.abstract_state(models, config.model.resolution)
    assert len(jax.tree.leaves(state.params_g)) > 50
    loop.settings_of(config)

    def fields(tree, prefix=''):
        for key, value in tree.items():
            if hasattr(value, 'items'):
                yield from fields(value, f'{prefix}{key}.')
            else:
                yield prefix + key

    assert set(fields(config)) == set(fields(default.get_config()))
    with pytest.raises(AttributeError, match='batchsize'):
        config.train.batchsize = 1


@pytest.mark.parametrize('name', NAMES)
def test_head_comment_gives_command_cost(name):
    doc = importlib.import_module(f'configs.{name}').__doc__
    assert 'Cost:' in doc
    assert f'python -m migan_jax.main --config configs/{name}.py' in doc


# Config -> where its figures are said besides; its head comment is what counts.
@pytest.mark.parametrize('name, document, places', [
    ('quickstart', 'README.md', (
        r'hole PSNR (\d+\.\d+) dB', r'mean known\s+colour\s+has (\d+\.\d+)')),
    ('quickstart_adversarial', 'docs/evaluation.md', (
        r'`configs/quickstart_adversarial.py`[^|]*?hole PSNR (\d+\.\d+) dB',
        r'`configs/quickstart_adversarial.py`[^|]*?mean known colour (\d+\.\d+)')),
    ('comodgan_quickstart', 'docs/teachers.md', (
        r'teacher has hole PSNR\s+(\d+\.\d+) dB',)),
])
def test_documents_have_the_figures_of_config_heads(name, document, places):
    head = importlib.import_module(f'configs.{name}').__doc__
    said = [re.search(pattern, head) for pattern in (
        r'Expected: hole PSNR (\d+\.\d+) dB', r'mean\s+known\s+colour\s+has (\d+\.\d+)')]
    text = (pathlib.Path(FOLDER).parent / document).read_text()
    for ours, place in zip(said, places):
        theirs = re.search(place, text)
        assert theirs, f'{document} says no longer {place}'
        # A document may have more digits.
        digits = len(ours[1].partition('.')[2])
        assert f'{float(theirs[1]):.{digits}f}' == ours[1], (name, document)


@pytest.mark.parametrize('name, kimg, branches, distillation, resolution', [
    ('places256', 50_000, 9, 2.0, 256),
    ('places512', 25_000, 9, 2.0, 512),
    ('ffhq256', 50_000, 9, 2.0, 256),
    ('ablation_dw_places256', 30_000, 0, 0.0, 256),
    ('ablation_dw_reparam_places256', 30_000, 9, 0.0, 256),
    ('ablation_dw_reparam_kd_places256', 30_000, 9, 2.0, 256),
])
def test_published_schedules(name, kimg, branches, distillation, resolution):
    config = _load(name)
    assert (config.train.kimg, config.model.branches, config.loss.distillation_weight,
            config.model.resolution) == (kimg, branches, distillation, resolution)
    settings = loop.settings_of(config)
    assert (settings.batch_size, settings.r1_gamma, settings.r1_interval,
            settings.ema_kimg) == (32, 10.0, 16, 20.0)
    assert settings.reconstruction_weight == 0
    assert (config.model.ch_base, config.model.ch_max) == (32768, 512)


def test_published_learning_rates():
    # lr * 4/5 for G, lr * 16/17 for D, seen on a first step of Adam (= lr).
    models = state_lib.build_models(_load('ablation_dw_places256'))
    for tx, expected in ((models.tx_g, 1e-3 * 4 / 5), (models.tx_d, 1e-3 * 16 / 17)):
        params = {'w': jax.numpy.ones(3)}
        update, _ = tx.update({'w': jax.numpy.ones(3)}, tx.init(params))
        assert abs(float(update['w'][0]) + expected) < 1e-6


@pytest.mark.parametrize('name, kimg, resolution', [
    ('comodgan_places256', 50_000, 256), ('comodgan_places512', 50_000, 512),
    ('comodgan_ffhq256', 25_000, 256),
])
def test_teacher_schedules(name, kimg, resolution):
    config = _load(name)
    models = state_lib.build_models(config)
    assert isinstance(models.generator, comodgan.Generator)
    assert isinstance(models.discriminator, comodgan.Discriminator)
    assert (config.train.kimg, config.model.resolution) == (kimg, resolution)
    settings = loop.settings_of(config)
    assert (settings.batch_size, settings.r1_gamma, settings.r1_interval) == (32, 10.0, 16)
    assert settings.path_length_weight == settings.reconstruction_weight == 0
    # StyleGAN2's 0.002, for D with the correction of R1 every 16 iterations.
    for tx, expected in ((models.tx_g, 0.002), (models.tx_d, 0.002 * 16 / 17)):
        update, _ = tx.update({'w': jax.numpy.ones(3)}, tx.init({'w': jax.numpy.ones(3)}))
        assert abs(float(update['w'][0]) + expected) < 1e-6


@pytest.mark.parametrize('student, teacher', [
    ('places256', 'comodgan_places256'), ('places512', 'comodgan_places512'),
    ('ffhq256', 'comodgan_ffhq256'), ('quickstart_distill', 'comodgan_quickstart'),
])
def test_students_name_a_teacher_that_fits(student, teacher):
    assert teacher in importlib.import_module(f'configs.{student}').__doc__
    student, teacher = _load(student), _load(teacher)
    assert student.loss.distillation_weight > 0 == teacher.loss.distillation_weight
    assert student.model.resolution == teacher.model.resolution
    assert student.data == teacher.data
