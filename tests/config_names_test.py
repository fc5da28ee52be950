"""Configs by name, and one line for what is wrong with one."""

import pytest

from migan_jax import config_names
from migan_jax.configs import default


def test_a_shipped_config_is_found_by_name_and_keeps_its_argument(tmp_path):
    found = str(config_names.FOLDER / 'places256.py')
    for argv in (['x', '--config=places256'], ['x', '-config=places256.py']):
        assert config_names.with_paths(argv)[1].split('=')[1] == found
    assert config_names.with_paths(['x', '--config', 'places256:7', '--a=b']) == [
        'x', '--config', found + ':7', '--a=b']


def test_a_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'places256').write_text('')
    argv = ['x', '--config=places256', '--config.train.kimg=1']
    assert config_names.with_paths(argv) == argv


@pytest.mark.parametrize('name, words', [
    ('configs/plces256.py', "there is no config file configs/plces256.py; did you mean "
                            "the shipped config 'places256'?"),
    ('zz', 'there is no config file zz; shipped with the package are .*quickstart')])
def test_a_missing_file_is_one_line_with_the_nearest_name(name, words):
    with pytest.raises(ValueError, match=words.replace('?', r'\?')) as caught:
        config_names.with_paths(['x', f'--config={name}'])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('field, words', [
    ('kmig', "the config has no field 'kmig'; did you mean 'kimg'?"),
    ('zzz', "the config has no field 'zzz'; configs/default.py has them all")])
def test_an_unknown_field_is_one_line(field, words):
    train = default.get_config().lock().train
    for attempt in (lambda: getattr(train, field), lambda: train[field],
                    lambda: setattr(train, field, 1)):
        with pytest.raises((AttributeError, KeyError)) as caught:
            attempt()
        assert config_names.unknown_field(caught.value) == words


def test_other_errors_of_a_config_are_not_taken_for_unknown_fields():
    with pytest.raises(AttributeError) as caught:
        pytest.no_such_function
    assert config_names.unknown_field(caught.value) is None
    assert config_names.unknown_field(ValueError("'kimg'")) is None
