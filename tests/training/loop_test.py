"""The training loop: resume, checkpoints, samples, and what it refuses."""

import json
import os

import jax
import numpy as np
from PIL import Image
import pytest

from faults import diverge
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.training import loop
from migan_jax.training.progress import FiniteWatch
from migan_jax.training.progress import TrainingDiverged
from migan_jax.training import state as state_lib
import tiny
from tiny import BATCH
from tiny import tiny_config


def final_state(workdir):
    """The newest checkpoint of a workdir as a flat dict of arrays."""
    return {jax.tree_util.keystr(k): v for k, v in
            jax.tree_util.tree_leaves_with_path(tiny.final_state(workdir))}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run of five iterations."""
    workdir = str(tmp_path_factory.mktemp('run'))
    figures = loop.train(tiny_config(5), workdir)
    return workdir, figures


def test_run_leaves_checkpoint_samples_logs_and_figures(trained):
    workdir, figures = trained
    assert os.listdir(f'{workdir}/checkpoints') == ['5']
    (picture,) = os.listdir(f'{workdir}/samples')
    with Image.open(f'{workdir}/samples/{picture}') as grid:
        assert grid.size == (5 * 16, 3 * 16)
        grid = np.asarray(grid).reshape(3, 16, 5, 16, 3)
    masked, mask, _, composite, original = (grid[:, :, i] for i in range(5))
    known = mask == 255
    assert 0 < known.mean() < 1
    np.testing.assert_array_equal(composite[known], original[known])
    np.testing.assert_array_equal(masked[known], original[known])
    assert (masked[~known] == 128).all()
    assert (composite[~known] != original[~known]).mean() > 0.5
    assert any(name.startswith('events.out') for name in os.listdir(workdir))
    assert figures['images'] == 10
    assert 0 < figures['hole_psnr'] < figures['psnr']


def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(trained, tmp_path):
    uninterrupted = final_state(trained[0])
    assert uninterrupted['.step'] == 5
    for steps in (1, 3, 5):   # before, at and after an R1 step
        loop.train(tiny_config(steps), str(tmp_path))
    resumed = final_state(str(tmp_path))
    assert resumed.keys() == uninterrupted.keys()
    for name, array in uninterrupted.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_finished_run_evaluates_again_without_training(trained):
    workdir, figures = trained
    again = loop.train(tiny_config(5), workdir)
    assert again == pytest.approx(figures, rel=1e-6)
    assert os.listdir(f'{workdir}/checkpoints') == ['5']


def test_loaded_generator_paints_what_the_evaluation_saw(trained):
    workdir, _ = trained
    config, generate = checkpoint_lib.load_generator(workdir)
    assert config.model.resolution == 16
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    output = generate(x)
    state = final_state(workdir)
    assert output.shape == (2, 16, 16, 3) and np.isfinite(output).all()
    # The deployed form equals the training form with the EMA parameters.
    models = state_lib.build_models(config)
    abstract = state_lib.abstract_state(models, 16)
    leaves = [state[jax.tree_util.keystr(k)]
              for k, _ in jax.tree_util.tree_leaves_with_path(abstract)]
    state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    expected, _ = jax.jit(models.generator.apply, static_argnums=2)(
        {'params': state.ema, **state.variables}, x, 'const')
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_best_and_last_checkpoints_are_kept(tmp_path):
    manager = checkpoint_lib.checkpoint_manager(
        str(tmp_path), keep_last=2, metric='hole_psnr', mode='max')
    for step, value in enumerate([1.0, 9.0, 3.0, None, 2.0]):
        state = state_lib.TrainState(
            np.int32(step), *[{'a': np.ones(2, np.float32)} for _ in range(7)])
        checkpoint_lib.save(manager, state, None if value is None else {'hole_psnr': value})
    manager.wait_until_finished()
    assert sorted(manager.all_steps()) == [1, 3, 4]
    assert manager.best_step() == 1 and manager.latest_step() == 4
    manager.close()
    reopened = checkpoint_lib.checkpoint_manager(
        str(tmp_path), metric='hole_psnr', mode='max', read_only=True)
    assert reopened.best_step() == 1
    reopened.close()


def test_other_model_in_the_workdir_lists_both_values(trained):
    config = tiny_config(5)
    with config.unlocked():
        config.model.ch_max, config.model.branches = 16, 4
    with pytest.raises(checkpoint_lib.CheckpointError) as error:
        loop.train(config, trained[0])
    assert 'model.ch_max: 8 -> 16' in str(error.value)
    assert 'model.branches: 9 -> 4' in str(error.value)
    assert 'resolution' not in str(error.value)


@pytest.mark.parametrize('field, value, message', [
    ('model.resolution', 48, 'power of two'),
    ('model.dtype', 'float8', "'float8'; expected one of"),
    ('train.batch_size', 12, 'train.batch_size is 12.*multiple of the 8'),
    ('eval.batch_size', 3, 'eval.batch_size is 3'),
    ('data.source', 'disk', "'disk'; expected one of folder"),
    ('loss.r1_interval', 0, 'loss.r1_interval is 0'),
    ('loss.distillation_weight', 2.0, 'Co-Mod-GAN teacher'),
])
def test_config_that_can_not_work_is_refused_before_anything_is_written(
        tmp_path, field, value, message):
    config = tiny_config(1)
    group, name = field.split('.')
    config[group][name] = value
    workdir = tmp_path / 'run'
    with pytest.raises(ValueError, match=message):
        loop.train(config, str(workdir))
    assert not workdir.exists()


def test_empty_folder_and_single_image_are_refused(tmp_path):
    config = tiny_config(1)
    config.data.source, config.data.path = 'folder', str(tmp_path)
    with pytest.raises(ValueError, match='no images|holds no'):
        loop.train(config, str(tmp_path / 'run'))
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='at least two'):
        loop.train(config, str(tmp_path / 'run'))


def test_non_finite_losses_stop_training_and_keep_the_last_good_checkpoint(
        trained, tmp_path, monkeypatch):
    workdir = str(tmp_path)
    loop.train(tiny_config(2), workdir)
    diverge(monkeypatch)
    config = tiny_config(9)
    config.train.max_nonfinite_steps = 3
    config.checkpoint.every_kimg = BATCH / 1000
    with pytest.raises(TrainingDiverged, match='iteration 2, which is kept'):
        loop.train(config, workdir)
    assert final_state(workdir)['.step'] == 2


def test_single_non_finite_loss_does_not_stop():
    watch = FiniteWatch(patience=2)
    watch.check(0, {'g_loss': float('inf')}, None)
    watch.check(1, {'g_loss': 1.0}, None)
    watch.check(2, {'g_loss': float('nan')}, None)
    assert watch.streak == 1 and watch.totals == {'g': 2}
    with pytest.raises(TrainingDiverged):
        watch.check(3, {'g_loss': 1.0, 'd_loss': float('nan')}, None)


def test_unreadable_images_beyond_one_per_cent_stop_training(tmp_path):
    for i in range(30):
        Image.fromarray(np.full((20, 20, 3), i, np.uint8)).save(tmp_path / f'{i:02d}.png')
    for name in ('10.png', '11.png'):
        (tmp_path / name).write_bytes(b'not a picture')
    config = tiny_config(20)
    config.data.source, config.data.path = 'folder', str(tmp_path)
    with pytest.raises(ValueError, match='1[01].png'):
        loop.train(config, str(tmp_path / 'run'))


def test_directory_without_config_or_checkpoint_is_explained(tmp_path):
    with pytest.raises(checkpoint_lib.CheckpointError, match='no config.json'):
        checkpoint_lib.load_generator(str(tmp_path))
    checkpoint_lib.save_config(tiny_config(1), str(tmp_path))
    with pytest.raises(checkpoint_lib.CheckpointError, match='no checkpoints'):
        checkpoint_lib.load_generator(str(tmp_path))
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(checkpoint_lib.CheckpointError, match='not valid JSON'):
        checkpoint_lib.load_generator(str(tmp_path))


def test_config_survives_json(tmp_path):
    config = tiny_config(1)
    checkpoint_lib.save_config(config, str(tmp_path))
    saved = checkpoint_lib.load_config(str(tmp_path))
    assert checkpoint_lib.differing_fields(config, saved) == []
    stored = json.loads((tmp_path / 'config.json').read_text())
    assert stored['mask']['hole_range'] == [0.05, 0.6]
