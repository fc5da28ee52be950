"""Distilling from a teacher and training one: the loop around them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.devices import AXIS
from migan_jax.devices import replicate
from migan_jax.devices import unreplicate
from migan_jax.weights import torch_map
from migan_jax.model import build
from migan_jax.model import io as model_io
from migan_jax.training import loop
from migan_jax.training import state as state_lib
from migan_jax.training import steps as steps_lib
from tiny import BATCH
from tiny import final_state
from tiny import random_deployed
from tiny import tiny_config

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')


@pytest.fixture(scope='module')
def teacher_directory(tmp_path_factory):
    """A Co-Mod-GAN of random weights, as from_torch would write it."""
    directory = str(tmp_path_factory.mktemp('teacher'))
    config = tiny_config(1, 'comodgan')
    checkpoint_lib.save_deployed(directory, config, random_deployed(config))
    return directory


@pytest.fixture(scope='module')
def trained_teacher(tmp_path_factory):
    """A Co-Mod-GAN trained for four iterations, with the path-length term."""
    workdir = str(tmp_path_factory.mktemp('comodgan'))
    config = tiny_config(4, 'comodgan')
    config.loss.path_length_weight, config.loss.path_length_interval = 2.0, 2
    return config, workdir, loop.train(config, workdir)


def test_teacher_trains_through_the_same_loop(trained_teacher):
    config, workdir, figures = trained_teacher
    state = final_state(workdir)
    assert int(state.step) == 4 and figures['images'] == 10
    assert os.listdir(f'{workdir}/samples') == ['000000.03kimg.png']
    # Both running means moved, and every parameter that takes part did.
    assert np.abs(state.variables['average']['mapping']['w_avg']).max() > 0
    assert state.path_length > 0
    start = state_lib.init_state(
        state_lib.build_models(config), 16, jax.random.key(config.seed))
    still = [jax.tree_util.keystr(path) for path, (a, b) in
             jax.tree_util.tree_leaves_with_path(
                 jax.tree.map(lambda *x: x, start.params_g, state.params_g),
                 is_leaf=lambda x: isinstance(x, tuple)) if np.array_equal(a, b)]
    assert still == []


def test_resumed_teacher_is_bit_identical(trained_teacher, tmp_path):
    config, workdir, _ = trained_teacher
    for steps in (1, 3, 4):
        shorter = config.copy_and_resolve_references()
        shorter.train.kimg = steps * BATCH / 1000
        loop.train(shorter, str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, final_state(str(tmp_path)),
                 final_state(workdir))


def test_trained_teacher_paints_and_teaches(trained_teacher):
    _, workdir, _ = trained_teacher
    config, generate = checkpoint_lib.load_generator(workdir)
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    assert config.model.kind == 'comodgan'
    np.testing.assert_array_equal(generate(x), generate(x))
    other = checkpoint_lib.load_generator(workdir, seed=1)[1](x)
    assert np.abs(other - generate(x)).max() > 0
    teacher, variables = state_lib.load_teacher(workdir, 16, 'bfloat16')
    rgbs = [jax.jit(teacher)(variables, x, jax.random.key(k)) for k in (0, 0, 1)]
    assert sorted(rgbs[0]) == [4, 8, 16] and rgbs[0][16].dtype == jnp.float32
    np.testing.assert_array_equal(rgbs[0][16], rgbs[1][16])
    assert np.abs(rgbs[0][16] - rgbs[2][16]).max() > 0


def test_student_distils_and_keeps_no_teacher(teacher_directory, tmp_path, monkeypatch):
    config = tiny_config(3)
    config.teacher.checkpoint = teacher_directory
    config.loss.distillation_weight = 2.0
    seen = []
    iterate = steps_lib.iterate

    def watched(*args):
        state, metrics = iterate(*args)
        seen.append((metrics, args[-1]))
        return state, metrics

    monkeypatch.setattr(steps_lib, 'iterate', watched)
    loop.train(config, str(tmp_path))
    assert all(np.asarray(m['g_distillation']).min() > 0 for m, _ in seen)
    # The teacher's arrays went in beside the state, once, and never changed.
    teacher = seen[0][1]
    assert all(t is teacher for _, t in seen)
    _, _, given = checkpoint_lib.load_deployed(teacher_directory)
    jax.tree.map(np.testing.assert_array_equal, unreplicate(teacher), given)
    names = jax.tree_util.keystr(tuple(
        k for path, _ in jax.tree_util.tree_leaves_with_path(final_state(str(tmp_path)))
        for k in path))
    assert 'torgb' in names and 'affine' not in names and 'mapping' not in names


def g_step_flops(models, settings, teacher, state, batch, variables):
    step = steps_lib.make_steps(models, settings, teacher).g
    return step.lower(state, batch, variables).compile().cost_analysis()['flops']


def test_teacher_gets_no_gradient_and_costs_one_forward_pass(teacher_directory):
    config = tiny_config(1)
    settings = steps_lib.Settings(distillation_min_resolution=8)
    models = state_lib.build_models(config)
    teacher, variables = state_lib.load_teacher(teacher_directory, 16, 'float32')
    state = state_lib.init_state(models, 16, jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3), minval=-1)
    mask = (jax.random.uniform(jax.random.key(2), (4, 16, 16, 1)) > 0.5)
    batch = {'image': image, 'mask': mask.astype(jnp.float32)}
    arguments = [replicate(tree, jax.devices()[:1])
                 for tree in (state, batch, variables)]

    def through_step(teacher_variables, state, batch):
        gradients, metrics, _ = steps_lib.g_gradients(
            models, settings, teacher, state, batch, teacher_variables)
        return metrics['g_loss']

    gradient = jax.pmap(jax.grad(through_step), AXIS)(
        arguments[2], arguments[0], arguments[1])
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))

    with_teacher = g_step_flops(models, settings, teacher, *arguments)
    without = g_step_flops(models, settings, None, *arguments[:2], None)
    x = model_io.model_input(batch['image'], batch['mask'])
    forward = jax.jit(teacher).lower(
        variables, x, jax.random.key(0)).compile().cost_analysis()['flops']
    assert with_teacher - without == pytest.approx(forward, rel=0.05)


def test_teacher_of_another_resolution_or_kind_is_refused(
        teacher_directory, tmp_path):
    config = tiny_config(1)
    config.loss.distillation_weight = 2.0
    config.teacher.checkpoint = teacher_directory
    config.model.resolution = 32
    workdir = tmp_path / 'run'
    with pytest.raises(checkpoint_lib.CheckpointError) as error:
        loop.train(config, str(workdir))
    assert 'paints 16 x 16, this config trains 32 x 32' in str(error.value)
    student = tiny_config(1)
    checkpoint_lib.save_deployed(str(tmp_path / 'migan'), student, random_deployed(student))
    config.teacher.checkpoint = str(tmp_path / 'migan')
    with pytest.raises(checkpoint_lib.CheckpointError, match='migan holds a MI-GAN'):
        loop.train(config, str(workdir))
    config.teacher.checkpoint = str(tmp_path / 'nothing')
    with pytest.raises(checkpoint_lib.CheckpointError, match='no config.json'):
        loop.train(config, str(workdir))
    assert not workdir.exists()


def test_path_length_of_migan_is_refused(tmp_path):
    config = tiny_config(1)
    config.loss.path_length_weight = 2.0
    with pytest.raises(ValueError, match='MI-GAN has no latent'):
        loop.train(config, str(tmp_path / 'run'))


# --- published weights --------------------------------------------------------


def test_full_size_teacher_from_a_torch_state_dict(tmp_path):
    """80 M drawn numbers under the published names, through the tool, painting."""
    torch = pytest.importorskip('torch')
    table = torch_map.comodgan_table(256)
    full = default.get_config()
    full.model.kind = 'comodgan'
    shapes = torch_map.torch_shapes(build.abstract_variables(full, fused=True), table)
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in shapes.items():
        # As at the start of training: unit kernels, no bias but the styles' of one.
        array = rng.standard_normal(shape, np.float32)
        if name.endswith('bias'):
            array = array * 0 + name.endswith('affine.bias')
        if name.startswith('mapping.fc') and name.endswith('weight'):
            array = array * 100
        state[name] = torch.from_numpy(np.asarray(array, np.float32))
    torch.save(state, tmp_path / 'comodgan_256.pt')
    subprocess.run(
        [sys.executable, os.path.join(ROOT, 'tools', 'from_torch.py'), '--kind=comodgan',
         '--resolution=256', f'--checkpoint={tmp_path}/comodgan_256.pt',
         f'--out={tmp_path}/teacher'], check=True, cwd=tmp_path)
    teacher, variables = state_lib.load_teacher(f'{tmp_path}/teacher', 256, 'float32')
    assert sum(x.size for x in jax.tree.leaves(variables['params'])) == 79_177_378
    back = torch_map.to_torch(variables, table)
    for name in ('encoder.b256.fromrgb.weight', 'synthesis.b4.fc.weight',
                 'synthesis.b256.torgb.affine.bias', 'mapping.w_avg'):
        np.testing.assert_array_equal(back[name], state[name].numpy())
    x = jax.random.normal(jax.random.key(0), (1, 256, 256, 4))
    rgbs = jax.jit(teacher)(variables, x, jax.random.key(1))
    assert rgbs[256].shape == (1, 256, 256, 3)
    assert all(0.1 < np.std(rgb) < 10 for rgb in rgbs.values())
