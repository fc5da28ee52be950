"""Training on Cloud Storage, and what is done with a run there.

Against the bucket of tests/bucket.py; most tests share one run.
"""

import json
import signal
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest
from tensorboard.backend.event_processing import event_accumulator

import bucket as bucket_lib
from migan_jax import checkpoint as checkpoint_lib
from processes import ROOT
from processes import Run
from processes import start_group
import tiny
import tiny_tfds

OFTEN = '--config.checkpoint.every_kimg=0.016'   # every second iteration
WORKDIR = 'gs://bucket/runs/a'


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
    """An emulator that child processes find."""
    with bucket_lib.Emulator(tmp_path_factory.mktemp('bucket')) as emulator:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in emulator.environment().items():
                patch.setenv(name, value)
            # Of the tools; runs name their own.
            patch.setenv('JAX_COMPILATION_CACHE_DIR',
                         str(tmp_path_factory.mktemp('compiled')))
            yield emulator


@pytest.fixture(scope='module')
def trained(bucket, tmp_path_factory):
    """A run of four iterations in WORKDIR, two saves: options of runs that find there what
    it compiled, and its requests."""
    options = {'cache': tmp_path_factory.mktemp('logs'), 'keeps': False}
    first = len(bucket.requests)
    Run(WORKDIR, 4, OFTEN, **options).wait()
    return options, bucket.requests[first:]


def tool(name, *arguments):
    """What a command prints."""
    result = subprocess.run(
        [sys.executable, '-m', 'migan_jax', name, *arguments], cwd=ROOT,
        capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


SAVES = """
import sys
sys.path.insert(0, 'tests'), sys.path.insert(0, 'tests/training')
from damage_test import state_at
from migan_jax.training.checkpointing import Checkpoints
from tiny import tiny_config
config = tiny_config(6)
with config.unlocked():
    config.eval.best_metric = ''
checkpoints = Checkpoints('gs://bucket/runs/saves', config)
for step in (2, 4, 6):
    checkpoints.save(state_at(step))
    checkpoints.wait()
    print('after', step, checkpoints.latest_step(), checkpoints.owed)
checkpoints.close()
checkpoints = Checkpoints('gs://bucket/runs/saves', config)
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
        index = 'runs/saves/checkpoints/6/default/manifest.ocdbt'
        if request.permission == 'storage.objects.list' and (
                'runs/saves/checkpoints/6/commit_success.txt' in bucket.names()
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
    assert not bucket.names('runs/saves/checkpoints/6/')
    assert bucket.names('runs/saves/damaged-checkpoints/6/')


def test_a_run_on_a_bucket(bucket, trained):
    _, requests = trained
    assert {'runs/a/config.json', 'runs/a/checkpoints/4/commit_success.txt'} <= set(
        bucket.names())
    assert 'runs/a/run.json' not in bucket.names()   # its lease has ended
    # No more than docs/tpu_pod.md asks the account to be allowed.
    assert {request.permission for request in requests if request.status < 400} <= {
        'storage.objects.create', 'storage.objects.create and .delete',
        'storage.objects.get', 'storage.objects.list', 'storage.objects.delete',
        'storage.buckets.get'}


def test_figures_are_uploaded_once(bucket, trained, tmp_path):
    _, requests = trained
    uploads = [request for request in requests if 'create' in request.permission
               and 'events.out' in request.name]
    # One for each save; overwriting would be called a delete, too.
    assert {request.permission for request in uploads} == {'storage.objects.create'}
    assert len({request.name for request in uploads}) == 2
    board = event_accumulator.EventAccumulator(str(bucket.download('runs/a', tmp_path)))
    board.Reload()
    assert [event.step for event in board.Tensors('train/g_loss')] == [2, 4]
    assert [event.step for event in board.Tensors('eval/psnr')] == [4]
    rows = map(json.loads, bucket.read('runs/a/metrics.jsonl').splitlines())
    assert [row['step'] for row in rows if 'train/g_loss' in row] == [2, 4]


def test_a_run_on_a_bucket_goes_on(bucket, trained, tmp_path):
    # Elsewhere, as other tests take the run as it is.
    bucket.upload(bucket.download('runs/a', tmp_path), 'runs/longer')
    compiled = bucket.names('runs/.jax_cache/jit_')
    first = len(bucket.requests)
    text = Run('gs://bucket/runs/longer', 6, OFTEN, **trained[0]).wait()
    assert 'from iteration 4' in text
    assert 'runs/longer/checkpoints/6/commit_success.txt' in bucket.names()
    # The run before kept what it compiled, beside its workdir: the state, G and D at least.
    read = {request.name for request in bucket.requests[first:]
            if request.permission == 'storage.objects.get' and request.status < 300}
    assert len(read & set(compiled)) >= 3


def test_evaluation_of_a_run_on_a_bucket(trained, tmp_path):
    out = tmp_path / 'evaluation'
    tool('evaluate', f'--checkpoint={WORKDIR}', f'--out={out}', '--metrics=psnr')
    measured = json.loads((tmp_path / 'evaluation.json').read_text())
    assert measured['n'] == 10 and measured['method']['path'] == WORKDIR


def test_pictures_by_a_model_on_a_bucket(trained, tmp_path):
    pixels = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)
    mask = np.full((20, 24), 255, np.uint8)   # 255 = known
    mask[5:9, 6:12] = 0
    Image.fromarray(pixels).save(tmp_path / 'picture.png')
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    said = tool('inpaint', f'--checkpoint={WORKDIR}', f'--images={tmp_path}/picture.png',
                f'--masks={tmp_path}/mask.png', f'--out={tmp_path}/painted', '--mode=resize')
    assert WORKDIR in said
    painted = np.asarray(Image.open(tmp_path / 'painted' / 'picture.png'))
    np.testing.assert_array_equal(painted[mask == 255], pixels[mask == 255])
    assert np.any(painted[mask == 0] != pixels[mask == 0])


def test_export_of_a_model_on_a_bucket(trained, tmp_path):
    tool('to_torch', f'--checkpoint={WORKDIR}', f'--out={tmp_path}', '--formats=pt',
         '--drop_noise_at_4x4')
    assert (tmp_path / 'migan.pt').stat().st_size


def test_everything_that_a_run_reads_may_be_on_a_bucket(bucket, trained, tmp_path):
    """Config, first weights, a teacher and a TFDS data set, copied there from a disk."""
    config = tiny.tiny_config(1, 'comodgan')
    checkpoint_lib.save_deployed(
        str(tmp_path / 'teacher'), config, tiny.random_deployed(config))
    tiny_tfds.prepare(
        str(tmp_path / 'tfds'), lambda i: np.full((16, 16, 3), 10 * i, np.uint8))
    bucket.upload(tmp_path / 'teacher', 'teachers/a')
    bucket.upload(tmp_path / 'tfds', 'tfds')
    first = len(bucket.requests)
    text = Run(
        'gs://bucket/runs/taught', 1, f'--config.init_from={WORKDIR}',
        '--config.teacher.checkpoint=gs://bucket/teachers/a',
        '--config.loss.distillation_weight=2.0', '--config.data.source=tfds',
        '--config.data.name=tiny_pictures', '--config.data.path=gs://bucket/tfds',
        '--config.train.kimg=0.008', config=f'{WORKDIR}/config.json',
        **trained[0]).wait()
    assert '17 training and 5 evaluation images' in text
    assert 'evaluation at 0.00 kimg' in text   # of what it starts from
    read = [request.name for request in bucket.requests[first:]
            if request.permission == 'storage.objects.get' and request.status < 300]
    for part in ('runs/a/config.json', 'runs/a/checkpoints/', 'teachers/a/checkpoints/0/',
                 'tfds/tiny_pictures/1.0.0/tiny_pictures-train.tfrecord-00000-of-00003'):
        assert any(name.startswith(part) for name in read), part
    assert 'runs/taught/checkpoints/1/commit_success.txt' in bucket.names()


def test_killed_between_a_checkpoint_and_its_marker(bucket, trained, tmp_path):
    marker = 'runs/killed/checkpoints/4/commit_success.txt'

    def kill(request):
        if request.name == marker and 'create' in request.permission:
            run.process.kill()
            return 503
        return None

    with bucket_lib.refusing(bucket, kill):
        run = Run('gs://bucket/runs/killed', 4, OFTEN, **trained[0])
        said = run.wait(-signal.SIGKILL)
    # Or there would be nothing to go on from.
    assert marker.replace('/4/', '/2/') in bucket.names(), said
    assert 'runs/killed/checkpoints/4/default/manifest.ocdbt' in bucket.names()
    assert marker not in bucket.names()
    text = Run('gs://bucket/runs/killed', 4, OFTEN, **trained[0]).wait()
    assert 'from iteration 2' in text, text
    states = [tiny.final_state(str(bucket.download(name, tmp_path / name)))
              for name in ('runs/killed', 'runs/a')]
    assert int(states[0].step) == 4
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_two_processes_on_a_bucket(bucket, tmp_path):
    options = dict(devices=1, cache=tmp_path / 'cache')
    for run in start_group(2, 'gs://bucket/runs/pair', 2, OFTEN, **options):
        run.wait()
    again = start_group(2, 'gs://bucket/runs/pair', 4, OFTEN, **options)
    assert all('from iteration 2' in text for text in [run.wait() for run in again])
    assert int(tiny.final_state(str(bucket.download('runs/pair', tmp_path))).step) == 4
    # Of the first process only.
    assert len(bucket.names('runs/pair/samples/0')) == 2


@pytest.mark.slow
def test_a_refused_save_costs_no_training(bucket, tmp_path):
    refuse = lambda request: 403 if (
        '/checkpoints/2' in request.name and 'create' in request.permission) else None
    with bucket_lib.refusing(bucket, refuse):
        text = Run('gs://bucket/runs/refused', 6, OFTEN, cache=tmp_path / 'cache').wait()
    assert 'a checkpoint could not be written' in text
    assert 'runs/refused/checkpoints/6/commit_success.txt' in bucket.names()


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_ends_a_run(bucket, tmp_path):
    first = len(bucket.requests)
    text = Run('gs://elsewhere/run', 4, cache=tmp_path / 'cache').wait(1)
    assert 'the bucket elsewhere does not exist' in text
    assert len(bucket.requests) - first < 10
