"""Non-finite numbers: counted by phase, then a stop or a return to the last checkpoint."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import batches as batches_lib
from migan_jax.devices import replicate
from migan_jax.devices import unreplicate
from migan_jax.training import inputs
from migan_jax.training import loop
from migan_jax.training.progress import FiniteWatch
from migan_jax.training.progress import TrainingDiverged
from migan_jax.training.checkpointing import Rollbacks
from migan_jax.training import state as state_lib
from migan_jax.training import steps as steps_lib
from tiny import BATCH
from tiny import final_state
from tiny import tiny_config


def rollback_config(steps):
    config = tiny_config(steps)
    config.train.on_divergence = 'rollback'
    config.train.max_nonfinite_steps = 2
    config.train.max_rollbacks = 2
    config.checkpoint.every_kimg = 2 * BATCH / 1000
    return config


def spoil(monkeypatch, positions):
    """Losses of the batches at these positions in the data become nan.

    Returns:
      list of the (iteration, first image) pairs that training will have seen.
    """
    iterate, seen = steps_lib.iterate, []

    def spoiled(steps, settings, step, state, images, teacher):
        state, metrics = iterate(steps, settings, step, state, images, teacher)
        if len(seen) in positions:
            metrics = metrics | {'d_loss': metrics['d_loss'] * float('nan')}
        seen.append((step, np.array(images[0, 0])))
        return state, metrics

    monkeypatch.setattr(steps_lib, 'iterate', spoiled)
    return seen


def test_rollback_restores_and_goes_on_with_the_next_data(tmp_path, monkeypatch, caplog):
    config, workdir = rollback_config(6), str(tmp_path)
    seen = spoil(monkeypatch, {2, 3})
    loop.train(config, workdir)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 2, 3, 4, 5]
    rollbacks = json.loads((tmp_path / 'rollbacks.json').read_text())
    assert rollbacks == [{'from': 4, 'to': 2}]
    assert 'Rolled back to iteration 2' in caplog.text
    assert final_state(workdir).step == 6
    # No batch came twice, none was left out.
    source = inputs.divide(config).train
    batches = batches_lib.train_batches(
        source, resolution=16, batch_size=BATCH, seed=config.seed, crop='random',
        min_crop=config.data.min_crop)
    for (_, image), batch in zip(seen, batches):
        np.testing.assert_array_equal(image, batch['image'][0])
    # A later run goes on behind the data that were skipped.
    monkeypatch.undo()
    later = spoil(monkeypatch, set())
    loop.train(rollback_config(7), workdir)
    (step, image), = later
    assert step == 6
    np.testing.assert_array_equal(image, next(batches)['image'][0])


def test_too_many_rollbacks_stop(tmp_path, monkeypatch):
    spoil(monkeypatch, set(range(2, 100)))
    with pytest.raises(TrainingDiverged, match=(
            'non-finite: d_loss nan.*iteration 2, which is kept.*rolled back 2 times')):
        loop.train(rollback_config(9), str(tmp_path))
    assert len(Rollbacks(str(tmp_path))) == 2
    assert final_state(str(tmp_path)).step == 2


def test_without_a_checkpoint_there_is_nothing_to_return_to(tmp_path, monkeypatch):
    spoil(monkeypatch, set(range(100)))
    with pytest.raises(TrainingDiverged, match='no checkpoint yet'):
        loop.train(rollback_config(9), str(tmp_path))
    assert not (tmp_path / 'rollbacks.json').exists()


def test_damaged_or_unknown_settings_are_refused(tmp_path):
    (tmp_path / 'rollbacks.json').write_text('[{"from": 3}]')
    with pytest.raises(checkpoint_lib.CheckpointError, match='rollbacks.json is not readable'):
        Rollbacks(str(tmp_path))
    config = tiny_config(1)
    config.train.on_divergence = 'ignore'
    with pytest.raises(ValueError, match="'ignore'; expected one of stop, rollback"):
        loop.train(config, str(tmp_path / 'run'))


def test_positions_after_two_returns(tmp_path):
    rollbacks = Rollbacks(str(tmp_path))
    rollbacks.add(1200, 1000, write=True)
    rollbacks.add(1150, 1100, write=True)
    for rollbacks in (rollbacks, Rollbacks(str(tmp_path))):
        assert [rollbacks.skipped(step) for step in (900, 1000, 1099, 1100, 2000)] == [
            0, 200, 200, 250, 250]


def test_gradients_count_by_phase(tmp_path, caplog):
    config = tiny_config(1)
    models = state_lib.build_models(config)
    settings = loop.settings_of(config)
    state = state_lib.init_state(models, 16, jax.random.key(0))
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.params_d)
    steps = steps_lib.make_steps(models, settings)
    images = np.zeros((8, 1, 16, 16, 3), np.uint8)
    _, metrics = steps_lib.iterate(
        steps, settings, 0, replicate(state), images)
    assert {name: float(metrics[name][0]) for name in (
        'g_nonfinite', 'd_nonfinite', 'r1_nonfinite')} == dict.fromkeys(
            ('g_nonfinite', 'd_nonfinite', 'r1_nonfinite'), 0)
    replaced, metrics = steps_lib.iterate(
        steps, settings, 0, replicate(state.replace(params_d=broken)), images)
    elements = sum(x.size for x in jax.tree.leaves(state.params_d))
    assert metrics['d_nonfinite'][0] == elements
    # R1 does not depend on the last bias.
    assert 0 < metrics['r1_nonfinite'][0] < elements
    assert metrics['g_nonfinite'][0] > 0
    # What is not a number counts as no gradient.
    for array in jax.tree.leaves(unreplicate(replaced).params_g):
        assert np.isfinite(array).all()
    watch = FiniteWatch(patience=5)
    watch.check(0, {k: float(v[0]) for k, v in metrics.items()}, None)
    assert set(watch.totals) == {'g', 'd', 'r1'} and watch.streak == 1
    assert 'g_nonfinite' in caplog.text
