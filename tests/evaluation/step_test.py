"""Evaluation: figures of single images, padding, device counts, the tool."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import batches as batches_lib
from migan_jax.data import sources
from migan_jax.devices import replicate
from migan_jax.evaluation import figures
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import step as evaluation_step
from migan_jax.model.generator import Generator
from migan_jax.training import loop
from tiny import tiny_config
import evaluate as tool



def test_mean_fill_is_the_mean_of_known_pixels():
    image = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3), minval=-1.0)
    mask = jnp.zeros((2, 4, 4, 1)).at[0, :2].set(1)
    filled = np.asarray(figures.mean_fill(image, mask))
    np.testing.assert_allclose(
        filled[0, 3, 3], np.asarray(image)[0, :2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(filled[0, :2], image[0, :2])
    assert (filled[1] == 0).all()   # nothing known: grey


def test_figures_of_known_differences():
    image = jnp.zeros((2, 8, 8, 3))
    mask = jnp.ones((2, 8, 8, 1)).at[0, :4].set(0)
    composite = image.at[0, :4].set(0.2)   # .1 in [0, 1] range
    measured = figures.measure(networks_lib.Networks(), composite, image, mask)
    np.testing.assert_allclose(measured['hole_psnr'][0], 20, rtol=1e-4)
    np.testing.assert_allclose(measured['psnr'][0], 20 + 10 * np.log10(2), rtol=1e-4)
    np.testing.assert_allclose(measured['hole_l1'][0], 0.2, rtol=1e-5)
    np.testing.assert_allclose(measured['hole_share'], [0.5, 0], rtol=1e-6)
    assert np.isnan(measured['hole_psnr'][1]) and np.isnan(measured['hole_l1'][1])


def test_summary_leaves_out_what_has_no_hole():
    # One perfect composite must not make the mean of all infinite.
    summary = figures.summarize({'x': [1.0, np.nan, 3.0, np.inf], 'y': [np.nan]})
    assert summary['x']['mean'] == 2.0 and summary['x']['images'] == 2
    assert summary['y']['interval'] is None and np.isnan(summary['y']['mean'])
    assert figures.summarize({}) == {}


def test_padding_is_not_counted_and_devices_do_not_matter(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(11):   # divisible by neither device count
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(
            tmp_path / f'{i:02d}.png')
    source = sources.open_source('folder', path=str(tmp_path))
    model = Generator(16, 64, 8)
    variables = jax.jit(model.init, static_argnums=2)(
        jax.random.key(0), jnp.zeros((1, 16, 16, 4)), 'none')
    results = {}
    for devices, batch in ((8, 8), (1, 4)):
        monkeypatch.setattr(jax, 'local_device_count', lambda n=devices: n)
        params, others = (
            replicate(tree, jax.devices()[:devices])
            for tree in (variables['params'], {'noise': variables['noise']}))
        evaluation = evaluation_step.make_evaluation(
            model, seed=3, hole_range=(0.1, 0.9), brush_width=(2, 5))
        results[devices] = dict(evaluation_step.evaluate(
            evaluation, params, others,
            batches_lib.eval_batches(source, resolution=16, batch_size=batch)))
    assert results[8]['images'] == results[1]['images'] == 11
    for name, value in results[1].items():
        np.testing.assert_allclose(results[8][name], value, rtol=1e-6, err_msg=name)


def test_tool_writes_table_json_and_samples(tmp_path):
    workdir = str(tmp_path / 'run')
    trained = loop.train(tiny_config(1), workdir)
    out = str(tmp_path / 'result' / 'quick')
    summary = tool.run(workdir, '', out)
    # The deployed form gives the training form's figures.
    assert summary == pytest.approx(trained, rel=1e-3)
    with open(f'{out}.json') as f:
        report = json.load(f)
    assert len(report['images']) == summary['images'] == 10
    assert '| hole PSNR, dB: the model |' in open(f'{out}.md').read()
    with Image.open(f'{out}.png') as grid:
        assert grid.size == (80, 48)

    photos = tmp_path / 'photos'
    photos.mkdir()
    with pytest.raises(ValueError, match='photos'):
        tool.run(workdir, str(photos), out)
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(photos / 'a.png')
    assert tool.run(workdir, str(photos), out)['images'] == 1
    with pytest.raises(checkpoint_lib.CheckpointError, match='no config.json'):
        tool.run(str(photos), '', out)
