"""Progress in images, and what may differ when a run goes on."""

import json
import os

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.training import changes
from migan_jax.training import loop
from migan_jax.training.history import History
from migan_jax.training.steps import ema_decay
from migan_jax.training.steps import Settings
from tiny import BATCH
from tiny import final_state
from tiny import tiny_config


def test_images_and_data_follow_the_batch_size(tmp_path):
    history = History(str(tmp_path), 8)
    history.go_on(0, 8)
    assert (history.images(20), history.data_batch(20)) == (160, 20)
    history.go_on(21, 32)
    # 168 images are five and a quarter batches of 32: the sixth begins after them.
    assert (history.images(21), history.data_batch(21)) == (168, 6)
    assert (history.images(25), history.data_batch(25)) == (296, 10)
    assert history.images(20) == 160
    history.save()
    again = History(str(tmp_path), 999)
    again.go_on(25, 32)
    assert (again.images(25), again.data_batch(25)) == (296, 10)
    again.go_on(25, 8)
    assert (again.images(26), again.data_batch(25)) == (304, 40)
    # From a checkpoint before the change: as if it had not been.
    again.go_on(10, 8)
    assert (again.images(11), again.data_batch(11)) == (88, 11)


def test_rollbacks_leave_data_out_and_no_images(tmp_path):
    history = History(str(tmp_path), 4)
    history.go_on(0, 4)
    history.roll_back(6, 2)
    assert (history.images(2), history.data_batch(2), history.data_batch(3)) == (8, 6, 7)
    history.go_on(4, 8)
    assert (history.images(4), history.data_batch(4)) == (16, 4)
    # Back to before the batch size changed.
    history.roll_back(5, 3)
    assert (history.images(3), history.images(4), history.data_batch(3)) == (12, 20, 5)


def test_run_of_version_0_1_has_the_history_of_its_config(tmp_path):
    history = History(str(tmp_path), 8, skipped=lambda step: 3)
    history.go_on(10, 16)
    assert (history.images(10), history.data_batch(10)) == (80, 7)
    (tmp_path / 'history.json').write_text('{}[')
    with pytest.raises(checkpoint_lib.CheckpointError, match='history.json'):
        History(str(tmp_path), 8)


def test_ramp_up_of_the_average_follows_images():
    alike = Settings(batch_size=16, ema_rampup=0.05, images_offset=-64)
    before = Settings(batch_size=8, ema_rampup=0.05)
    # Eight iterations of 8, or four of 16: half-lives are alike.
    half_life = lambda settings, step: settings.batch_size / np.log2(
        1 / ema_decay(settings, jnp.int32(step)))
    assert half_life(alike, 8) == pytest.approx(half_life(before, 8), rel=1e-4)


def test_another_batch_size_goes_on_at_the_right_image(tmp_path, caplog):
    # absl's logger has a level of its own, and other tests leave theirs.
    caplog.set_level('INFO', logger='absl')
    workdir = str(tmp_path)
    loop.train(tiny_config(2), workdir)
    config = tiny_config(2)
    config.train.batch_size, config.train.kimg = 2 * BATCH, 6 * BATCH / 1000
    config.optim.g_lr, config.init_from = 2e-3, 'elsewhere'
    loop.train(config, workdir)
    assert final_state(workdir).step == 4
    assert json.loads((tmp_path / 'history.json').read_text()) == [
        {'step': 0, 'images': 0, 'batch_size': 8, 'data_batch': 0},
        {'step': 2, 'images': 16, 'batch_size': 16, 'data_batch': 1}]
    assert sorted(os.listdir(tmp_path / 'samples')) == [
        '000000.02kimg.png', '000000.05kimg.png']
    for said in ('train.batch_size: 8 -> 16', 'optim.g_lr: 0.001 -> 0.002',
                 'init_from=elsewhere is ignored', 'iterations 2 to 4'):
        assert said in caplog.text
    # Other data, masks or losses have to be meant.
    saved = (tmp_path / 'config.json').read_bytes()
    for group, name, value in (('data', 'train_split', 'train[:2]'),
                               ('mask', 'hole_range', (0.1, 0.5)),
                               ('loss', 'reconstruction_weight', 1.0)):
        other = tiny_config(9)
        other[group][name] = value
        with pytest.raises(checkpoint_lib.CheckpointError) as error:
            loop.train(other, workdir)
        # Both sides in the notation of the flags, though JSON has no tuples.
        before = repr(tiny_config(9)[group][name])
        assert f'{group}.{name}: {before} -> {value!r}' in str(error.value)
        assert '--allow_changes' in str(error.value)
    assert (tmp_path / 'config.json').read_bytes() == saved


def test_changes_are_those_of_fields_that_both_have():
    config, saved = tiny_config(1), tiny_config(1)
    with saved.unlocked():
        del saved.data.held_out
    assert changes.review(config, saved, 'run', allow=False) == []
    saved.data.source, saved.mask.hole_range, config.data.workers = (
        'folder', (0.05, 0.5), 7)
    lines = changes.review(config, saved, 'run', allow=True)
    assert sorted(lines) == [
        "data.source: 'folder' -> 'embedded'", 'data.workers: 1 -> 7',
        'mask.hole_range: (0.05, 0.5) -> (0.05, 0.6)']


def test_best_is_of_the_setting_that_the_config_has(tmp_path):
    config, other = tiny_config(1), tiny_config(1)
    other.mask.hole_range = (0.3, 0.9)
    ours, theirs = map(checkpoint_lib.evaluation_setting, (config, other))
    assert ours != theirs
    assert ours == checkpoint_lib.evaluation_setting(tiny_config(5))

    def save(manager, step, value, setting):
        manager.save(step, args=ocp.args.StandardSave({'a': np.ones(2, np.float32)}),
                     metrics={'hole_psnr': value, checkpoint_lib.SETTING: setting})

    workdir = str(tmp_path)
    manager = checkpoint_lib.checkpoint_manager(
        workdir, keep_last=1, metric='hole_psnr', setting=theirs)
    for step, (value, setting) in enumerate([
            (5.0, ours), (9.0, ours), (3.0, theirs), (4.0, theirs), (1.0, theirs)]):
        save(manager, step, value, setting)
    manager.wait_until_finished()
    # The best of either, and the newest.
    assert sorted(manager.all_steps()) == [1, 3, 4]
    assert manager.best_step() == 3
    manager.close()

    def opened(config, **kwargs):
        checkpoint_lib.save_config(config, workdir)
        _, manager, step = checkpoint_lib.open_checkpoint(workdir, **kwargs)
        manager.close()
        return step

    assert (opened(config), opened(other)) == (1, 3)
    assert opened(config, step='latest') == 4 and opened(config, step='3') == 3
    with pytest.raises(checkpoint_lib.CheckpointError, match="'2'; .*iterations 1, 3, 4"):
        opened(config, step='2')
    neither = tiny_config(1)
    neither.eval.seed = 5
    assert opened(neither) == 4
    # When a run changes from one to the other, it says what becomes of the best.
    aside = lambda *configs: checkpoint_lib.set_aside(workdir, *configs)
    assert 'iteration 1 (hole_psnr 9), is kept' in aside(other, config)
    assert 'iteration 3 (hole_psnr 4), is kept' in aside(neither, other)
    assert aside(config, tiny_config(5)) == '' == aside(config, neither)


def test_a_run_says_that_its_best_is_set_aside(tmp_path, caplog):
    caplog.set_level('INFO', logger='absl')
    workdir = str(tmp_path)
    config = tiny_config(2)
    config.eval.every_kimg = BATCH / 1000
    loop.train(config, workdir)
    assert 'is kept and not compared' not in caplog.text
    config = tiny_config(4)
    config.mask.hole_range = (0.3, 0.9)
    loop.train(config, workdir, allow_changes=True)
    assert 'is kept and not compared' in caplog.text
    assert checkpoint_lib.open_checkpoint(workdir)[2] in (3, 4)
