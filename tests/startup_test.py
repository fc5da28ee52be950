"""What one picture costs before it is painted: counts, as time depends on the machine."""

import os
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from migan_jax import checkpoint
from processes import ROOT
import tiny
from migan_jax.training import state as state_lib

# Runs a program, then lists modules and compiled programs.
_PROGRAM = """
import logging, runpy, sys
import jax
jax.config.update('jax_log_compiles', True)
names = []
handler = logging.Handler()
handler.emit = lambda record: names.append(record.getMessage())
logging.getLogger('jax').addHandler(handler)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
    assert not end.code, end.code
print('programs:', [n for n in names if n.startswith('Finished XLA compilation of')])
print('hits:', sum(n.startswith('Persistent compilation cache hit') for n in names))
print('modules:', ' '.join(sys.modules))
"""


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """A training workdir of the smallest model."""
    folder = tmp_path_factory.mktemp('workdir')
    config = tiny.tiny_config(1)
    models = state_lib.build_models(config)
    state = jax.tree.map(lambda a: np.ones(a.shape, a.dtype),
                         state_lib.abstract_state(models, 16))
    checkpoint.save_config(config, folder)
    manager = checkpoint.checkpoint_manager(folder)
    checkpoint.save(manager, state)
    manager.wait_until_finished()
    manager.close()
    return folder


def run(program, cache, *arguments):
    """Lines that `_PROGRAM` prints of a program, by what stands before the colon."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM, program, *arguments], cwd=ROOT, capture_output=True,
        text=True, env=environment | {'JAX_PLATFORMS': 'cpu', 'MIGAN_JAX_CACHE': str(cache),
                                      'PYTHONPATH': str(ROOT)})
    assert not done.returncode, done.stderr
    return dict(line.split(': ', 1) for line in done.stdout.splitlines() if ': ' in line)


def paint(model, folder, cache):
    """`run` of tools/inpaint.py with one squashed picture."""
    Image.new('RGB', (20, 12)).save(folder / 'picture.png')
    mask = np.full((12, 20), 255, np.uint8)
    mask[3:6, 3:6] = 0
    Image.fromarray(mask).save(folder / 'mask.png')
    return run('tools/inpaint.py', cache, f'--checkpoint={model}',
               f'--images={folder}/picture.png', f'--masks={folder}/mask.png',
               '--mode=resize', f'--out={folder}/out')


def test_one_picture_compiles_the_network_and_nothing_else(workdir, tmp_path):
    first = paint(workdir, tmp_path, tmp_path / 'cache')
    assert first['programs'].count('XLA compilation') == 1
    assert 'jit(paint)' in first['programs']
    modules = set(first['modules'].split())
    assert not modules & {'tensorflow', 'torch', 'onnx', 'onnxruntime', 'optax',
                          'requests', 'pooch', 'scipy.ndimage', 'skimage'}
    # Kept for the next process.
    assert (first['hits'], paint(workdir, tmp_path, tmp_path / 'cache')['hits']) == (
        '0', '1')


def test_a_saved_model_does_without_orbax(tmp_path):
    modules = set(paint('demo', tmp_path, tmp_path / 'cache')['modules'].split())
    assert 'jax' in modules
    assert not modules & {'orbax.checkpoint', 'scipy.ndimage', 'tensorstore'}


_FIRST_CALL = """
import numpy as np
import migan_jax

picture = np.zeros((12, 20, 3), np.uint8)
migan_jax.load('demo').inpaint(picture, picture[..., 0] == 1, mode='resize')
"""


def test_the_first_call_compiles_the_network_and_nothing_else(tmp_path):
    (tmp_path / 'first.py').write_text(_FIRST_CALL)
    done = run(tmp_path / 'first.py', tmp_path / 'cache')
    assert done['programs'].count('XLA compilation') == 1
    assert not set(done['modules'].split()) & {
        'tensorflow', 'torch', 'onnx', 'orbax.checkpoint', 'scipy.ndimage',
        'migan_jax.evaluation.methods', 'migan_jax.training'}
