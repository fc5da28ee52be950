"""Deployed checkpoints, and training that starts from one."""

import hashlib
import io
import importlib.util
import json

import jax
import numpy as np
import pytest
import torch

import loopback
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.model import fuse
from migan_jax.model.layers import effective_kernel
from migan_jax.training import loop
from migan_jax.training import state as state_lib
from migan_jax.weights import fetching
from migan_jax.weights import table
from migan_jax.weights import torch_map
from published_forms import collapse_branches
from tiny import BATCH
from tiny import final_state
from tiny import random_deployed
from tiny import tiny_config


@pytest.mark.parametrize('kind', ['migan', 'comodgan'])
def test_deployed_checkpoint_is_bit_identical(kind, tmp_path):
    config = tiny_config(1, kind)
    variables = random_deployed(config)
    checkpoint_lib.save_deployed(str(tmp_path), config, variables)
    loaded_config, _, loaded = checkpoint_lib.load_deployed(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert loaded_config.model.kind == kind and loaded_config.deployed


def test_deployed_variables_of_another_model_list_both_sides(tmp_path):
    config = tiny_config(1)
    variables = random_deployed(config)
    del variables['params']['encoder']['b16']['fromrgb']
    variables['params']['extra'] = np.zeros(3, np.float32)
    with pytest.raises(checkpoint_lib.CheckpointError) as error:
        checkpoint_lib.save_deployed(str(tmp_path / 'out'), config, variables)
    assert "only in the weights: ['params/extra']" in str(error.value)
    assert 'params/encoder/b16/fromrgb/bias' in str(error.value)
    assert not (tmp_path / 'out').exists()


def test_unfolded_kernels_are_effectively_the_same():
    for materialize in (False, True):
        config = tiny_config(1)
        config.model.materialize_branches = materialize
        deployed = random_deployed(config)['params']
        deployed = fuse.fuse(deployed)   # normalised, as deployed kernels are
        state = state_lib.init_state(
            state_lib.build_models(config), 16, jax.random.key(0))
        params = fuse.unfold(deployed, state.params_g)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9),
                     fuse.fuse(params), deployed)
        # As large as at the start of training, so that they turn as fast.
        kernel = params['encoder']['b8']['conv1']['pointwise']
        assert np.std(collapse_branches({'k': kernel})['k']['branch_sum']) == (
            pytest.approx(1.0, abs=0.1))
        assert effective_kernel(kernel).shape == (1, 1, 8, 8)


def fine_tuned(tmp_path):
    """Config of two iterations from a drawn generator, and that one's variables."""
    config = tiny_config(2)
    source = random_deployed(config)
    source['params'] = jax.device_get(fuse.fuse(source['params']))
    checkpoint_lib.save_deployed(str(tmp_path / 'source'), config, source)
    config.init_from = str(tmp_path / 'source')
    return config, source


def test_fine_tuning_starts_from_the_given_weights(tmp_path):
    config, source = fine_tuned(tmp_path)
    config.optim.g_lr = 0.0
    loop.train(config, str(tmp_path / 'run'))
    _, _, tuned = checkpoint_lib.load_deployed(str(tmp_path / 'run'))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8),
                 tuned, source)
    # A resumed run goes on from its own checkpoint, and needs the source no more.
    config.init_from = str(tmp_path / 'gone')
    loop.train(config, str(tmp_path / 'run'))
    with pytest.raises(checkpoint_lib.CheckpointError, match='no config.json'):
        loop.train(config, str(tmp_path / 'other'))


def test_fine_tuning_starts_from_a_published_name(tmp_path, monkeypatch):
    config = tiny_config(1)
    config.model.noise_at_4x4 = False   # as published
    # One step of the generator alone, at a learning rate of 0.
    config.loss.adversarial_weight, config.loss.reconstruction_weight = 0.0, 1.0
    config.optim.g_lr = 0.0
    source = random_deployed(config)
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array.copy()) for name, array in torch_map.to_torch(
        source, torch_map.generator_table(16, branches=0, fused=True)).items()}, file)
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / 'cache'))
    name, data = 'places2-256', file.getvalue()
    with loopback.serving() as site:
        served = site.file('tiny.pt', data, size=len(data),
                           digest=f'sha256:{hashlib.sha256(data).hexdigest()}')
        monkeypatch.setitem(table.MODELS, name, table.MODELS[name]._replace(
            resolution=16, files=(served,)))
        config.init_from = name
        loop.train(config, str(tmp_path / 'run'))
        assert site.asked == ['/tiny.pt']
    run, _, tuned = checkpoint_lib.load_deployed(str(tmp_path / 'run'))
    assert run.init_from == name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8),
                 tuned, {**source, 'params': fuse.fuse(source['params'])})


def test_fine_tuning_a_training_run_takes_its_discriminator_along(tmp_path):
    config = tiny_config(2)
    loop.train(config, str(tmp_path / 'first'))
    first = final_state(str(tmp_path / 'first'))
    start = state_lib.init_state(state_lib.build_models(config), 16, jax.random.key(7))
    state = state_lib.warm_start(start, config, str(tmp_path / 'first'))
    assert int(state.step) == 0
    for ours, theirs in ((state.params_g, first.ema), (state.ema, first.ema),
                         (state.params_d, first.params_d)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_fine_tuning_from_another_model_lists_both_values(tmp_path):
    config = tiny_config(1)
    config.model.noise_at_4x4 = False
    checkpoint_lib.save_deployed(str(tmp_path / 'source'), config, random_deployed(config))
    other = tiny_config(1)
    other.model.ch_max = 16
    other.init_from = str(tmp_path / 'source')
    with pytest.raises(checkpoint_lib.CheckpointError) as error:
        loop.train(other, str(tmp_path / 'run'))
    assert 'model.ch_max: 8 -> 16' in str(error.value)
    assert 'model.noise_at_4x4: False -> True' in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_discriminator_comes_along_whatever_the_optimisers(tmp_path):
    config = tiny_config(1)
    loop.train(config, str(tmp_path / 'first'))
    config.optim.g_b1 = 0.9
    start = state_lib.init_state(state_lib.build_models(config), 16, jax.random.key(7))
    state = state_lib.warm_start(start, config, str(tmp_path / 'first'))
    jax.tree.map(np.testing.assert_array_equal, state.params_d,
                 final_state(str(tmp_path / 'first')).params_d)
    assert jax.tree.structure(state.opt_g) == jax.tree.structure(start.opt_g)


def test_a_smaller_generator_lends_its_blocks(tmp_path):
    small = tiny_config(1)
    small.model.ch_base = 128
    source = random_deployed(small)
    source['params'] = jax.device_get(fuse.fuse(source['params']))
    checkpoint_lib.save_deployed(str(tmp_path / 'small'), small, source)
    config = tiny_config(1)
    config.model.resolution, config.model.ch_base = 32, 128
    fresh = state_lib.init_state(state_lib.build_models(config), 32, jax.random.key(7))
    state = state_lib.warm_start(fresh, config, str(tmp_path / 'small'))
    grown = fuse.fuse(state.params_g)
    for part, blocks in (('encoder', ('b4', 'b8')), ('decoder', ('b4', 'b8', 'b16'))):
        for block in blocks:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
                         grown[part][block], source['params'][part][block])
        jax.tree.map(np.testing.assert_array_equal, state.params_g[part]['b32'],
                     fresh.params_g[part]['b32'])
    # Its first convolution belongs to the larger one's first block.
    assert 'fromrgb' in source['params']['encoder']['b16']
    assert 'fromrgb' not in state.params_g['encoder']['b16']
    jax.tree.map(np.testing.assert_array_equal, state.variables['noise']['decoder']['b16'],
                 source['noise']['decoder']['b16'])
    config.train.freeze_encoder = True
    with pytest.raises(checkpoint_lib.CheckpointError, match='stay as they were drawn'):
        state_lib.warm_start(fresh, config, str(tmp_path / 'small'))
    config.train.freeze_encoder = False
    config.model.ch_max = 16
    with pytest.raises(checkpoint_lib.CheckpointError, match='model.ch_max: 8 -> 16'):
        state_lib.warm_start(fresh, config, str(tmp_path / 'small'))


def test_discriminator_trains_alone_at_first(tmp_path, monkeypatch):
    config, _ = fine_tuned(tmp_path)
    config.train.kimg = 3 * BATCH / 1000
    config.train.d_only_kimg = 2 * BATCH / 1000
    config.checkpoint.every_kimg, config.checkpoint.keep_last = BATCH / 1000, 3
    iterate, page_was_there = loop._Run._iterate, []

    def watched(self, images):
        page_was_there.append((tmp_path / 'run' / 'report.html').exists())
        iterate(self, images)

    monkeypatch.setattr(loop._Run, '_iterate', watched)
    loop.train(config, str(tmp_path / 'run'))
    # What it begins with can be looked at meanwhile.
    assert page_was_there == [True] * 3
    models = state_lib.build_models(config)
    abstract = state_lib.abstract_state(models, 16)
    _, manager, _ = checkpoint_lib.open_checkpoint(str(tmp_path / 'run'))
    first, second, third = (
        checkpoint_lib.restore(manager, abstract, step) for step in (1, 2, 3))
    manager.close()
    jax.tree.map(np.testing.assert_array_equal, second.params_g, first.params_g)
    jax.tree.map(np.testing.assert_array_equal, second.ema, first.ema)
    moved = lambda a, b: max(jax.tree.leaves(jax.tree.map(
        lambda x, y: float(np.abs(x - y).max()), a, b)))
    assert moved(second.params_d, first.params_d) > 0
    assert moved(third.params_g, second.params_g) > 0
    # The first line is of before fine-tuning: the page shows what it gains.
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert json.loads(lines[0])['step'] == 0 and 'eval/hole_psnr' in lines[0]
    # What it is compared with is there from the start, and stays.
    figures = [row for row in map(json.loads, lines) if 'eval/hole_psnr' in row]
    assert len({row['eval/mean_fill_hole_psnr'] for row in figures}) == 1
    if importlib.util.find_spec('cv2'):
        for name in ('telea', 'navier_stokes'):
            values = {row[f'eval/{name}_hole_psnr'] for row in figures}
            assert len(values) == 1 and 5 < values.pop() < 40
    for name in ('report.html', 'curves.png'):
        assert (tmp_path / 'run' / name).exists()


def test_frozen_encoder_stays_as_it_was(tmp_path):
    config, _ = fine_tuned(tmp_path)
    config.train.freeze_encoder = True
    fresh = state_lib.init_state(
        state_lib.build_models(config), 16, jax.random.key(config.seed))
    before = state_lib.warm_start(fresh, config, config.init_from).params_g
    loop.train(config, str(tmp_path / 'run'))
    after = final_state(str(tmp_path / 'run'))
    for params in (after.params_g, after.ema):
        jax.tree.map(
            np.testing.assert_array_equal, params['encoder'], before['encoder'])
        assert any(jax.tree.leaves(jax.tree.map(
            lambda a, b: not np.array_equal(a, b), params['decoder'], before['decoder'])))
    rows = map(json.loads, (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines())
    assert any(row.get('train/g_gradient', 0) > 0 for row in rows)


def test_moments_of_earlier_steps_do_not_move_a_frozen_encoder(tmp_path):
    config = tiny_config(2)
    config.optim.g_b1 = 0.9
    config.init_from = str(tmp_path / 'first')
    started = tiny_config(1)
    loop.train(started, str(tmp_path / 'first'))
    config.train.kimg = BATCH / 1000
    loop.train(config, str(tmp_path / 'run'))
    before = final_state(str(tmp_path / 'run')).params_g
    config.train.kimg, config.train.freeze_encoder = 2 * BATCH / 1000, True
    loop.train(config, str(tmp_path / 'run'))
    after = final_state(str(tmp_path / 'run')).params_g
    jax.tree.map(np.testing.assert_array_equal, after['encoder'], before['encoder'])
