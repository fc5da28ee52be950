"""Runs of several processes: equal to one process, and what ends them."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from migan_jax.training import distributed
from processes import ROOT
from processes import Run
from processes import start_group
import tiny

# So that rounding hides no difference.
DOUBLE = '--config.model.dtype=float64'
FIGURES = ('psnr', 'hole_psnr', 'ssim', 'hole_l1', 'images')


def leaves(workdir):
    return {jax.tree_util.keystr(path): np.asarray(array) for path, array in
            jax.tree_util.tree_leaves_with_path(tiny.final_state(str(workdir)))}


def figures(workdir, step):
    path = pathlib.Path(workdir) / 'checkpoints' / str(step) / 'metrics' / 'metrics'
    return json.loads(path.read_text())


def assert_equal_states(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        scale = max(float(np.max(np.abs(array), initial=0)), 1e-30)
        difference = float(np.max(np.abs(actual[name] - array), initial=0))
        assert difference <= tolerance * scale, (name, difference / scale)


def assert_equal_figures(actual, expected, tolerance):
    for name in FIGURES:
        assert actual[name] == pytest.approx(expected[name], rel=tolerance), name


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """One process, four devices, three iterations."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    Run(workdir, 3, DOUBLE, devices=4, x64=True).wait()
    return workdir


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """Two processes of two devices each, three iterations; a folder of compiled code."""
    folder = tmp_path_factory.mktemp('pair')
    texts = [run.wait() for run in start_group(
        2, folder / 'run', 3, DOUBLE, devices=2, cache=folder / 'cache', x64=True)]
    return folder, texts


def test_two_processes_train_and_evaluate_as_one(alone, pair):
    folder, texts = pair
    assert 'process 1 of 2, 2 of 4 devices are here' in texts[1]
    with jax.enable_x64(True):
        assert_equal_states(leaves(folder / 'run'), leaves(alone), 1e-10)
    assert_equal_figures(figures(folder / 'run', 3), figures(alone, 3), 1e-5)
    # Pictures and logs come from process 0 only.
    assert len(list((folder / 'run' / 'samples').iterdir())) == 1
    assert len(list((folder / 'run').glob('events.out.tfevents.*'))) == 1


def test_checkpoint_of_two_processes_goes_on_in_one(alone, pair):
    folder, _ = pair
    with jax.enable_x64(True):
        assert tiny.final_state(str(folder / 'run')).step == 3
    text = Run(folder / 'run', 4, DOUBLE, devices=4, cache=f'{alone}.cache',
               x64=True).wait()
    assert 'from iteration 3' in text
    with jax.enable_x64(True):
        assert tiny.final_state(str(folder / 'run')).step == 4


def assert_says_what_happened(code, text, index):
    """How a process ends that has lost another one; see cli.py for the exit code."""
    assert code == 1, (code, text)
    assert text.splitlines()[-1].startswith(
        f'error: process {index} of 2 has lost the others; give the same command'), text
    assert text.count('\nerror: ') == 1, text
    # Python's words for a signal that nobody took.
    assert 'Fatal Python error' not in text and 'not foreseen' not in text, text


def test_process_that_has_lost_the_first_says_so():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    first, second = (subprocess.Popen(
        [sys.executable, ROOT / 'tests' / 'adding_run.py', address, str(i)], text=True,
        stderr=subprocess.PIPE, env=os.environ | {
            'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
            'XLA_FLAGS': '--xla_force_host_platform_device_count=1'}) for i in range(2))
    before = []
    try:
        for line in second.stderr:
            before.append(line)
            if line.endswith('adding\n'):
                break
        first.kill()
        text = ''.join(before) + second.communicate(timeout=120)[1]
    finally:
        for process in first, second:
            process.kill()
            process.communicate()
    assert_says_what_happened(second.returncode, text, 1)


def _saving(workdir):
    checkpoints = workdir / 'checkpoints'
    return checkpoints.exists() and any('tmp' in p.name for p in checkpoints.iterdir())


MOMENTS = {
    'start': lambda text, workdir: 'devices are here' in text,
    'compilation': lambda text, workdir: 'compiling G' in text,
    'training': lambda text, workdir: text.count(' kimg, ') > 1,
    'save': lambda text, workdir: _saving(workdir),
    'evaluation': lambda text, workdir: 'compiled evaluation' in text}


@pytest.mark.slow
@pytest.mark.parametrize('moment', MOMENTS)
def test_killed_process_ends_the_other(tmp_path, moment):
    survivor, killed = start_group(
        2, tmp_path / 'run', 10_000, '--config.checkpoint.every_kimg=0.016',
        '--config.eval.every_kimg=0.032', devices=2, cache=tmp_path / 'cache')
    survivor.wait_for(lambda text: MOMENTS[moment](text, tmp_path / 'run'))
    killed.process.kill()
    began = time.monotonic()
    survivor.process.wait(120)
    # What is promised to users, not a speed.
    assert time.monotonic() - began < 60, survivor.text()
    assert_says_what_happened(survivor.process.returncode, survivor.text(), 0)


@pytest.mark.slow
def test_job_with_a_killed_process_continues(tmp_path):
    options = dict(devices=2, cache=tmp_path / 'cache')
    often = '--config.checkpoint.every_kimg=0.016'
    survivor, killed = start_group(2, tmp_path / 'run', 10_000, often, **options)
    survivor.wait_for(lambda _: (tmp_path / 'run' / 'checkpoints' / '4').exists())
    killed.process.kill()
    survivor.wait(1)
    again = start_group(2, tmp_path / 'run', 10_000, often, **options)
    again[0].wait_for(lambda text: 'resuming' in text)
    again[0].wait_for(lambda text: ' kimg, ' in text)
    for run in again:   # the scheduler tells every host
        run.process.terminate()
    texts = [run.wait() for run in again]
    assert all('stopped by SIGTERM after iteration' in text for text in texts)
    latest = max(int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir())
    assert f'holds iteration {latest}' in texts[0]


@pytest.mark.slow
def test_two_processes_in_float32(tmp_path):
    Run(tmp_path / 'alone', 3, devices=4, optimised=True).wait()
    for run in start_group(2, tmp_path / 'pair', 3, devices=2, cache=tmp_path / 'cache',
                           optimised=True):
        run.wait()
    assert_equal_states(leaves(tmp_path / 'pair'), leaves(tmp_path / 'alone'), 1e-5)
    assert_equal_figures(
        figures(tmp_path / 'pair', 3), figures(tmp_path / 'alone', 3), 1e-4)


@pytest.mark.slow
def test_four_processes_and_restores_on_fewer(tmp_path):
    # As users' runs compile; unoptimised code rounds differently on other numbers of
    # devices.
    Run(tmp_path / 'alone', 3, devices=8, optimised=True).wait()
    cache = tmp_path / 'cache'
    for run in start_group(4, tmp_path / 'four', 3, devices=2, cache=cache,
                           optimised=True):
        run.wait()
    assert_equal_states(leaves(tmp_path / 'four'), leaves(tmp_path / 'alone'), 1e-5)
    assert_equal_figures(
        figures(tmp_path / 'four', 3), figures(tmp_path / 'alone', 3), 1e-4)
    # Of four on two, of two on four, and on one.
    for count, devices, steps in ((2, 4, 4), (4, 2, 5), (1, 8, 6)):
        runs = start_group(count, tmp_path / 'four', steps, devices=devices,
                           cache=f'{cache}{count}', optimised=True)
        assert all(f'from iteration {steps - 1}' in run.wait() for run in runs[:1])
        assert [run.wait() for run in runs]
    Run(tmp_path / 'alone', 6, devices=8, optimised=True).wait()
    assert tiny.final_state(str(tmp_path / 'four')).step == 6


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_twenty_iterations_in_double_precision(tmp_path, count):
    Run(tmp_path / 'alone', 20, DOUBLE, devices=2 * count, x64=True).wait()
    for run in start_group(count, tmp_path / 'several', 20, DOUBLE, devices=2,
                           cache=tmp_path / 'cache', x64=True):
        run.wait()
    with jax.enable_x64(True):
        assert_equal_states(
            leaves(tmp_path / 'several'), leaves(tmp_path / 'alone'), 1e-10)


@pytest.mark.parametrize('environment, expected', [
    ({}, None),
    ({'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'}, None),
    ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, 'SLURM'),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, 'Open MPI'),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'TPU'),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, None),
])
def test_launchers(monkeypatch, environment, expected):
    for name in ('SLURM_NTASKS', 'SLURM_PROCID', 'OMPI_COMM_WORLD_SIZE',
                 'TPU_WORKER_HOSTNAMES'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed.glob, 'glob', lambda pattern: [])
    assert distributed.launcher() == expected


def test_tpu_vm_is_known_by_its_pci_devices(monkeypatch, tmp_path):
    (tmp_path / 'vendor').write_text('0x1ae0\n')
    monkeypatch.setattr(distributed.glob, 'glob', lambda _: [str(tmp_path / 'vendor')])
    for name in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'COLAB_RELEASE_TAG'):
        monkeypatch.delenv(name, raising=False)
    assert distributed.launcher() == 'TPU'
    monkeypatch.setenv('COLAB_RELEASE_TAG', 'x')
    assert distributed.launcher() is None


@pytest.mark.parametrize('arguments, message', [
    (dict(num_processes=2), '--coordinator_address, --process_id missing'),
    (dict(coordinator_address='h:1', num_processes=2, process_id=2), 'expected 0 to 1'),
    (dict(coordinator_address='h', num_processes=2, process_id=0), 'expected host:port'),
])
def test_refused_flags(arguments, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialize(**arguments)
