"""SIGTERM and Ctrl-C: the state is saved, the next run goes on as if nothing were."""

import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest

from faults import diverge
from migan_jax.evaluation import step as evaluation_step
from migan_jax.training import loop
from migan_jax.training.preemption import Notice
from migan_jax.training.preemption import Preempted
from migan_jax.training import steps as steps_lib
from processes import Run
from tiny import BATCH
from tiny import final_state
from tiny import tiny_config


def send_before(monkeypatch, module, name, call, number):
    """Sends this process a signal before a function's n-th call."""
    original, calls = getattr(module, name), []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, function)


def test_stopped_runs_end_as_an_uninterrupted_one(tmp_path, monkeypatch):
    loop.train(tiny_config(5), str(tmp_path / 'whole'))
    workdir = str(tmp_path / 'stopped')
    for number, iteration in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        with monkeypatch.context() as patch:
            send_before(patch, steps_lib, 'iterate', 2, number)
            with pytest.raises(Preempted, match=(
                    f'{number.name} after iteration {iteration} .*holds iteration '
                    f'{iteration},')):
                loop.train(tiny_config(5), workdir)
        assert final_state(workdir).step == iteration
    loop.train(tiny_config(5), workdir)
    jax.tree.map(np.testing.assert_array_equal,
                 final_state(workdir), final_state(str(tmp_path / 'whole')))


def test_signal_during_an_evaluation_does_not_wait_for_its_end(tmp_path, monkeypatch):
    config = tiny_config(6)
    config.eval.every_kimg = 3 * BATCH / 1000
    # The third iteration is evaluated: ten images are two batches.
    send_before(monkeypatch, evaluation_step, 'mask_keys_of', 1, signal.SIGTERM)
    with pytest.raises(Preempted, match='after iteration 3 .*holds iteration 3'):
        loop.train(config, str(tmp_path))
    assert not os.listdir(tmp_path / 'samples')


def test_non_finite_state_is_not_saved_for_a_signal(tmp_path, monkeypatch):
    loop.train(tiny_config(1), str(tmp_path))
    diverge(monkeypatch)
    send_before(monkeypatch, steps_lib, 'iterate', 2, signal.SIGTERM)
    with pytest.raises(Preempted, match='after iteration 3 .*holds iteration 1'):
        loop.train(tiny_config(9), str(tmp_path))


@pytest.fixture
def ctrl_c():
    """Python's own handler, which a job started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_signal_acts_as_usual(ctrl_c):
    with Notice() as notice:
        assert not notice.reached(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert notice.reached(1) and notice.signal == 'SIGINT'
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)   # for the handler to run
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_sigterm_on_the_quickstart_model(tmp_path):
    config = pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py'
    run = Run(tmp_path / 'run', 0, f'--config={config}')
    run.wait_for(lambda text: ' kimg, ' in text)
    began = time.monotonic()
    run.process.terminate()
    text = run.wait()
    # What is promised to users, not a speed.
    assert time.monotonic() - began < 30, text
    assert 'stopped by SIGTERM after iteration' in text
    run = Run(tmp_path / 'run', 0, f'--config={config}')
    run.wait_for(lambda text: 'resuming' in text)
    run.process.kill()
