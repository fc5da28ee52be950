"""The wheel works from any folder: its commands, configs and models."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
from PIL import Image
import pytest

import migan_jax
from processes import QUICK_TO_COMPILE

ROOT = pathlib.Path(__file__).parents[1]
# The smallest model and two iterations.
TINY = ('--config.model.resolution=16', '--config.model.ch_base=64',
        '--config.model.ch_max=8', '--config.model.branches=0',
        '--config.mask.brush_width=(1,4)', '--config.train.kimg=0.016',
        '--config.eval.limit=4', '--config.loss.r1_interval=1000')


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A folder with what the wheel brings, and another one to work in."""
    folder = tmp_path_factory.mktemp('wheel')
    # A copy: building writes beside the sources.
    source = folder / 'source'
    source.mkdir()
    for name in ('migan_jax', 'configs', 'tools', 'models'):
        shutil.copytree(ROOT / name, source / name, symlinks=True,
                        ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation',
         '--disable-pip-version-check', '-w', folder, source], check=True)
    wheel, = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / 'site')
    (folder / 'elsewhere').mkdir()
    return folder / 'site', folder / 'elsewhere'


@pytest.fixture(scope='module')
def migan(installed):
    """Runs a command of the wheel in the other folder; its stdout."""
    site, elsewhere = installed

    def run(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, '-m', 'migan_jax', *arguments], cwd=elsewhere,
            capture_output=True, text=True, env=os.environ | {
                'PYTHONPATH': str(site), 'XLA_FLAGS': QUICK_TO_COMPILE,
                'JAX_PLATFORMS': 'cpu'})
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr
    return run


def test_it_has_the_package_its_configs_and_its_tools(installed):
    site, _ = installed
    files = {str(path.relative_to(site)) for path in site.rglob('*.py')}
    assert {'migan_jax/configs/places256.py', 'migan_jax/tools/inpaint.py',
            'migan_jax/model/generator.py', 'migan_jax/main.py'} <= files
    assert {name.split('/')[0] for name in files} == {'migan_jax'}
    assert (site / 'migan_jax' / 'py.typed').is_file()
    weights = 'models/demo/model.safetensors'
    assert (site / 'migan_jax' / weights).read_bytes() == (ROOT / weights).read_bytes()
    entry, = site.glob('*.dist-info/entry_points.txt')
    assert 'migan = migan_jax.__main__:main' in entry.read_text()


def test_its_command_names_itself(migan):
    assert migan('--version').strip() == f'migan_jax {migan_jax.__version__}'
    assert 'to_torch' in migan('--help')
    assert migan('paint', code=1).startswith('error: no command paint; there are train,')


@pytest.mark.slow
def test_it_trains_inpaints_and_exports_from_another_folder(installed, migan):
    _, elsewhere = installed
    migan('train', '--config=quickstart', '--workdir=run', *TINY)
    Image.fromarray(np.full((20, 24, 3), 99, np.uint8)).save(elsewhere / 'photo.png')
    mask = np.full((20, 24), 255, np.uint8)
    mask[5:9, 5:9] = 0
    Image.fromarray(mask).save(elsewhere / 'mask.png')
    assert 'wrote 1 picture to painted' in migan(
        'inpaint', '--checkpoint=run', '--images=photo.png', '--masks=mask.png',
        '--out=painted')
    assert len(list((elsewhere / 'painted').iterdir())) == 1
    migan('to_torch', '--checkpoint=run', '--out=export', '--formats=onnx')
    assert (elsewhere / 'export' / 'migan.onnx').stat().st_size > 10_000
