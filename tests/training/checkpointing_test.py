"""SIGKILL at any moment and a full disk: what a run has after it."""

import os
import random
import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.training.checkpointing import Checkpoints
from migan_jax.training import loop
from migan_jax.training import steps as steps_lib
from processes import Run
from processes import start_group
from tiny import BATCH
from tiny import final_state
from tiny import tiny_config

# Every second iteration: some kills fall into a save.
OFTEN = f'--config.checkpoint.every_kimg={2 * BATCH / 1000}'


def half_written(workdir):
    folder = workdir / 'checkpoints'
    return folder.exists() and any('tmp' in p.name for p in folder.iterdir())


def complete(workdir):
    return any(p.name.isdigit() for p in (workdir / 'checkpoints').iterdir())


def kill(run, moment):
    """Kills a run when `moment(text)` comes true; False if it ended before."""
    while run.process.poll() is None:
        if moment(run.text()):
            run.process.send_signal(signal.SIGKILL)
            return run.process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    return False


def check_killed_runs(folder, steps, trials):
    """Kills a run again and again, at random moments and in saves by turns.

    Then lets it end, and compares with an uninterrupted one.
    """
    cache = folder / 'cache'
    Run(folder / 'whole', steps, OFTEN, cache=cache).wait()
    workdir, draw = folder / 'run', random.Random(0)
    torn, resumed = 0, []

    def resumed_from(text):
        return [int(line.rsplit(' ', 1)[1]) for line in text.splitlines()
                if 'resuming' in line]

    for trial in range(trials):
        run = Run(workdir, steps, OFTEN, cache=cache)
        # A line for every second iteration: in all trials half of the run at most.
        lines, delay, started = draw.randint(1, steps // (4 * trials)), draw.random(), []

        def moment(text):
            if text.count(' kimg, ') < lines:
                return False
            if trial % 2 == 0:
                return half_written(workdir) and complete(workdir)
            started.append(time.monotonic())
            return started[-1] - started[0] > delay / 4

        assert kill(run, moment), run.text()
        torn += half_written(workdir)
        resumed += resumed_from(run.text())
        if checkpoint_lib.has_checkpoint(str(workdir)):
            final_state(str(workdir))   # complete
    resumed += resumed_from(Run(workdir, steps, OFTEN, cache=cache).wait())
    print(f'{trials} kills, {torn} in a save; resumed from {resumed}')
    assert torn and resumed and resumed == sorted(resumed)
    assert not half_written(workdir)
    jax.tree.map(np.testing.assert_array_equal,
                 final_state(str(workdir)), final_state(str(folder / 'whole')))


def test_killed_run_ends_as_an_uninterrupted_one(tmp_path):
    check_killed_runs(tmp_path, 40, 1)


@pytest.mark.slow
def test_twenty_killed_runs_end_as_an_uninterrupted_one(tmp_path):
    check_killed_runs(tmp_path, 600, 20)


# A full disk.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB in memory."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', folder], capture_output=True)
    if mounted.returncode:
        pytest.skip('no small file system can be mounted here: '
                    + mounted.stderr.decode().strip())
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def fill_behind(checkpoint):
    """Leaves 16 KiB of the disk free, as soon as a checkpoint is complete."""
    while not checkpoint.exists():
        time.sleep(0.01)
    fill(checkpoint.parents[2])


def fill(folder):
    """Leaves 16 KiB of its disk free."""
    space = os.statvfs(folder)
    (folder / 'filler').write_bytes(bytes(space.f_bavail * space.f_frsize - 2**14))


def test_full_disk_costs_no_training(small_disk, tmp_path, monkeypatch, caplog):
    config = tiny_config(12)
    with config.unlocked():
        config.checkpoint.every_kimg = config.eval.every_kimg = 2 * BATCH / 1000
        config.log.every_kimg = BATCH / 1000
    workdir, calls, iterate = small_disk / 'run', [], steps_lib.iterate

    def filling(*args):
        calls.append(1)
        if len(calls) == 4:
            fill_behind(workdir / 'checkpoints' / '2')
        if len(calls) == 9:
            os.remove(small_disk / 'filler')
        return iterate(*args)

    monkeypatch.setattr(steps_lib, 'iterate', filling)
    loop.train(config, str(workdir))
    assert 'could not be written' in caplog.text
    assert 'the last complete one is that of iteration 2' in caplog.text
    assert final_state(str(workdir)).step == 12
    assert not half_written(workdir)
    monkeypatch.undo()
    loop.train(config, str(tmp_path / 'whole'))
    jax.tree.map(np.testing.assert_array_equal,
                 final_state(str(workdir)), final_state(str(tmp_path / 'whole')))


def test_disk_that_stays_full_keeps_the_last_checkpoint(small_disk, monkeypatch):
    config = tiny_config(6)
    with config.unlocked():
        config.checkpoint.every_kimg = 2 * BATCH / 1000
    workdir, calls, iterate = small_disk / 'run', [], steps_lib.iterate

    def filling(*args):
        calls.append(1)
        if len(calls) == 4:
            fill_behind(workdir / 'checkpoints' / '2')
        return iterate(*args)

    monkeypatch.setattr(steps_lib, 'iterate', filling)
    with pytest.raises(checkpoint_lib.CheckpointError, match=(
            'iteration 6 could not be saved.*goes on from iteration 2')):
        loop.train(config, str(workdir))
    assert final_state(str(workdir)).step == 2
    (small_disk / 'filler').unlink()
    monkeypatch.undo()
    loop.train(config, str(workdir))
    assert final_state(str(workdir)).step == 6


@pytest.mark.slow
def test_full_disk_under_two_processes_costs_no_training(small_disk, tmp_path):
    options = dict(devices=1, cache=tmp_path / 'cache')
    workdir = small_disk / 'run'
    runs = start_group(2, workdir, 40, OFTEN, **options)
    runs[0].wait_for(lambda _: (workdir / 'checkpoints' / '2').exists())
    fill(small_disk)
    runs[0].wait_for(lambda text: 'a checkpoint could not be written' in text)
    (small_disk / 'filler').unlink()
    texts = [run.wait() for run in runs]
    # The first writes, and knows.
    assert 'could not be written' not in texts[1]
    assert not half_written(workdir)
    for run in start_group(2, tmp_path / 'whole', 40, OFTEN, **options):
        run.wait()
    jax.tree.map(np.testing.assert_array_equal,
                 final_state(str(workdir)), final_state(str(tmp_path / 'whole')))


@pytest.mark.slow
def test_disk_that_stays_full_under_two_processes(small_disk, tmp_path):
    options = dict(devices=1, cache=tmp_path / 'cache')
    workdir = small_disk / 'run'
    runs = start_group(2, workdir, 20, OFTEN, **options)
    runs[0].wait_for(lambda _: (workdir / 'checkpoints' / '2').exists())
    fill(small_disk)
    for run in runs:
        text = run.wait(1)
        said = re.search(
            'error: iteration 20 could not be saved.*goes on from iteration ([0-9]+)', text)
        assert said, text
    kept = int(said[1])
    assert int(final_state(str(workdir)).step) == kept < 20
    (small_disk / 'filler').unlink()
    for run in start_group(2, workdir, 20, OFTEN, **options):
        assert f'from iteration {kept}' in run.wait()
    assert int(final_state(str(workdir)).step) == 20


def test_other_failures_of_a_save_are_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path), tiny_config(1))

    def broken(*args):
        raise ValueError('a bug')

    monkeypatch.setattr(checkpoint_lib, 'save', broken)
    checkpoints.save(None)
    with pytest.raises(ValueError, match='a bug'):
        checkpoints.wait()
    checkpoints.close()
