"""Training on Cloud Storage, against the bucket of tests/bucket.py."""

import subprocess
import sys

import pytest

import bucket as bucket_lib
from processes import ROOT
from processes import Run

OFTEN = '--config.checkpoint.every_kimg=0.016'   # every second iteration
WORKDIR = 'gs://bucket/runs/a'


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An emulator that child processes find."""
    with bucket_lib.Emulator(tmp_path) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


SAVES = """
import sys
sys.path.insert(0, 'tests'), sys.path.insert(0, 'tests/training')
from damage_test import state_at
from migan_jax.training.checkpointing import Checkpoints
from tiny import tiny_config
config = tiny_config(6)
with config.unlocked():
    config.eval.best_metric = ''
checkpoints = Checkpoints('gs://bucket/runs/a', config)
for step in (2, 4, 6):
    checkpoints.save(state_at(step))
    checkpoints.wait()
    print('after', step, checkpoints.latest_step(), checkpoints.owed)
checkpoints.close()
checkpoints = Checkpoints('gs://bucket/runs/a', config)
print('restored', int(checkpoints.restore(state_at(0)).step))
checkpoints.close()
"""


def test_refused_saves_are_owed_and_a_damaged_one_is_passed_over(bucket):
    """Saves as a run does, without the training between them."""
    def refuse(request):
        writes = 'create' in request.permission
        if writes and '/checkpoints/2/' in request.name:
            return 403
        # Once the third is complete, the first byte of its index goes.
        index = 'runs/a/checkpoints/6/default/manifest.ocdbt'
        if request.permission == 'storage.objects.list' and (
                'runs/a/checkpoints/6/commit_success.txt' in bucket.names()
                and index in bucket.names()):
            bucket.put(index, b'damaged')
        return None
    with bucket_lib.refusing(bucket, refuse):
        result = subprocess.run(
            [sys.executable, '-c', SAVES], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'after 2 None True' in result.stdout, result.stderr
    assert 'after 4 4 False' in result.stdout, result.stderr
    assert 'after 6 6 False' in result.stdout, result.stderr
    assert 'restored 4' in result.stdout, result.stderr
    assert not bucket.names('runs/a/checkpoints/6/')
    assert bucket.names('runs/a/damaged-checkpoints/6/')


@pytest.mark.slow
def test_a_run_on_a_bucket(bucket, tmp_path):
    cache = tmp_path / 'cache'
    Run(WORKDIR, 4, OFTEN, cache=cache).wait()
    assert {'runs/a/config.json', 'runs/a/checkpoints/4/commit_success.txt'} <= set(
        bucket.names())
    assert 'runs/a/run.json' not in bucket.names()   # its lease has ended
    # No more than docs/tpu_pod.md asks the account to be allowed.
    assert set(bucket.permissions()) <= {
        'storage.objects.create', 'storage.objects.create and .delete',
        'storage.objects.get', 'storage.objects.list', 'storage.objects.delete',
        'storage.buckets.get'}
    assert 'from iteration 4' in Run(WORKDIR, 6, OFTEN, cache=cache).wait()
    code = f'import migan_jax; print(migan_jax.load({WORKDIR!r}).step)'
    printed = subprocess.run([sys.executable, '-c', code], check=True,
                             capture_output=True, text=True).stdout
    assert printed.split()[-1] in ('4', '6')   # the best


@pytest.mark.slow
def test_a_refused_save_costs_no_training(bucket, tmp_path):
    refuse = lambda request: 403 if (
        '/checkpoints/2' in request.name and 'create' in request.permission) else None
    with bucket_lib.refusing(bucket, refuse):
        text = Run(WORKDIR, 6, OFTEN, cache=tmp_path / 'cache').wait()
    assert 'a checkpoint could not be written' in text
    assert 'runs/a/checkpoints/6/commit_success.txt' in bucket.names()


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_ends_a_run(bucket, tmp_path):
    text = Run('gs://elsewhere/run', 4, cache=tmp_path / 'cache').wait(1)
    assert 'the bucket elsewhere does not exist' in text
    assert len(bucket.requests) < 10
