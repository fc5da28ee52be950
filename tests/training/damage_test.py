"""Checkpoints that do not read: the one before is taken, and it is said."""

import pathlib
import shutil
import threading

import jax
import numpy as np
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import storage
from migan_jax.training.checkpointing import Checkpoints
from tiny import tiny_config

STATE = {'step': np.int32(0), 'weights': np.arange(1000, dtype=np.float32)}


class _State(dict):
    """As much of a TrainState as saving asks for."""

    step = property(lambda self: self['step'])


jax.tree_util.register_pytree_node(
    _State, lambda state: (list(state.values()), tuple(state)),
    lambda names, values: _State(zip(names, values)))


def state_at(step):
    return _State(STATE, step=np.int32(step), weights=STATE['weights'] + step)


def truncate(folder):
    for file in (folder / 'default').rglob('d/*'):
        file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def flip(folder):
    for file in (folder / 'default').rglob('d/*'):
        data = np.frombuffer(file.read_bytes(), np.uint8)
        file.write_bytes((data ^ 255).tobytes())


def remove_index(folder):
    (folder / 'default' / 'manifest.ocdbt').unlink()


def cut_metadata(folder):
    (folder / 'default' / '_METADATA').write_text('{"tree')


@pytest.fixture
def workdir(tmp_path):
    """Three checkpoints, of iterations 2, 4 and 6."""
    config = tiny_config(6)
    with config.unlocked():
        config.checkpoint.keep_last = 3
        config.eval.best_metric = ''
    checkpoints = Checkpoints(str(tmp_path), config)
    for step in (2, 4, 6):
        checkpoints.save(state_at(step))
        checkpoints.wait()
    assert checkpoints.latest_step() == 6 and not checkpoints.owed
    checkpoints.close()
    return tmp_path, config


@pytest.mark.parametrize('damage', [truncate, flip, remove_index, cut_metadata])
def test_a_run_goes_on_from_the_one_before(workdir, damage, caplog):
    folder, config = workdir
    damage(folder / 'checkpoints' / '6')
    checkpoints = Checkpoints(str(folder), config)
    restored = checkpoints.restore(state_at(0))
    assert restored.step == 4 and checkpoints.latest_step() == 4
    np.testing.assert_array_equal(restored['weights'], STATE['weights'] + 4)
    assert f'moved to {folder}/damaged-checkpoints/6' in caplog.text
    assert 'goes on from iteration 4, the 2 iterations after it' in caplog.text
    # The iteration can be saved again.
    checkpoints.save(state_at(6))
    checkpoints.wait()
    assert checkpoints.latest_step() == 6 and not checkpoints.owed
    checkpoints.close()
    assert sorted(p.name for p in (folder / 'checkpoints').iterdir()) == ['2', '4', '6']


def test_when_none_reads_the_newest_is_named_and_none_is_moved(workdir):
    folder, config = workdir
    for step in (2, 4, 6):
        truncate(folder / 'checkpoints' / str(step))
    checkpoints = Checkpoints(str(folder), config)
    with pytest.raises(checkpoint_lib.DamagedCheckpoint, match='checkpoints/6'):
        checkpoints.restore(state_at(0))
    checkpoints.close()
    assert not (folder / 'damaged-checkpoints').exists()


def test_storage_that_fails_is_not_taken_for_damage(workdir, monkeypatch):
    folder, config = workdir
    checkpoints = Checkpoints(str(folder), config)

    def unavailable(*args, **kwargs):
        raise ValueError('UNAVAILABLE: HTTP response code 503')
    monkeypatch.setattr(checkpoints._manager, 'restore', unavailable)
    with pytest.raises(storage.StorageError, match='storage fails: UNAVAILABLE'):
        checkpoints.restore(state_at(0))
    checkpoints.close()
    assert len(list((folder / 'checkpoints').iterdir())) == 3


def test_a_save_that_storage_keeps_waiting_costs_no_training(workdir, monkeypatch, caplog):
    folder, config = workdir
    taken, save = threading.Event(), checkpoint_lib.save
    monkeypatch.setattr('migan_jax.training.checkpointing.PATIENCE_S', 0.05)

    def stuck(*args):
        taken.wait()
        save(*args)
    monkeypatch.setattr(checkpoint_lib, 'save', stuck)
    checkpoints = Checkpoints(str(folder), config)
    checkpoints.save(state_at(8))
    checkpoints.save(state_at(10))
    assert checkpoints.owed and 'has not taken the one before yet' in caplog.text
    taken.set()
    checkpoints.wait()
    assert checkpoints.latest_step() == 8 and not checkpoints.owed
    checkpoints.close()


def test_a_copy_of_a_workdir_reads(workdir):
    folder, _ = workdir
    copy = pathlib.Path(shutil.copytree(folder, f'{folder}-copy'))
    manager = checkpoint_lib.checkpoint_manager(copy, read_only=True)
    assert checkpoint_lib.restore(manager, state_at(0)).step == 6
    manager.close()
