"""Fields of a config that can't work are refused, all at once, before anything is written."""

import json
import math
import pathlib
import sys

from absl import flags
from ml_collections import config_flags
import pytest

from configs import default
from configs import ffhq256
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.training import checks
from migan_jax.training import saved_config
from tiny import tiny_config


def with_field(name, value):
    config = tiny_config(1)
    *groups, field = name.split('.')
    part = config
    for group in groups:
        part = part[group]
    with part.unlocked(), part.ignore_type():
        part[field] = value
    return config


def test_every_field_has_a_rule_and_every_default_keeps_it():
    fields = checks.fields_of(default.get_config())
    assert list(fields) == list(checks.RULES)
    assert not set(checks._OWN_RULES) - set(fields)
    config = tiny_config(1)
    checks.check(config)
    # As read from JSON, where tuples are lists.
    config.update(json.loads(config.to_json_best_effort()))
    checks.check(config)


@pytest.mark.parametrize('name, value', [
    *((name, -1) for name in checks.RULES if not isinstance(
        checks.fields_of(default.get_config())[name], (str, bool, tuple))),
    *((name, math.nan) for name in checks.RULES if isinstance(
        checks.fields_of(default.get_config())[name], float)),
    *((name, 0) for name in (
        'loss.r1_interval', 'loss.path_length_interval', 'eval.every_kimg',
        'checkpoint.every_kimg', 'log.every_kimg', 'train.kimg', 'train.batch_size',
        'eval.batch_size', 'data.workers', 'data.prefetch', 'data.min_crop')),
    ('seed', 2**40), ('data.crop', 'middle'), ('data.eval_crop', 'random'),
    ('data.min_crop', 1.5), ('data.held_out', 1.0), ('data.workers', 1.5),
    ('optim.g_lr', math.inf), ('model.branches', '9'),
    ('mask.hole_range', (0.5,)), ('mask.hole_range', (0.5, 0.4)),
    ('mask.hole_range', (math.nan, 0.4)), ('mask.hole_range', (0.0, 1.5)),
    ('mask.hole_range', (0.0, 0.05)), ('mask.hole_range', 0.5),
    ('mask.brush_width', (0, 4)), ('mask.brush_width', (4, 3)),
    ('mask.brush_width', (1.5, 3)), ('model.comodgan.dropout', 1.0),
    ('eval.best_metric', 'hole_pnsr'), ('eval.best_mode', 'most'),
    ('data.flip', 1), ('init_from', None), ('train.on_divergence', 'go on'),
])
def test_value_that_can_not_work_is_named(name, value):
    with pytest.raises(ValueError) as error:
        checks.check(with_field(name, value))
    assert name.split('.')[-1] in str(error.value)
    assert 'expected' in str(error.value) or 'raise hi' in str(error.value)


def test_all_complaints_come_together():
    config = with_field('loss.r1_interval', 0)
    config.optim.g_lr, config.ema.kimg = -0.1, math.nan
    with pytest.raises(ValueError) as error:
        checks.check(config)
    lines = str(error.value).splitlines()
    assert [line.split(' is ')[0] for line in lines] == [
        'ema.kimg', 'loss.r1_interval', 'optim.g_lr']


@pytest.mark.parametrize('name, value, message', [
    ('train.batch_size', 12, 'multiple of the 8'),
    ('train.accumulate', 2, 'expected a divisor of 1: a device has 1 of the'),
    ('loss.path_length_weight', 2.0, 'no latent'),
    ('model.ch_base', 8, 'less than one'),
])
def test_fields_that_do_not_go_together(name, value, message):
    with pytest.raises(ValueError, match=message):
        checks.check(with_field(name, value))
    config = with_field('loss.adversarial_weight', 0.0)
    config.train.d_only_kimg = 0.004
    with pytest.raises(ValueError, match='no discriminator to train'):
        checks.check(config)
    config = with_field('train.batch_size', 8 * 24)
    config.train.accumulate = 3
    checks.check(config)
    config.train.accumulate = 4
    with pytest.raises(ValueError, match='24 of the images of a batch, in 6 groups of 4'):
        checks.check(config)
    config = with_field('train.freeze_encoder', True)
    with pytest.raises(ValueError, match='sees nothing'):
        checks.check(config)
    config.init_from = 'somewhere'
    checks.check(config)
    config = with_field('loss.distillation_min_resolution', 32)
    checks.check(config)
    config.loss.distillation_weight = 1.0
    with pytest.raises(ValueError, match='nothing would be distilled'):
        checks.check(config)


@pytest.mark.parametrize('name', ['data.path', 'data.masks', 'eval.networks'])
def test_what_is_read_from_disks_only_is_refused_on_a_bucket(name):
    config = with_field(name, 'gs://bucket/there')
    with pytest.raises(ValueError, match=f'^{name}=gs://bucket/there: expected a path on a'):
        checks.check(config)
    if name == 'data.path':
        config.data.source = 'tfds'
        checks.check(config)


def parsed(monkeypatch, *arguments):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, lock_config=True)
    # Where the flag finds out which fields are overridden.
    monkeypatch.setattr(sys, 'argv', saved_config.with_module(['main', *arguments]))
    values(sys.argv)
    return values.config


def test_config_of_a_workdir_is_a_config_file(tmp_path, monkeypatch):
    config = tiny_config(3)
    checkpoint_lib.save_config(config, str(tmp_path))
    path = tmp_path / 'config.json'
    for words in (f'--config={path}',), ('--config', str(path)):
        again = parsed(monkeypatch, *words, '--config.train.kimg=5')
        assert checkpoint_lib.differing_fields(again, config) == ['train.kimg: 0.024 -> 5.0']
        assert again.mask.hole_range == (0.05, 0.6)
    # A config of version 0.1 lacks fields that have come since.
    saved = json.loads(path.read_text())
    del saved['data']['held_out']
    path.write_text(json.dumps(saved))
    assert parsed(monkeypatch, f'--config={path}').data.held_out == 0.05
    file = pathlib.Path(ffhq256.__file__)
    assert parsed(monkeypatch, f'--config={file}').data.held_out_first == 10_000


@pytest.mark.parametrize('content, message', [
    ('{', 'not valid JSON'), ('[1]', 'holds no fields'),
    ('{"deployed": true}', 'from_torch'), ('{"optimizer": 1}', 'optimizer'),
    ('{"train": {"kimg": "long"}}', 'no config of this version'),
])
def test_other_json_is_refused(tmp_path, content, message):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        saved_config.get_config(str(tmp_path / 'config.json'))
