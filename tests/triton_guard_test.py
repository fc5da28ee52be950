"""TensorFlow and triton, of PyTorch's CUDA build, in one process in any order."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# PyTorch imports triton on the first use of this.
USE_TRITON = 'import torch._dynamo, triton; triton.compile'

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec('triton') is None,
    reason='PyTorch for CPU only brings no triton')


def run(code):
    """Runs code in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tensorflow_keeps_its_symbols_to_itself_after_migan_jax():
    assert run('import migan_jax, tensorflow, ctypes\n'
               'print(hasattr(ctypes.CDLL(None), "TF_Version"))') == 'False\n'


@needs_triton
def test_triton_after_migan_jax_and_tensorflow():
    assert run('import migan_jax, tensorflow\n'
               f'{USE_TRITON}\nprint("alive")') == 'alive\n'


@needs_triton
def test_triton_after_a_tensorflow_that_came_before_migan_jax():
    assert run('import tensorflow\nimport migan_jax.export\n'
               f'{USE_TRITON}\nprint("alive")') == 'alive\n'
