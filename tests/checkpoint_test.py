"""config.json of a checkpoint directory that is not what a run wrote."""

import pytest

from migan_jax import checkpoint as checkpoint_lib


@pytest.mark.parametrize('text, words', [
    ('[1]', 'is no config'), ('{}', 'is no config'), ('null', 'is no config'),
    ('{"model": 1}', 'is no config'), ('"model"', 'is no config'),
    ('{"model": ', 'is not valid JSON'), ('[' * 100_000, 'nested too deeply'),
    ('{"a":' * 100_000, 'nested too deeply'), (' ' * 2**21, 'expected a config of at most')])
def test_hostile_configs_are_one_sentence(tmp_path, text, words):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(checkpoint_lib.CheckpointError, match=words) as refused:
        checkpoint_lib.load_config(str(tmp_path))
    assert 'config.json' in str(refused.value) and '\n' not in str(refused.value)


def test_a_config_that_is_deep_but_parses(tmp_path):
    # Within JSON's depth, beyond that of what is made of it.
    (tmp_path / 'config.json').write_text(
        '{"model": ' + '{"a":' * 700 + '1' + '}' * 700 + '}')
    with pytest.raises(checkpoint_lib.CheckpointError, match='nested too deeply'):
        checkpoint_lib.load_config(str(tmp_path))
