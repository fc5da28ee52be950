"""Hosts that disagree are told what differs, and where, before anything is compiled."""

import jax
import pytest

from migan_jax.training import agreement
from processes import start_group
import tiny


def test_one_sentence_names_what_differs_and_where():
    said = [('a', {'seed': '0', 'rate': '1'}), ('a', {'seed': '0', 'rate': '1'}),
            ('b', {'seed': '1', 'rate': '1'}), ('c', {'rate': '1'})]
    assert agreement.differences(said) == [
        'seed is 0 on a (processes 0, 1) and 1 on b (process 2) and absent on c '
        '(process 3)']
    assert agreement.differences([said[0], said[0]]) == []


def test_hundreds_of_hosts_fit_a_message():
    said = [(f'host{i}', {'seed': str(int(i == 9))}) for i in range(200)]
    line, = agreement.differences(said)
    assert 'and 196 other hosts' not in line   # of 199
    assert '196 other hosts' in line and '1 on host9 (process 9)' in line
    assert len(line) < 200


def test_facts_cover_config_versions_source_devices_and_images():
    config = tiny.tiny_config(1)
    facts = agreement.facts_of(config, 'runs/a', {'training': 7})
    assert facts['config.optim.g_lr'] == 1e-3
    assert facts['config.model.comodgan.z_dim'] == 8
    assert facts['version of jax'] == jax.__version__
    assert 'version of orbax-checkpoint' in facts
    assert facts['local devices'] == jax.local_device_count()
    assert facts['training images'] == 7 and facts['workdir'] == 'runs/a'
    assert len(facts['source']) == 12
    with config.unlocked():
        config.seed = 1
    again = agreement.facts_of(config, 'runs/a', {'training': 7})
    assert agreement.differences([('a', {k: str(v) for k, v in each.items()})
                                  for each in (facts, again)]) == [
        'config.seed is 0 on a (process 0) and 1 on a (process 1)']


def test_one_process_agrees_with_itself():
    called = []
    assert agreement.check(lambda: (called.append(1) or {}, 'made')) == 'made'
    assert called and agreement.from_first(lambda: 5) == 5


# Each was a run that trained on silently wrong, hung or died without a sentence.
@pytest.mark.parametrize('of_last, named', [
    ({'flags_of_last': ['--config.optim.g_lr=0.002']}, 'config.optim.g_lr is '),
    pytest.param({'flags_of_last': ['--config.checkpoint.every_kimg=0.016']},
                 'config.checkpoint.every_kimg is ', marks=pytest.mark.slow),
    pytest.param({'flags_of_last': ['--config.model.ch_max=16']}, 'config.model.ch_max is ',
                 marks=pytest.mark.slow),
    pytest.param({'flags_of_last': ['--workdir=elsewhere']}, 'workdir is ',
                 marks=pytest.mark.slow),
    pytest.param({'devices_of_last': 3}, 'local devices is 1 on ', marks=pytest.mark.slow)])
def test_processes_that_differ_end_before_they_compile(tmp_path, of_last, named):
    runs = start_group(2, tmp_path / 'run', 3, **of_last)
    texts = [run.wait(1) for run in runs]
    for text in texts:
        assert 'were not started alike, nothing was trained' in text
    assert not (tmp_path / 'run' / 'checkpoints').exists()
    assert named in texts[0]
