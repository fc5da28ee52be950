"""notebooks/migan_colab.ipynb from top to bottom, on tiny settings."""

import base64
import configparser
import copy
import importlib.util
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
from packaging.requirements import Requirement
from PIL import Image
import pytest

import golden
import migan_jax
from processes import QUICK_TO_COMPILE

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / 'notebooks' / 'migan_colab.ipynb'

# As in conftest.py, for the processes that the notebook starts.
CACHE = ROOT / '.cache' / 'xla' / (
    'notebook-' + os.environ.get('PYTEST_XDIST_WORKER', 'main'))

# The smallest model and six iterations.
FLAGS = ' '.join(f'--config.{field}' for field in (
    'model.resolution=16', 'model.ch_base=64', 'model.ch_max=8', 'model.branches=0',
    'mask.hole_range=(0.05,0.6)', 'mask.brush_width=(1,4)', 'train.batch_size=4',
    'eval.batch_size=4', 'eval.limit=4', 'eval.every_kimg=0.012',
    'checkpoint.every_kimg=0.012', 'log.every_kimg=0.008', 'loss.r1_interval=1000'))


def environment(**settings):
    """os.environ for a kernel: one device, and the notebook's settings."""
    kept = {k: v for k, v in os.environ.items()
            if k != 'MPLBACKEND' and not k.startswith('MIGAN_')}
    return kept | {
        'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
        'XLA_FLAGS': QUICK_TO_COMPILE,
        'JAX_COMPILATION_CACHE_DIR': str(CACHE),
        **{f'MIGAN_NOTEBOOK_{k}': str(v) for k, v in settings.items()}}


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """The notebook after it ran, and its folder."""
    folder = tmp_path_factory.mktemp('notebook')
    golden.save_state(folder / 'published.pt', golden.published_state())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name='python3',
        resources={'metadata': {'path': str(folder)}})
    client.execute(env=environment(
        KIMG=0.024, FLAGS=FLAGS, WEIGHTS='published.pt', DEVICE='cpu'))
    return notebook, folder


def cell(notebook, name):
    found, = (c for c in notebook.cells if c.id == name)
    return found


def pictures(cell):
    """u8[H, W, 3] of every PNG that a cell shows."""
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(
        output.data['image/png']))).convert('RGB'))
        for output in cell.outputs if 'image/png' in output.get('data', {})]


def printed(cell):
    return ''.join(o.text for o in cell.outputs if o.output_type == 'stream')


def test_the_file_is_clean():
    """No results and no numbers of runs are committed; every cell has a name."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for c in notebook.cells:
        assert c.id and not c.get('outputs') and c.get('execution_count') is None


def test_every_cell_ran(executed):
    notebook, _ = executed
    ran = [c for c in notebook.cells if c.cell_type == 'code']
    assert len(ran) >= 9 and all(c.execution_count for c in ran)
    errors = [o for c in ran for o in c.outputs if o.output_type == 'error']
    assert errors == []


def test_pictures_were_made(executed):
    notebook, folder = executed
    plot, grid = pictures(cell(notebook, 'train'))
    assert grid.shape == (4 * 16, 5 * 16, 3)
    # The curves are there: colours other than black, white and grey.
    assert (np.ptp(plot.astype(int), axis=2) > 60).sum() > 50
    photo, = pictures(cell(notebook, 'photo'))
    for name in ('inpaint', 'weights', 'export'):
        shown, = pictures(cell(notebook, name))
        assert shown.std() > 20, name
    result = np.asarray(Image.open(folder / 'inpainted.png'))
    assert result.shape == photo.shape
    changed = (result != photo).any(2).mean()
    assert 0.02 < changed < 0.3


def test_training_is_followed(executed):
    notebook, folder = executed
    status = [o.data['text/markdown'] for o in cell(notebook, 'train').outputs
              if 'text/markdown' in o.get('data', {})]
    assert len(status) == 1 and 'starting' not in status[0]
    assert (folder / 'runs' / 'notebook' / 'checkpoints' / '6').is_dir()


def test_weights_and_export(executed):
    notebook, folder = executed
    assert '32 x 32, from published.pt' in printed(cell(notebook, 'weights'))
    assert printed(cell(notebook, 'export')).count(' MB, differs from JAX by ') == 2
    assert {p.name for p in (folder / 'export').iterdir()} == {
        'migan.onnx', 'migan_pipeline.onnx'}


def test_a_missing_file_of_weights_is_left_out(executed):
    notebook, _ = executed
    namespace = {'WEIGHTS': 'absent.pt', 'pathlib': pathlib}
    exec(cell(notebook, 'weights').source, namespace)
    assert namespace['published'] is None


def test_what_is_drawn_becomes_the_hole():
    """The canvas in a browser: strokes are hole, undone ones are not."""
    sync_api = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('Chromium is not installed')
    photo = Image.fromarray(np.full((300, 400, 3), 90, np.uint8))
    namespace = {'IN_COLAB': False, 'photo': photo, 'io': io, 'np': np, 'Image': Image,
                 'migan_jax': migan_jax}
    exec(cell(nbformat.read(NOTEBOOK, as_version=4), 'draw').source, namespace)
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        page = browser.new_page(viewport={'width': 700, 'height': 600})
        page.set_content(namespace['canvas'](photo, longest=200))
        box = page.locator('#paper').bounding_box()
        place = lambda x, y: (box['x'] + x, box['y'] + y)
        for start, end in (((50, 75), (150, 75)), ((20, 20), (20, 130))):
            page.mouse.move(*place(*start))
            page.mouse.down()
            page.mouse.move(*place(*end), steps=5)
            page.mouse.up()
        page.click('#undo')
        page.click('#done')
        url = page.evaluate('window.drawnHole')
        browser.close()
    hole = namespace['hole_of'](url, photo.size)
    assert hole.shape == (300, 400) and hole.dtype == bool
    # 100 x 24 pixels with round ends, at twice the scale.
    assert hole[150, 90:310].all() and not hole[:120].any() and not hole[180:].any()
    np.testing.assert_allclose(hole.sum(), 4 * (100 * 24 + np.pi * 12**2), rtol=0.05)


def test_nothing_installed_and_nowhere_to_clone_from(tmp_path):
    """The one setting that a bare Colab needs is asked for."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook = copy.deepcopy(notebook)
    notebook.cells = [cell(notebook, 'settings'), cell(notebook, 'install')]
    hidden = 'import importlib.util\nimportlib.util.find_spec = lambda name: None\n'
    notebook.cells[0].source = hidden + notebook.cells[0].source
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3',
                                     resources={'metadata': {'path': str(tmp_path)}})
    with pytest.raises(nbclient.exceptions.CellExecutionError, match='set REPOSITORY'):
        client.execute(env=environment())


def installed_by_the_notebook(monkeypatch, tools):
    """What the install cell gives pip on a Colab with these programs on its PATH."""
    commands, real = [], importlib.util.find_spec
    # Not there until pip has run.
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: (
        real(name) if any('pip' in words for words in commands) else None))
    monkeypatch.setattr(subprocess, 'run', lambda words, check: commands.append(
        [str(word) for word in words]))
    monkeypatch.setattr(shutil, 'which', tools.get)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setitem(sys.modules, 'google.colab', migan_jax)
    source = cell(nbformat.read(NOTEBOOK, as_version=4), 'install').source
    exec(source, {'REPOSITORY': 'address', 'DEVICE': 'auto', 'os': os})
    (git, *_), pip = commands
    assert git == 'git' and pip[1:4] == ['-m', 'pip', 'install']
    return pip


def test_colab_keeps_what_it_runs_on(monkeypatch, tmp_path):
    """The extras that the notebook installs take what Colab's kernel has."""
    monkeypatch.chdir(tmp_path)
    pip = installed_by_the_notebook(monkeypatch, {'nvidia-smi': '/usr/bin/nvidia-smi'})
    assert pip[pip.index('--constraint') + 1].endswith('notebooks/colab.txt')
    assert pip[-3:-1] == ['matplotlib', '--editable']
    extras = re.search(r'\[(.*)\]$', pip[-1])[1].split(',')
    assert extras == ['train', 'export', 'cuda12']

    text = (ROOT / 'notebooks' / 'colab.txt').read_text()
    assert re.search(r'on \d+ \w+ 20\d\d, by the list that Google publishes',
                     ' '.join(text.replace('#', '').split()))
    kept = dict(line.split('==') for line in text.splitlines() if '==' in line
                and not line.startswith('#'))
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    listed = '\n'.join([setup['options']['install_requires'], *(
        setup['options.extras_require'][extra] for extra in extras)])
    wanted = {found.name: found for line in listed.splitlines()
              if line and not line.startswith('#') for found in [Requirement(line)]}
    both = sorted(wanted.keys() & kept.keys())
    assert both == ['numpy', 'pillow', 'torch']
    for name in both:
        assert wanted[name].specifier.contains(kept[name]), (wanted[name], kept[name])
    # What a kernel is made of comes from Colab.
    assert not wanted.keys() & {'ipykernel', 'jupyterlab', 'notebook', 'ipywidgets'}


def test_colab_without_a_gpu_gets_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('TPU_NAME', raising=False)
    assert 'cuda' not in installed_by_the_notebook(monkeypatch, {})[-1]
