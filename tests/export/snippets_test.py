"""What the Python of docs/converting.md paints, as printed, against JAX."""

import pathlib
import re
import runpy
import types

import numpy as np
import onnxruntime
from PIL import Image
import pytest

import benchmark_exports
import tiny
from migan_jax.export import exporting
from migan_jax.export import models
from migan_jax import inpaint

DOCUMENT = pathlib.Path(__file__).parents[2] / 'docs' / 'converting.md'
R = 16


def block_with(text):
    """The one Python block that has a text in it."""
    found = [block for block in re.findall(
        r'^```python\n(.*?)^```', DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
        if text in block]
    block, = found
    return block


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """photos/cat.png, masks/cat.png of 52 x 41 with two holes, and export/."""
    folder = tmp_path_factory.mktemp('snippets')
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (41, 52, 3), np.uint8)
    mask = np.full((41, 52), 255, np.uint8)
    mask[3:9, 4:9] = mask[30:37, 40:50] = 0
    for name, array in (('photos', picture), ('masks', mask)):
        (folder / name).mkdir()
        Image.fromarray(array).save(folder / name / 'cat.png')
    (folder / 'export').mkdir()
    return folder


@pytest.fixture(scope='module')
def model():
    config = tiny.tiny_config(1)
    return models.from_deployed(config, benchmark_exports.random_variables(config), '7')


def ran(text, folder, model, name, monkeypatch):
    """Globals of a block that has run where it finds the file of a format."""
    file = exporting.FORMATS[name].file
    exporting.export_one(name, model, folder / 'export' / file, models.Options(), [])
    monkeypatch.chdir(folder)
    (folder / 'block.py').write_text(block_with(text))
    return runpy.run_path('block.py')


class PaintedByJax:
    """Stands in for `onnxruntime.InferenceSession`."""

    def __init__(self, model, path):
        self.model, self.whole = model, 'pipeline' in path

    def get_inputs(self):
        return [types.SimpleNamespace(shape=[1, 4, R, R])]

    def run(self, names, feeds):
        if self.whole:
            painted = inpaint.inpaint_pipeline(
                self.model.generate, feeds['image'][0].transpose(1, 2, 0),
                feeds['mask'][0, 0], R)
        else:
            seen = feeds['input'].transpose(0, 2, 3, 1)
            painted, = self.model.generate(seen)
        return [painted.transpose(2, 0, 1)[None]]


@pytest.mark.parametrize('name, result', [
    ('onnx_pipeline', 'painted_by_onnx.png'),
    ('onnx_pipeline', 'painted_by_holes.png'),
    ('onnx', 'small.png')])
def test_onnxruntime_paints_what_jax_paints(folder, model, monkeypatch, name, result):
    ran(result, folder, model, name, monkeypatch)
    actual = np.asarray(Image.open(folder / result)).astype(int)
    monkeypatch.setattr(
        onnxruntime, 'InferenceSession', lambda path: PaintedByJax(model, path))
    runpy.run_path('block.py')
    expected = np.asarray(Image.open(folder / result)).astype(int)
    # Hole by hole, a later one may see an earlier one's level of difference.
    assert np.abs(actual - expected).max() <= 1 + ('holes' in result)
    if name == 'onnx_pipeline':
        picture = np.asarray(Image.open(folder / 'photos/cat.png'))
        hole = np.asarray(Image.open(folder / 'masks/cat.png')) == 0
        assert (actual != picture)[hole].mean() > 0.9


def test_litert_paints_what_jax_paints(folder, model, monkeypatch):
    found = ran('tf.lite.Interpreter', folder, model, 'tflite', monkeypatch)
    image, mask = found['image'], found['mask']
    expected = model.generate(np.concatenate([mask - 0.5, image * mask], 3))
    assert np.abs(
        found['whole'] - (image * mask + expected * (1 - mask))).max() < 1e-4
